"""Length-controlled win rate (Dubois et al., 2404.04475; AlpacaEval 2): how often a model would win were answers equally long.

python -m benchmarks.analyses.win_rate BASELINE MODEL     # two rollout logs or evaluations of the same problems
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.intervals import CONFIDENCE, draws_interval
from rewards.batch import Floats
from rewards.errors import TautError

SEED = 123  # the official code's random_state
TERMS = ("length", "difficulty", "model")


@dataclass(frozen=True)
class WinRate:
    """Percentages: length_controlled, raw, standard_error (of the mean of the predictions without the length term). weights:
    the model's coefficients by term; C: the inverse L1 strength that cross-validation chose. low, high: interval of
    length_controlled, raw_low and raw_high of raw, over resampled pairs; NaN where no resamples were asked for."""

    length_controlled: float
    raw: float
    standard_error: float
    weights: dict[str, float]
    C: float
    low: float = math.nan
    high: float = math.nan
    raw_low: float = math.nan
    raw_high: float = math.nan


class LengthControlledWinRate(BaseModel):
    """P(model wins) = sigma(a tanh(d / std(d)) + b difficulty + c); the win rate is its mean with the first term 0, times 100.

    d: characters of the baseline's answer minus the model's, sample standard deviation (ddof 1; where all d are equal the
    term is 0). Logistic regression without intercept, L1 penalty (liblinear, random state 123), its C of 10 values from
    1e-4 to 1e4 by log loss over 5 folds that keep a pair's two rows together; the label p is soft: a pair stands there as a
    win of weight p and a loss of weight 1 - p. `gamed`: the official regularisation by answers of the baseline asked to be
    concise or verbose, with c left out, at a total weight `baseline_weight` (0.2, half for each of the two); without
    `gamed`, or at weight 0, it is not done (the official code's variant without regularisation). Pairs without a
    preference (None, NaN) are left out of the fit but predicted, as in the official code. `difficulty`: AlpacaEval fits it
    beforehand for each instruction; where it is None the term is left out, for other comparisons of two checkpoints.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    baseline_weight: float = Field(default=0.2, ge=0)
    splits: int = Field(default=5, ge=2)

    def compute(
        self,
        baseline_chars: Sequence[int],
        model_chars: Sequence[int],
        preference: Sequence[float | None],
        difficulty: Sequence[float] | None = None,
        gamed: Sequence[Mapping[str, Any]] = (),
        resamples: int = 0,
        confidence: float = CONFIDENCE,
    ) -> WinRate:
        """Of n pairs: characters, the model's preference in [0, 1] (0.5: tie) and difficulty of each; `gamed`: rows with
        instruction_difficulty, std_delta_len and preference. `resamples`: of the pairs, for the intervals (`draws_interval`;
        each is fitted anew, with the C that cross-validation chose once). Raises TautError for unequal or too few rows."""
        p = np.array([math.nan if x is None else x for x in preference], dtype=float)
        delta = np.subtract(np.asarray(baseline_chars, dtype=float), np.asarray(model_chars, dtype=float))
        if len({len(baseline_chars), len(model_chars), len(p), len(p if difficulty is None else difficulty)}) > 1:
            raise TautError("win rate: one value a pair is needed of characters, preferences and difficulties")
        if (rated := np.isfinite(p)).sum() < self.splits:
            raise TautError(f"win rate: {rated.sum()} rated pairs; {self.splits} folds need at least {self.splits}")
        if ((p < 0) | (p > 1)).any():
            raise TautError(
                f"win rate: preference {p[(p < 0) | (p > 1)][0]:g} is outside [0, 1]; 1 means the model wins"
            )
        chosen = [0, 2] if difficulty is None else [0, 1, 2]
        hard = np.zeros(len(p)) if difficulty is None else np.asarray(difficulty, dtype=float)
        predicted, weights, c = self._predict(delta, hard, p, gamed, chosen)
        intervals: dict[str, float] = {}
        if resamples:
            rng, pairs = np.random.default_rng(SEED), len(p)
            draws = np.empty((resamples, 2))
            for i in range(resamples):
                rows = rng.integers(0, pairs, pairs)
                while not rated[rows].any():
                    rows = rng.integers(0, pairs, pairs)
                again = self._predict(delta[rows], hard[rows], p[rows], gamed, chosen, c)[0]
                draws[i] = again.mean() * 100, np.nanmean(p[rows]) * 100
            low, high = draws_interval(draws, pairs, confidence)
            intervals = {"low": low[0], "high": high[0], "raw_low": low[1], "raw_high": high[1]}
        return WinRate(
            length_controlled=float(predicted.mean() * 100),
            raw=float(p[rated].mean() * 100),
            standard_error=float(predicted.std(ddof=1) / math.sqrt(len(predicted)) * 100),
            weights=dict(zip([TERMS[i] for i in chosen], weights.tolist(), strict=True)),
            C=c,
            **{name: float(np.clip(value, 0, 100)) for name, value in intervals.items()},
        )

    def _predict(
        self, delta: Floats, hard: Floats, p: Floats, gamed: Sequence[Mapping[str, Any]], chosen: list[int],
        fixed: float | None = None,
    ) -> tuple[Floats, Floats, float]:  # fmt: skip
        """(each pair's chance that the model wins at equal lengths, weights, C); C is `fixed` where it is given."""
        spread = delta.std(ddof=1) if np.ptp(delta) > 0 else math.inf
        x = np.stack([np.tanh(delta / spread), hard, np.ones(len(p))], axis=1)
        equal_length, rated = x * [0.0, 1.0, 1.0], np.isfinite(p)
        x, y, weight = x[rated], p[rated], np.ones(int(rated.sum()))
        if gamed and self.baseline_weight > 0:
            rows = [(math.tanh(g["std_delta_len"]), g["instruction_difficulty"], 0.0) for g in gamed]
            x, y = np.concatenate([np.array(rows), x]), np.concatenate([[g["preference"] for g in gamed], y])
            weight = np.concatenate([np.full(len(rows), self.baseline_weight / 2), weight])
        weights, c = self._fit(x[:, chosen], y, weight, fixed)
        return _sigmoid(equal_length[:, chosen] @ weights), weights, c

    def _fit(self, x: Floats, y: Floats, weight: Floats, fixed: float | None) -> tuple[Floats, float]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold

        pair = np.tile(np.arange(len(y)), 2)  # a pair as a win, then all of them as losses
        won = np.repeat([1, 0], len(y))
        soft = np.concatenate([y, 1 - y]) * weight[pair]

        def solve(rows: Any, c: float) -> Floats:
            model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=SEED)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # liblinear's, that a hundred rounds were not enough
                model.fit(x[pair[rows]], won[rows], sample_weight=soft[rows])
            return model.coef_[0]

        def loss(rows: Any, w: Floats) -> float:
            z, i = x[pair[rows]] @ w, pair[rows]
            return float(np.mean(weight[i] * (y[i] * np.logaddexp(0, -z) + (1 - y[i]) * np.logaddexp(0, z))))

        everything = np.arange(len(pair))
        if fixed is not None:
            return solve(everything, fixed), fixed
        folds = list(GroupKFold(n_splits=self.splits).split(pair, groups=pair))
        candidates = np.logspace(-4, 4, 10).tolist()
        losses = [np.mean([loss(test, solve(train, c)) for train, test in folds]) for c in candidates]
        best = candidates[int(np.argmin(losses))]
        return solve(everything, best), best


