"""What a log says of configurations before any of them is trained: their predicted slopes, and which of them are worth it.

`first: {replay: LOG, keep: 6}` in a sweep file trains those alone that lie best by non-dominated sorting of the predicted
arrows; `taut search` looks for configurations on the front of the arrows. A log is read once, however many are asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.collect import PLAIN_OBJECTIVES
from benchmarks.metrics import dominated
from benchmarks.predicted_step import STATISTICS, SUMS
from benchmarks.replay import Replayer
from benchmarks.replay_log import check_groups, check_model
from benchmarks.replay_plan import PIECES, Configuration
from rewards.batch import Ints
from rewards.errors import TautError
from rollout.foreign_logs import Foreign, read_log
from rollout.log import LIST_OF, LoggedStep
from rollout.paths import locate
from trainers.config import TrainConfig
from trainers.settings import resolve, to_mapping

KL = 0.02  # nats a response, of the arrows that are shown: as in `taut replay`


class First(BaseModel):
    """`first:` of a sweep file. What it says of the log is as in `taut replay`."""

    model_config = ConfigDict(extra="forbid")

    replay: str = Field(
        description="a log as `taut replay` takes it, such as the parquet of `taut eval` of the base model"
    )
    keep: int | float = Field(gt=0, description="how many configurations are trained; below 1, which share of them")
    columns: dict[str, str] = {}
    where: dict[str, Any] = {}
    tokenizer: str | None = None
    cap: int | None = Field(None, ge=1)

    def log(self) -> Log:
        """Read it."""
        return Log(locate(self.replay), Foreign(self.columns, self.tokenizer, self.cap, self.where))


@dataclass(frozen=True)
class Prediction:
    """Slopes a unit of sqrt(KL) of accuracy and tokens, and their AES (`predicted_step`); NaN without any signal. why: the reason
    that there is no prediction, "" where there is one."""

    accuracy: float = math.nan
    tokens: float = math.nan
    score: float = math.nan
    why: str = ""

    @property
    def point(self) -> tuple[float, float]:
        """(accuracy, tokens), the least of both worlds where no group has any signal."""
        return (-math.inf, math.inf) if math.isnan(self.score) else (self.accuracy, self.tokens)


class Log:
    """A log held in memory. Raises TautError when no problem in it has two rollouts with a verdict."""

    def __init__(self, path: Path, foreign: Foreign) -> None:
        codes: dict[str, int] = {}
        self.path = path
        self.steps: list[tuple[str, LoggedStep, Ints]] = []
        self.repeats, largest = False, 0
        models: dict[str, Path] = {}
        foreign.wanted = lambda meta: frozenset(LIST_OF)  # nobody knows yet what the configurations will read
        for place, step in read_log(path, foreign):
            check_groups(place, step.batch, foreign)
            check_model(place, step, models, path)
            kept = step.batch if step.batch.known.all() else step.batch.take(step.batch.known)
            ids = list(kept.first(kept.problem_id)) if len(kept) else []
            self.repeats |= any(id in codes for id in ids)
            self.steps.append((place, step, np.array([codes.setdefault(id, len(codes)) for id in ids], dtype=np.int64)))
            largest = max(largest, int(kept.group_size.max(initial=0)))
        if largest < 2:
            raise TautError(f"{path}: no problem has two rollouts with a verdict; log several samples a problem")
        self.problems = len(codes)
        self.rollouts = sum(len(step.batch) for _, step, _ in self.steps)
        self.longest = max(int(step.batch.length.max(initial=0)) for _, step, _ in self.steps)  # response, tokens
        self.notes = foreign.notes

    def replayed(self, configuration: Configuration) -> Replayer:
        """The configuration moved through the log; `refused` says where that was not possible."""
        replayer = Replayer(configuration)
        if not self.repeats and any(node.state_version for _, node in configuration.reward.walk()):
            replayer.refused = "its reward has state, and the log holds each problem once"
            return replayer
        for place, step, problems in self.steps:
            replayer.add(place, step, problems)
            if replayer.refused:
                break
            replayer.advantages.clear()  # only slopes are asked for
        return replayer

    def predict(self, configuration: Configuration) -> Prediction:
        """Its slopes over the whole log, or why there are none."""
        return prediction(self.replayed(configuration))

    def predict_run(self, name: str, config: TrainConfig) -> Prediction:
        """As `predict`, of a training run; without prediction where what makes it different is not in its reward or advantage."""
        why = untold(config, self.longest)
        return Prediction(why=why) if why else self.predict(what_if(name, config))


def prediction(replayer: Replayer) -> Prediction:
    """The slopes of a configuration moved through a log, or why there are none."""
    if replayer.refused or replayer.sums is None:
        return Prediction(why=replayer.refused or "the log has no verdicts")
    totals = replayer.sums.table.sum(axis=0)

    def total(name: str) -> float:
        return totals[SUMS.index(name)]

    accuracy, tokens, score = (float(STATISTICS[n](total)) for n in ("slope_accuracy", "slope_tokens", "score"))
    return Prediction(accuracy, tokens, score)


def what_if(name: str, config: TrainConfig) -> Configuration:
    """What a log can tell of a training configuration: its reward, its advantage and the dropping of groups."""
    values = to_mapping(config)
    return resolve(Configuration, {"name": name, **{key: values[key] for key in PIECES}}, f"run {name!r}")


def untold(config: TrainConfig, longest: int) -> str:
    """Why a log with responses of up to `longest` tokens does not tell what a run would do, "" where it does."""
    if config.objective.type not in PLAIN_OBJECTIVES:
        return f"objective {config.objective.type} weighs rollouts by itself; an arrow is that of the advantages"
    limit = config.sampling.max_tokens
    if not isinstance(limit, int):
        return "sampling.max_tokens changes in training; the log has one cap"
    return f"sampling.max_tokens={limit} cuts responses that the log has whole" if limit < longest else ""


def layers(points: Sequence[tuple[float, float]]) -> list[int]:
    """For each (accuracy, tokens) the front it is on: 0 where no other is as accurate for as few tokens, 1 where that holds once
    those are taken away, and so on."""
    at = np.array(points, dtype=np.float64).reshape(-1, 2)
    found = np.full(len(at), -1)
    while (left := np.flatnonzero(found < 0)).size:
        found[left[~dominated(at[left, 0], at[left, 1])]] = found.max() + 1
    return found.tolist()


@dataclass(frozen=True)
class Choice:
    """Whether a configuration is trained, and why."""

    name: str
    trained: bool
    why: str


def choose(predictions: Mapping[str, Prediction], plain: Sequence[str], keep: int | float) -> list[Choice]:
    """Which configurations are trained: `keep` of those predicted (a share below 1 is rounded up), by the front they are on, on
    one front by the score. Beside them `plain` is, and what could not be predicted; arrows that are equal stand or fall together.
    """
    rivals = [name for name, p in predictions.items() if not p.why and name not in plain]
    front = dict(zip(rivals, layers([predictions[name].point for name in rivals]), strict=True))

    def place(name: str) -> tuple[int, float]:
        score = predictions[name].score
        return front[name], math.inf if math.isnan(score) else -score

    order = sorted(rivals, key=place)
    wanted = min(len(order), math.ceil(keep * len(order)) if keep < 1 else int(keep))
    kept = {predictions[name].point for name in order[:wanted]}
    choices = []
    for name, p in predictions.items():
        if name in plain:
            choices.append(Choice(name, True, "plain is always trained"))
        elif p.why:
            choices.append(Choice(name, True, f"no prediction: {p.why}"))
        else:
            told = f"place {order.index(name) + 1} of {len(order)}, front {front[name] + 1}"
            told += "" if not math.isnan(p.score) else "; no group of the log has any signal under it"
            choices.append(Choice(name, p.point in kept, told))
    return choices
