"""More than one call a problem: votes, refinement in sequence, parallel drafts that are distilled and refined; what each costs.

Two budgets, both in output tokens: sequential, the critical path (of calls that can run side by side the longest counts), and
total, all calls. A chain is what leads to one answer; its calls are numbered by round, and calls of one round run side by side.

- majority, filtered_vote: all samples of a problem vote (one round, one answer a problem; `benchmarks/analyses/length_vote.py`).
- refine: each round sees the problem and the answer of the round before.
- pdr: drafts, a short workspace distilled from them, an answer that sees the problem and the workspace (Parallel-Distill-Refine,
  Madaan et al., arXiv 2510.01123; the prompts and the rule of what is shown of a draft are ours).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from benchmarks.analyses.length_vote import LengthVote, majority
from benchmarks.statistics import Samples
from rewards.batch import Verdict
from rollout.prompts import PromptTemplate
from rollout.types import Problem, Request, Rollout

Name = Literal["majority", "filtered_vote", "refine", "pdr"]
LATER = 40  # bits: sample ids of later rounds lie above all those of the first, so that no two calls share their draws
_PLACE = re.compile(r"\{(problem|previous|drafts|workspace)\}")

REFINE_PROMPT = (
    "{problem}\n\nAn earlier answer to this problem:\n\n{previous}\n\n"
    "Check it, correct what is wrong in it, and answer the problem again."
)
DISTILL_PROMPT = (
    "{problem}\n\nSeveral answers to this problem:\n\n{drafts}\n\n"
    "Write short notes for somebody who will solve it: what the answers agree on, where they contradict each other, which "
    "steps are right and which are wrong, and what has not been tried. Do not solve the problem."
)
WORKSPACE_PROMPT = (
    "{problem}\n\nNotes on earlier answers to this problem:\n\n{workspace}\n\nUse what is right in them, and answer it."
)


def _needs(prompt: str, *names: str) -> str:
    if missing := [name for name in names if f"{{{name}}}" not in prompt]:
        raise ValueError(f"no {{{missing[0]}}} in {prompt!r}; put it where that text belongs")
    return prompt


class Refine(BaseModel):
    """`strategy=refine`: an answer, then `rounds` times an answer that sees the one before."""

    model_config = ConfigDict(extra="forbid")

    rounds: int = Field(default=2, ge=1, description="answers after the first")
    shown: int = Field(default=1024, ge=1, description="tokens of the answer before, its last ones, that a round sees")
    prompt: str = Field(default=REFINE_PROMPT, description="put in the place of the problem; {problem}, {previous}")

    @field_validator("prompt")
    @classmethod
    def _has(cls, prompt: str) -> str:
        return _needs(prompt, "problem", "previous")


class Pdr(BaseModel):
    """`strategy=pdr`: `drafts` answers side by side, a workspace distilled from them, an answer that sees it."""

    model_config = ConfigDict(extra="forbid")

    drafts: int = Field(default=4, ge=1, description="answers side by side")
    rounds: int = Field(
        default=1, ge=1, description="times that drafts are distilled; all but the last give new drafts"
    )
    shown: int = Field(default=1024, ge=1, description="tokens of a draft, its last ones, that the distiller sees")
    workspace: int = Field(default=512, ge=1, description="most tokens of the workspace")
    distill: str = Field(default=DISTILL_PROMPT, description="the whole user message; {problem}, {drafts}")
    prompt: str = Field(default=WORKSPACE_PROMPT, description="put in the place of the problem; {problem}, {workspace}")

    @field_validator("distill")
    @classmethod
    def _distills(cls, prompt: str) -> str:
        return _needs(prompt, "problem", "drafts")

    @field_validator("prompt")
    @classmethod
    def _has(cls, prompt: str) -> str:
        return _needs(prompt, "problem", "workspace")


@dataclass(frozen=True)
class Call:
    """One call: its judged rollout, the chain of its problem, the round in it, and the sample ids of the calls that it read."""

    rollout: Rollout
    chain: int = 0
    round: int = 0
    parents: tuple[int, ...] = ()


Sample = Callable[[Sequence[Request]], list[Rollout]]


def calls(first: Sequence[Request], sample: Sample, template: PromptTemplate, how: Refine | Pdr | None) -> list[Call]:
    """All calls that answer the requests of the first round: that round alone for None, which is no strategy or a vote.

    first: for `refine` each begins a chain; for `pdr` each run of `drafts` does. Rounds are sampled one after the other, each for
    all chains at once. Chains are numbered within a problem.
    """
    width = how.drafts if isinstance(how, Pdr) else 1
    chains = [list(first[i : i + width]) for i in range(0, len(first), width)]
    numbers, seen = [], dict[str, int]()
    for chain in chains:
        numbers.append(seen.get(chain[0].problem.id, 0))
        seen[chain[0].problem.id] = numbers[-1] + 1
    of_chain = [number for number in numbers for _ in range(width)]
    done = [Call(r, c) for r, c in zip(sample(first), of_chain, strict=True)]
    if how is None:
        return done
    asks = _Asks(template)
    latest = [done[i : i + width] for i in range(0, len(done), width)]
    for stage in asks.stages(how):
        requests = [stage(chain[0], before) for chain, before in zip(chains, latest, strict=True)]
        rollouts = iter(sample([r for part in requests for r in part]))
        latest = [
            [Call(next(rollouts), before[0].chain, before[0].round + 1, tuple(map(_sample_id, before))) for _ in part]
            for before, part in zip(latest, requests, strict=True)
        ]
        done += [call for chain in latest for call in chain]
    return done


def _sample_id(call: Call) -> int:
    return call.rollout.request.sample_id


Stage = Callable[
    [Request, Sequence[Call]], list[Request]
]  # (a chain's first request, its last round) -> its next round


class _Asks:
    """The requests of later rounds."""

    def __init__(self, template: PromptTemplate) -> None:
        self.template = template
        self.bare = PromptTemplate(template.tokenizer, "{problem}", template.system)

    def stages(self, how: Refine | Pdr) -> list[Stage]:
        """What each round after the first asks."""
        if isinstance(how, Refine):

            def refine(first: Request, before: Sequence[Call]) -> list[Request]:
                return [self._answer(first, before, how.prompt, 0, previous=self._shown(before[0], how.shown))]

            return [refine] * how.rounds

        def distill(first: Request, before: Sequence[Call]) -> list[Request]:
            texts = [f"Answer {i}:\n{self._shown(draft, how.shown)}" for i, draft in enumerate(before, 1)]
            text = _fill(how.distill, first.problem, drafts="\n\n".join(texts))
            prompt = self.bare.render(replace(first.problem, problem=text))
            return [replace(_numbered(first, before, 0), prompt=prompt, max_tokens=how.workspace, budget=None)]

        def answer(count: int) -> Stage:
            return lambda first, before: [
                self._answer(first, before, how.prompt, i, workspace=self._shown(before[0], how.workspace))
                for i in range(count)
            ]

        drafts = [stage for _ in range(how.rounds - 1) for stage in (distill, answer(how.drafts))]
        return [*drafts, distill, answer(1)]

    def _answer(self, first: Request, before: Sequence[Call], prompt: str, place: int, **texts: str) -> Request:
        problem = replace(first.problem, problem=_fill(prompt, first.problem, **texts))
        return replace(_numbered(first, before, place), prompt=self.template.render(problem, first.budget))

    def _shown(self, call: Call, tokens: int) -> str:
        """What was said after the thinking, or all of it where that did not end; the last `tokens` of it."""
        text = call.rollout.text.rpartition("</think>")[2].strip() or call.rollout.text.strip()
        ids = self.template.tokenizer.encode(text, add_special_tokens=False)
        return text if len(ids) <= tokens else self.template.tokenizer.decode(ids[-tokens:])


def _numbered(first: Request, before: Sequence[Call], place: int) -> Request:
    """A chain's first request in the next round: another group, and a sample id of its own."""
    later = (before[0].round + 1) << LATER
    return replace(first, group=first.group + later, sample_id=first.sample_id + place + later)


