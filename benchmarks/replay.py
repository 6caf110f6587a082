"""What would another reward have done: whole groups of a log rescored under many configurations, before a GPU is used.

taut replay runs/train                                       # the run's own configuration: is it replayed bit for bit?
taut replay runs/base reward="{type: laser, target: 60}" advantage=dr_grpo
taut replay eval.parquet recipe=laser recipe=alp reward.target=60 --out replay
taut replay LOG configs=what_if.yaml steps=40                # and where 40 steps would lead, rehearsed on the log
taut replay LOG... configs=what_if.yaml kl=0.05              # a list and grids:
    plain: {reward: correct}
    short: {recipe: laser, reward.target: 60}
    laser: {recipe: laser, grid: {reward.target: [40, 60, 80], advantage: [grpo, dr_grpo]}}
taut replay rollouts.jsonl columns.correct=acc tokenizer=FOLDER cap=4096 configs=what_if.yaml

LOG is a run folder, its rollouts/, a parquet of `taut eval`, verl's rollout folder, TRL's completions folder, or JSON lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.predicted_step import SUMS, Groups, ProblemSums, group_sums, one_each
from benchmarks.replay_log import (
    check_groups,
    check_model,
    difference,
    logged_configuration,
    logged_nodes,
    progress_of,
)
from benchmarks.replay_plan import AS_LOGGED, Configuration, Settings, parse
from rewards.base import Reward, Scores
from rewards.batch import Batch, Floats
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.registry import dump
from rewards.verifier import Verifier
from rollout.foreign import Foreign
from rollout.foreign_logs import read_log
from rollout.log import LIST_OF, LoggedStep
from trainers.monitor import zero_signal

REMEDIES = {
    "tokens": "log token ids",
    "format_ok": "set format: false, or log it",
    "budget": "log rollouts of a plan that tells a budget",
    "mode": "log rollouts of a plan with modes",
    "reference_accuracy": "log a run with reference=FILE",
    "reference_length": "log a run with reference=FILE",
}


@dataclass
class Replayer:
    """One configuration moving through a log: its reward's state, and what the steps add up to."""

    configuration: Configuration
    sums: ProblemSums | None = None
    terms: list[str] = field(default_factory=list)
    advantages: list[Floats] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: str = ""
    differs: str = ""
    checked: int = 0
    _reward: Reward = None  # type: ignore[assignment]
    _next: int | None = None

    def warn(self, text: str) -> None:
        """Keep a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def restart(self) -> None:
        """A new log: the reward's state is that of its first step."""
        self._reward, self._next = deepcopy(self.configuration.reward), None

    def score(self, place: str, step: LoggedStep) -> tuple[Scores, Floats]:
        """Scores and advantage of a step exactly as a trainer would have had them; then the state moves on.

        Raises TautError naming configuration, node, column and remedy for what the log lacks.
        """
        if self._reward is None:
            self.restart()
        batch, progress, reward, c = step.batch, progress_of(step), self._reward, self.configuration
        self._refuse_lacking(place, batch)
        first = self._next is None
        if first or ("progress" in step.meta and self._next != progress.step):
            if not first:
                self.warn(
                    f"{place}: step {progress.step} does not follow the step before it; steps between are not in the log"
                )
            self._begin(place, step, progress)
        self._watch(place, step, progress, first)
        scores = reward.score(batch, progress)
        if c.drop_zero_signal:
            scores = Scores(scores.total, scores.terms, scores.keep & ~zero_signal(batch)[batch.group_index])
        advantage = c.advantage(batch, scores, progress)
        reward.observe(batch, progress)
        self._next = progress.step + 1
        return scores, advantage

    def _refuse_lacking(self, place: str, batch: Batch) -> None:
        c = self.configuration
        readers = [(f"reward {path}", node.own_needs) for path, node in c.reward.walk()]
        readers.append((f"advantage {c.advantage.type}", c.advantage.needs))
        for who, needs in readers:
            for column in sorted(needs):
                if getattr(batch, column) is None:
                    entropy = "log a run whose reward or advantage reads it: only the model can measure it"
                    raise TautError(
                        f"{place}: configuration {c.name!r}: {who} needs the column {column!r}, which this log lacks; "
                        f"{REMEDIES.get(column, entropy)}, or replay another configuration"
                    )

    def _begin(self, place: str, step: LoggedStep, progress: Progress) -> None:
        """The state before the first step read: fresh at a run's start, else the logged one where the nodes match."""
        if progress.step == 0 or "state" not in step.meta or not self._reward.state_dict():
            return
        kept = deepcopy(self._reward)
        try:
            self._reward.load_state_dict(step.meta["state"]["reward"])
        except TautError as error:
            self._reward = kept
            self.warn(f"{place}: step {progress.step} is replayed without the state of the steps before it ({error})")

    def _watch(self, place: str, step: LoggedStep, progress: Progress, first: bool) -> None:
        """What a reward samples beside training is not in the log. Its state is, where the same node was in the run; else the
        step's own rollouts stand in for what would have been sampled."""
        watching = [(path, node) for path, node in self._reward.walk() if node.state_version and node.monitor()]
        logged = dict(logged_nodes(step)) if watching else {}
        for path, node in watching:
            wanted = node.monitor()
            assert wanted is not None
            if logged.get(path, (None, None))[0] == dump(node):
                node.load_state_dict({"(self)": logged[path][1]})
            elif first or progress.step % wanted.every == 0:
                self.warn(f"reward {path}: what it monitors is not in the log; the step's own rollouts stand in for it")
                batch = step.batch
                node.observe(replace(batch, origin=np.array(["monitor"] * len(batch), dtype=object)), progress)

    def add(self, place: str, step: LoggedStep, problem: Any) -> None:
        """Score a step and add it to the sums; compared with what was logged where this is the run's own configuration."""
        try:
            scores, advantage = self.score(place, step)
        except TautError as error:
            self.refused = str(error)
            return
        batch, known = step.batch, step.batch.known
        if self.configuration.name == AS_LOGGED and "advantage" in step.columns:
            self.checked += len(batch)
            self.differs = self.differs or difference(place, step, scores, advantage)
        per_rollout = one_each(advantage, batch)
        if not known.all():
            batch, per_rollout = batch.take(known), per_rollout[known]
            scores = Scores(scores.total[known], {k: v[known] for k, v in scores.terms.items()}, scores.keep[known])
        values = group_sums(batch, scores, per_rollout)
        if self.sums is None:
            self.terms, self.sums = list(scores.terms), ProblemSums(len(SUMS) + 2 * len(scores.terms))
        paid = [batch.group_sum(scores.terms[t], on) for t in self.terms for on in (batch.correct, ~batch.correct)]
        self.sums.add(problem, np.column_stack([values, *paid]))
        self.advantages.append(per_rollout[batch.order])