def _sigmoid(z: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -z))


def paired(baseline: Sequence[Path], model: Sequence[Path]) -> tuple[Floats, Floats, Floats]:
    """(baseline characters, model characters, preference) a problem that both sides hold: mean characters of a response, and
    0.5 + (accuracy of the model - accuracy of the baseline) / 2. A side is the logs or evaluations of its seeds, whose
    responses are pooled; those with unknown verdicts are left out."""
    from rollout.log import read_rollouts

    def means(paths: Sequence[Path]) -> dict[str, tuple[float, float]]:
        found: dict[str, list[tuple[int, float]]] = {}
        for path in paths:
            step = read_rollouts(path)
            for i in np.flatnonzero(step.batch.known).tolist():
                answer = len(step.columns["text"][i]), float(step.batch.correct[i])
                found.setdefault(str(step.batch.problem_id[i]), []).append(answer)
        return {name: tuple(np.mean(answers, axis=0).tolist()) for name, answers in found.items()}

    first, second = means(baseline), means(model)
    both = sorted(first.keys() & second.keys())
    if not both:
        sides = " and ".join(", ".join(map(str, side)) for side in (baseline, model))
        raise TautError(f"{sides}: no problem in both; evaluate both on the same data")
    a, b = (np.array([side[name] for name in both]) for side in (first, second))
    return a[:, 0], b[:, 0], 0.5 + (b[:, 1] - a[:, 1]) / 2


def main(argv: Sequence[str] | None = None) -> int:
    """See the module. There is no difficulty of instructions here, so that term is left out."""
    parser = argparse.ArgumentParser("python -m benchmarks.analyses.win_rate", description=__doc__)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args(argv)
    try:
        old, new, preference = paired([options.baseline], [options.model])
        got = LengthControlledWinRate().compute(old.tolist(), new.tolist(), preference.tolist())
    except TautError as error:
        print(f"win_rate: {error}", file=sys.stderr)
        return 2
    print(f"{len(preference)} problems; characters {old.mean():.1f} -> {new.mean():.1f}")
    print(f"win rate {got.raw:.2f} %; length-controlled {got.length_controlled:.2f} % ± {got.standard_error:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