def _fill(prompt: str, problem: Problem, **texts: str) -> str:
    """The prompt with its places filled, all at once: a problem that holds {previous} is left alone."""
    values = {"problem": problem.problem, **texts}
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), prompt)


@dataclass(frozen=True)
class Line:
    """What one way of answering gives: one sample an answer, with each of the two budgets as its length."""

    name: str
    sequential: Samples
    total: Samples


def lines(columns: Mapping[str, Sequence[Any]], strategy: str, vote: LengthVote | None = None) -> list[Line]:
    """From a single answer to the strategy's, which stands last.

    columns: problem_id, length, verdict, and where there are any truncated, level, source, answer, chain, round, all (N,).
    A vote counts the known samples of a problem, the correct ones as one answer; it is unknown where none is known, and
    wrong where nobody answered. Its truncation says that every voter was cut.
    """
    rows = {name: list(column) for name, column in columns.items()}
    n = len(rows["problem_id"])
    rounds = rows.get("round") or [0] * n
    if strategy in ("majority", "filtered_vote"):
        found = [_singles(rows, "one sample"), _votes(rows, "majority", None, "problem_id")]
        if strategy == "filtered_vote":
            found.append(_votes(rows, "length-filtered vote", vote, "problem_id"))
        return found
    drafts = {name: [v for v, r in zip(column, rounds, strict=True) if r == 0] for name, column in rows.items()}
    name = "one draft" if strategy == "pdr" else "first answer"
    found = [_singles(drafts, name)]
    if strategy == "pdr":
        found.append(_votes(drafts, "majority of the drafts", None, "problem_id", "chain"))
    step = 2 if strategy == "pdr" else 1  # after each workspace
    last = max(rounds, default=0)
    label = "distilled and refined" if strategy == "pdr" else "refined"
    for turn in range(step, last + 1, step):
        found.append(_ends(rows, rounds, turn, f"{label} {turn // step}×" if last > step else label))
    return found


