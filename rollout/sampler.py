"""Requests in, judged rollouts out: the one path that training, monitoring, held-out tests and `taut eval` share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from rewards.batch import Batch, Verdict
from rewards.errors import TautError
from rewards.verifier import Judgement, Verifier
from rollout.engine import Done, Engine, Enough
from rollout.prompts import PromptTemplate, thinking_open
from rollout.ragged import flat
from rollout.seeds import seeds_of
from rollout.types import Completion, Problem, Prompt, Request, Rollout


@dataclass
class Sampler:
    """An engine, a template and a verifier. `seed` is the run's: with a request's origin and sample id it decides every draw."""

    engine: Engine
    template: PromptTemplate
    verifier: Verifier
    stop_ids: Sequence[int]
    seed: int
    _begun: dict[int, tuple[Rollout, Judgement | Future[Judgement]]] = field(
        default_factory=dict
    )  # by the rollout's identity

    def sample(
        self, requests: Sequence[Request], temperature: float | None = None, wanted: int | None = None
    ) -> list[Rollout]:
        """One rollout a request, in order; `judge` them next. The verifier begins with each as soon as the engine gives it.

        wanted: as soon as so many groups are whole the others are given up; the rollouts are those of the first that were whole.
        """
        tokenizer = self.template.tokenizer
        texts = dict.fromkeys(text for r in requests for text in (r.prompt, r.train_prompt) if text)
        encoded = self.template.encode_all(list(texts))
        seeds: dict[str, dict[int, int]] = {}  # by origin and sample id
        for origin in {r.origin for r in requests}:
            numbers = [r.sample_id for r in requests if r.origin == origin]
            seeds[origin] = dict(zip(numbers, seeds_of(self.seed, origin, numbers), strict=True))
        prefixes = {p: tuple(tokenizer.encode(p, add_special_tokens=False)) for p in {r.prefix for r in requests} if p}
        prompts = []
        for r in requests:
            prefix = prefixes.get(r.prefix, ())
            if len(prefix) >= r.max_tokens:
                raise TautError(
                    f"sampling: mode {r.mode!r} begins with {r.prefix!r}, {len(prefix)} tokens, but its cap is {r.max_tokens}; "
                    "raise the cap or shorten the prefix"
                )
            ids = encoded[r.prompt] + prefix
            prompts.append(Prompt(ids, r.max_tokens - len(prefix), seeds[r.origin][r.sample_id]))
        rollouts: dict[int, Rollout] = {}
        lacking, whole = Counter(r.group for r in requests), list[int]()  # rollouts by group; groups as they ended
        self._begun.clear()

        def ended(done: Done) -> None:
            for i, completion in done:
                r = requests[i]
                prompt_ids, prefix = encoded[r.train_prompt or r.prompt], prefixes.get(r.prefix, ())
                rollouts[i] = self._rollout(r, prompt_ids, prefix, completion)
                lacking[r.group] -= 1
                if not lacking[r.group]:
                    whole.append(r.group)
            for i, _ in done if self.verifier else ():  # without one a sampler only samples
                self._begun[id(rollouts[i])] = rollouts[i], begin(self.verifier, rollouts[i])

        self.engine.on_done = ended
        if wanted is not None:
            self.engine.enough = lambda: len(whole) >= wanted
        try:
            completions = self.engine.generate(prompts, temperature)
            given = enumerate(zip(requests, completions, strict=True))
            ended([(i, completion) for i, (_, completion) in given if i not in rollouts])  # it need not tell of each
        except Enough:  # of what had ended by then it has told
            pass
        finally:
            self.engine.on_done = self.engine.enough = None
        kept = set(whole[:wanted])
        return [rollouts[i] for i, r in enumerate(requests) if r.group in kept]

    def _rollout(
        self, request: Request, prompt_ids: tuple[int, ...], prefix: tuple[int, ...], completion: Completion
    ) -> Rollout:
        ids = prefix + completion.token_ids
        shown = ids[:-1] if completion.finish_reason == "stop" and ids[-1] in self.stop_ids else ids
        return Rollout(
            request=request,
            prompt_ids=prompt_ids,
            token_ids=ids,
            log_probs=(float("nan"),) * len(prefix) + completion.log_probs,
            finish_reason=completion.finish_reason,
            versions=completion.versions[:1] * len(prefix) + completion.versions,
            text=self.template.decode(shown),
            forced=len(prefix),
            mode=request.mode,
        )

    def judge(self, rollouts: Sequence[Rollout]) -> None:
        """Fill in verdict, reason, answer and format of each rollout, begun by `sample` or not."""
        begun = [self._begun.pop(id(r), (r, None))[1] or begin(self.verifier, r) for r in rollouts]
        for rollout, found in zip(rollouts, begun, strict=True):
            settle(rollout, found)

    def __call__(self, requests: Sequence[Request], temperature: float | None = None) -> list[Rollout]:
        """Sample, then judge."""
        rollouts = self.sample(requests, temperature)
        self.judge(rollouts)
        return rollouts


def begin(verifier: Verifier, rollout: Rollout) -> Judgement | Future[Judgement]:
    """The verdict on a rollout; a future where a process has to decide."""
    problem = rollout.request.problem
    return verifier.begin(problem.answer, rollout.text, rollout.finish_reason, thinking_open(rollout.request.prompt))


def settle(rollout: Rollout, found: Judgement | Future[Judgement]) -> None:
    """Fill in verdict, reason, answer, format and tags; waits for a verdict that is to come."""
    judgement = found if isinstance(found, Judgement) else found.result()
    opened = "<think>" if thinking_open(rollout.request.prompt) else ""
    rollout.tags = well_formed(opened + rollout.text)
    rollout.verdict, rollout.reason = Verdict(judgement.verdict), judgement.reason
    rollout.answer, rollout.format_ok = judgement.answer, judgement.format_ok


def well_formed(text: str, names: Sequence[str] = ("think", "answer")) -> frozenset[str]:
    """The tags of `names` that open once and close once, in that order, none inside another."""
    spans = {}
    for name in names:
        opening, closing = f"<{name}>", f"</{name}>"
        span = text.find(opening), text.find(closing)
        if 0 <= span[0] < span[1] and (text.rfind(opening), text.rfind(closing)) == span:
            spans[name] = span
    apart = [n for n, a in spans.items() if all(a[1] < b[0] or b[1] < a[0] for m, b in spans.items() if m != n)]
    return frozenset(apart)


def heldout_requests(
    problems: Sequence[Problem], template: PromptTemplate, samples: int, max_tokens: int, budget: int | None = None
) -> list[Request]:
    """`samples` requests a problem with origin "validation"; sample ids depend on the problem's place alone, so that
    every policy is tested with the same draws (paired comparisons)."""
    return [
        Request(p, g, g * samples + k, prompt, max_tokens, budget=budget, origin="validation")
        for g, p in enumerate(problems)
        for prompt in [template.render(p, budget)]
        for k in range(samples)
    ]


def _arrays(rows: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """An array a row, all parts of one."""
    values, ends = flat(rows, np.int64)
    return [values[start:end] for start, end in pairwise(ends.tolist())]


def to_batch(rollouts: Sequence[Rollout], **columns: Any) -> Batch:
    """The batch of these rollouts; `columns` adds what was measured elsewhere (entropies, reference statistics)."""
    requests = [r.request for r in rollouts]
    budgets = [r.budget for r in requests]
    known: dict[str, Any] = {
        "reference_accuracy": [p.problem.extra.get("reference_accuracy") for p in requests],
        "reference_length": [p.problem.extra.get("reference_length") for p in requests],
    }
    extra = {
        name: np.array(values, dtype=float)
        for name, values in known.items()
        if all(isinstance(v, int | float) for v in values)  # text is some other column of that name
    }
    return Batch(
        group=[r.group for r in requests],
        length=[len(r.token_ids) for r in rollouts],
        verdict=[r.verdict for r in rollouts],
        problem_id=[r.problem.id for r in requests],
        sample_id=[r.sample_id for r in requests],
        truncated=[r.finish_reason == "length" for r in rollouts],
        max_tokens=[r.max_tokens for r in requests],
        origin=[r.origin for r in requests],
        format_ok=[r.format_ok for r in rollouts],
        mode=[r.mode for r in rollouts],
        tags=[r.tags for r in rollouts],
        budget=None if None in budgets else budgets,
        tokens=_arrays([r.token_ids for r in rollouts]),
        **(extra | columns),
    )