@dataclass
class Replay:
    """All configurations over all logs."""

    replayers: list[Replayer]
    groups: Groups
    rollouts: int
    unknown: int
    notes: list[str]


def replay(
    logs: Sequence[Path], wanted: list[Configuration], foreign: Foreign, say: Callable[[str], None] = print
) -> Replay:
    """Rescore every step of the logs, each log from its own beginning. Raises TautError for logs without any group."""
    foreign.wanted = lambda meta: frozenset(LIST_OF).intersection(_needs(wanted, meta))
    problems: dict[str, int] = {}
    parts: list[tuple[Any, ...]] = []
    rollouts = unknown = 0
    replayers = [Replayer(c) for c in wanted]
    own: Configuration | None = None
    models: dict[str, Path] = {}
    for log in logs:
        for replayer in replayers:
            replayer.restart()
        for place, step in read_log(log, foreign):
            batch = step.batch
            check_groups(place, batch, foreign)
            check_model(place, step, models, log)
            if "config" in step.meta and "advantage" in step.columns:
                here = logged_configuration(step.meta)
                if own is None and not rollouts:
                    own = here
                    replayers.insert(0, Replayer(own))
                elif own is not None and here != own:
                    foreign.note(
                        f"{place}: of another configuration than the logs before it; {AS_LOGGED!r} is that of the first"
                    )
            kept = batch if batch.known.all() else batch.take(batch.known)
            ids = kept.first(kept.problem_id) if len(kept) else []
            problem = np.array([problems.setdefault(p, len(problems)) for p in ids], dtype=np.int64)
            for replayer in replayers:
                if not replayer.refused:
                    replayer.add(place, step, problem)
            parts.append(
                (kept.group_size, kept.correct[kept.order], kept.length[kept.order].astype(np.float64), problem)
            )
            rollouts, unknown = rollouts + len(batch), unknown + len(batch) - len(kept)
        say(f"{log}: read")
    size, correct, length, problem = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(size) or size.max() < 2:
        raise TautError(
            f"{logs[0]}: no problem has two rollouts with a verdict; a what-if compares rollouts of one problem"
        )
    if unknown:
        foreign.note(f"{unknown} of {rollouts} rollouts have no verdict and are left out")
    return Replay(replayers, Groups(np.cumsum(size) - size, correct, length, problem), rollouts, unknown, foreign.notes)


def _needs(wanted: Sequence[Configuration], meta: Mapping[str, Any]) -> frozenset[str]:
    """The columns that a step's configurations read: those asked for, and its run's own."""
    own = [logged_configuration(meta)] if "config" in meta and "progress" in meta else []
    return frozenset().union(*(c.reward.needs | c.advantage.needs for c in (*wanted, *own)))


def main(argv: Sequence[str] | None = None) -> int:
    """`taut replay LOG... [key=value ...] [--out DIR]`: rescore, rank, draw."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or "-h" in arguments or "--help" in arguments:
        fields = Settings.model_fields.items()
        print(__doc__, *(f"  {k:<10} {f.description} (default: {f.default})" for k, f in fields), sep="\n")
        return 0
    from benchmarks.replay_rehearsed import rehearse
    from benchmarks.replay_report import write_report

    asked = parse(arguments)
    s = asked.settings
    judge = Verifier(extraction=s.extraction) if s.extraction else None
    try:
        result = replay(asked.logs, asked.configurations, Foreign(s.columns, s.tokenizer, s.cap, s.where, judge=judge))
        wanted = [r.configuration for r in result.replayers]
        courses, refused = rehearse(asked, wanted, judge) if s.steps else ({}, {})
    finally:
        if judge:
            judge.close()
    result.notes += [f"not rehearsed: {name}: {why}" for name, why in refused.items()]
    return write_report(result, s, courses)


if __name__ == "__main__":  # `taut replay` is the command; this says how fast it is
    from benchmarks.replay_speed import main as speed

    sys.exit(speed())
