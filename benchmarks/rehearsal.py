"""Training rehearsed on a log: what a policy would come to that can only choose among the logged rollouts of each problem.

It takes rollout i of a problem with a probability proportional to exp(theta . phi_i). phi says what the rollout's tokens are:
log(1 + how often each token occurs), less the problem's mean, in its FEATURES main directions, each of variance 1. So what is
learned on one problem holds for all ("Wait" less often, longer lines), as in a model. Each step draws groups from this policy,
the configuration's own reward and advantage score them, state and all, and Adam moves theta along the policy gradient.

An arrow (`predicted_step`) says where a run sets out; a rehearsal also says where it comes to rest, and what is given up on the
way, as long as the log has such rollouts. It cannot know what no rollout shows: that lines become more reliable, or answers
shorter than all that were logged. How well it foretells real runs: `benchmarks/results/predicted.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from benchmarks.metrics import aes
from benchmarks.predicted_step import one_each
from benchmarks.replay import Replayer
from benchmarks.replay_plan import Configuration
from benchmarks.sweep_predict import Log, Prediction
from rewards.batch import Batch, Floats, Ints
from rewards.errors import TautError
from rollout.log import LoggedStep

FEATURES = 8
COMMON = 512  # tokens that features look at: those that occur in most rollouts
# How far a step moves the preference for a feature, for each of its standard deviations. With 0.2 the penalty c(1 - l/L) on the
# embedded benchmark is half way to its end after four to five steps, as when it is trained.
RATE = 0.2
BETAS = (0.9, 0.99)  # as the embedded recipe's optimiser


@dataclass(frozen=True)
class Course:
    """steps; prompts and samples of each; repeats: rehearsals with other draws."""

    steps: int
    prompts: int
    samples: int
    repeats: int = 4


class Rehearsal:
    """A log made ready. Raises TautError where it has no token ids, or no problem with two different rollouts."""

    def __init__(self, log: Log, features: int = FEATURES) -> None:
        batches = [s.batch.take(s.batch.known) for _, s, _ in log.steps]
        self._batch = _joined(batches)
        if self._batch.tokens is None:
            raise TautError(
                f"{log.path}: has no token ids, which say how rollouts differ; log them, or text, and name its tokenizer "
                "(tokenizer=FOLDER)"
            )
        problem = self._batch.group
        self._rows = [np.flatnonzero(problem == p) for p in range(int(problem.max(initial=-1)) + 1)]
        width = max(map(len, self._rows))
        index = np.array([np.pad(rows, (0, width - len(rows)), constant_values=-1) for rows in self._rows])
        self._there = index >= 0
        phi = _features(self._batch.tokens, problem, features)
        if not phi.size:
            raise TautError(f"{log.path}: all rollouts of a problem are alike; log several samples a problem")
        self._phi = np.where(self._there[:, :, None], phi[index], 0.0)  # (P, M, F)
        self._correct, self._length = (
            np.where(self._there, of[index], 0.0) for of in (self._batch.correct, self._batch.length)
        )

    def __call__(self, configuration: Configuration, course: Course, rate: float = RATE) -> Floats:
        """(repeats, steps + 1, 2): the policy's (accuracy, tokens) over the log's problems before each step, and after the last.

        Raises TautError for a column that the log lacks.
        """
        return np.stack([self._once(configuration, course, rate, draw) for draw in range(course.repeats)])

    def _once(self, configuration: Configuration, course: Course, rate: float, draw: int) -> Floats:
        rng, replayer = np.random.default_rng(draw), Replayer(configuration)
        theta, mean, square = np.zeros((3, self._phi.shape[2]))
        found, waiting = [], list[int]()
        longest = int(self._batch.max_tokens.max())
        for step in range(course.steps):
            weight = self._weights(theta)
            found.append(self._ends(weight))
            chosen = _chosen(waiting, len(self._rows), course.prompts, rng)
            at = np.stack([rng.choice(weight.shape[1], course.samples, p=weight[p]) for p in chosen])
            batch = self._batch.take(np.concatenate([self._rows[p][i] for p, i in zip(chosen, at, strict=True)]))
            batch = replace(batch, sample_id=np.arange(len(batch)))  # one rollout may be drawn twice
            progress = {"step": step, "total_steps": course.steps, "max_length": longest, "seed": draw}
            _, advantage = replayer.score(f"step {step}", LoggedStep({"progress": progress}, batch, {}))
            usual = np.einsum("pm,pmf->pf", weight[chosen], self._phi[chosen])
            away = self._phi[chosen[:, None], at] - usual[:, None]
            gradient = np.einsum("ps,psf->f", one_each(advantage, batch).reshape(at.shape), away) / at.size
            mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
            square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
            sizes = np.sqrt(square / (1 - BETAS[1] ** (step + 1))) + 1e-8
            theta = theta + rate * mean / (1 - BETAS[0] ** (step + 1)) / sizes
        return np.array([*found, self._ends(self._weights(theta))])

    def _weights(self, theta: Floats) -> Floats:
        """(P, M): how often the policy takes each rollout of a problem."""
        score = np.where(self._there, self._phi @ theta, -np.inf)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True)

    def _ends(self, weight: Floats) -> tuple[float, float]:
        return float((weight * self._correct).sum(1).mean()), float((weight * self._length).sum(1).mean())


def foretold(courses: Floats) -> Prediction:
    """The change from start to end of (repeats, steps + 1, 2), a mean over rehearsals, and its AES."""
    (accuracy, tokens), (last_accuracy, last_tokens) = courses.mean(axis=0)[[0, -1]]
    score = aes(last_accuracy, last_tokens, accuracy, tokens, "o1-pruner")
    return Prediction(float(last_accuracy - accuracy), float(last_tokens - tokens), float(score))


def _chosen(waiting: list[int], problems: int, prompts: int, rng: np.random.Generator) -> Ints:
    """The problems of the next step, none twice; all wait until the others have been there."""
    if len(waiting) < min(prompts, problems):
        again = rng.permutation(problems).tolist()
        waiting[:0] = sorted(again, key=lambda p: p not in waiting)  # those that still wait come last
    return np.array([waiting.pop() for _ in range(min(prompts, problems))])


def _joined(batches: Sequence[Batch]) -> Batch:
    """All rollouts as one batch, a group a problem; columns that some steps lack are left out."""
    columns: dict[str, Any] = {}
    for field in fields(Batch):
        parts = [getattr(b, field.name) for b in batches]
        if field.init and all(p is not None for p in parts):
            columns[field.name] = np.concatenate(parts)
    codes: dict[Any, int] = {}
    columns["group"] = np.array([codes.setdefault(p, len(codes)) for p in columns["problem_id"]], dtype=np.int64)
    columns["sample_id"] = np.arange(len(columns["group"]))
    return Batch(**columns)


def _features(tokens: Any, problem: Ints, features: int) -> Floats:
    """(N, F): how the tokens of each rollout differ from those of its problem's others."""
    counted = [np.unique(np.asarray(ids), return_counts=True) for ids in tokens]
    used, rollouts = np.unique(np.concatenate([ids for ids, _ in counted]), return_counts=True)
    some = used[np.argsort(-rollouts, kind="stable")][:COMMON]
    some.sort()
    counts = np.zeros((len(tokens), len(some)))
    for row, (ids, count) in enumerate(counted):
        kept = np.isin(ids, some)
        counts[row, np.searchsorted(some, ids[kept])] = np.log1p(count[kept])
    sums = np.zeros((int(problem.max()) + 1, len(some)))
    np.add.at(sums, problem, counts)
    away = counts - (sums / np.bincount(problem)[:, None])[problem]
    left, sizes, _ = np.linalg.svd(away, full_matrices=False)
    real = sizes > 1e-9 * max(float(sizes.max(initial=0.0)), 1e-300)
    return (
        left[:, real][:, :features] * np.sqrt(len(tokens)) if sizes.max(initial=0.0) > 0 else np.zeros((len(tokens), 0))
    )