def _singles(rows: Mapping[str, list[Any]], name: str) -> Line:
    samples = _samples(rows, range(len(rows["problem_id"])))
    return Line(name, samples, samples)


def _samples(rows: Mapping[str, list[Any]], index: Sequence[int], **given: Sequence[Any]) -> Samples:
    names = ("problem_id", "length", "verdict", "truncated", "level", "source", "answer")
    columns = {name: [rows[name][i] for i in index] for name in names if name in rows} | given
    return Samples(**{name: np.array(column, dtype=object) for name, column in columns.items()})


def _by(rows: Mapping[str, list[Any]], *names: str) -> dict[tuple[Any, ...], list[int]]:
    """Positions of the rows that agree in these columns."""
    n = len(rows["problem_id"])
    found: dict[tuple[Any, ...], list[int]] = {}
    for i, key in enumerate(zip(*(rows.get(name) or [0] * n for name in names), strict=True)):
        found.setdefault(key, []).append(i)
    return found


def _votes(rows: Mapping[str, list[Any]], name: str, vote: LengthVote | None, *voters: str) -> Line:
    """One answer for the rows that agree in the columns `voters`."""
    groups = list(_by(rows, *voters).values())
    verdicts, answers = [], []
    texts = rows.get("answer") or [""] * len(rows["problem_id"])
    for group in groups:
        known = [i for i in group if rows["verdict"][i] in (Verdict.WRONG, Verdict.CORRECT)]
        right = next(((texts[i] or "").strip() for i in known if rows["verdict"][i] == Verdict.CORRECT), None)
        said = [right if rows["verdict"][i] == Verdict.CORRECT else (texts[i] or "").strip() for i in known]
        lengths = [rows["length"][i] for i in known]
        won = (
            vote.compute(said, lengths)
            if vote
            else majority([(a, float(x)) for a, x in zip(said, lengths, strict=True) if a])
        )
        verdicts.append(Verdict.UNKNOWN if not known else Verdict(int(won is not None and won == right)))
        answers.append(won or "")
    firsts = [group[0] for group in groups]
    cut = rows.get("truncated") or [False] * len(texts)
    given = {"verdict": verdicts, "answer": answers, "truncated": [all(cut[i] for i in group) for group in groups]}
    longest = [max(rows["length"][i] for i in group) for group in groups]
    everything = [sum(rows["length"][i] for i in group) for group in groups]
    return Line(
        name, _samples(rows, firsts, **given, length=longest), _samples(rows, firsts, **given, length=everything)
    )


def _ends(rows: Mapping[str, list[Any]], rounds: Sequence[int], turn: int, name: str) -> Line:
    """The answers of round `turn`, each at the cost of its chain up to there and of itself alone in its round."""
    last, longest, everything = [], [], []
    for group in _by(rows, "problem_id", "chain").values():
        before: dict[int, list[int]] = {}
        for i in group:
            if rounds[i] < turn:
                before.setdefault(rounds[i], []).append(rows["length"][i])
        for i in (i for i in group if rounds[i] == turn):
            last.append(i)
            longest.append(rows["length"][i] + sum(max(part) for part in before.values()))
            everything.append(rows["length"][i] + sum(sum(part) for part in before.values()))
    return Line(name, _samples(rows, last, length=longest), _samples(rows, last, length=everything))
