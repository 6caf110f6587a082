"""What a search looks through, and how Optuna draws from it: the `search:` of a sweep file.

    search:
      settings: {reward: {type: sum, terms: [correct, {type: weight, weight: -0.1, term: linear_length}]}}
      space:
        reward.terms.1.weight: {low: -1.0, high: -0.01}        # {low, high, log: true, integer: true}
        advantage: [grpo, dr_grpo]                             # or a list to choose from
      trials: 20

`taut sweep` trains each trial as a run like any other; `taut search` predicts them from a log.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rewards.errors import TautError

DIRECTIONS = ("maximize", "minimize")  # accuracy, tokens
DIGITS = 4  # significant ones of a drawn number: a sweep file is read by people
POPULATION = {"trained": 16, "predicted": 50}  # of NSGA-II, where nothing else is said


class Range(BaseModel):
    """Numbers from low to high, both included."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log: low is {self.low:g}; a logarithmic range is above 0")
        if self.integer and (self.low % 1 or self.high % 1):
            raise ValueError(f"integer: {self.low:g} to {self.high:g}; give whole numbers")
        return self


class SearchConfig(BaseModel):
    """`search:` of a sweep file; see the module."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = Field({}, description="of every trial, as of a run")
    space: dict[str, Range | list[Any]] = Field(min_length=1)
    trials: int = Field(20, ge=1, description="how many are trained, each with every seed")
    together: int = Field(4, ge=1, description="trials drawn before the results of any of them are known")
    sampler: Literal["tpe", "nsga2"] | None = Field(None, description="None: tpe for what is trained, nsga2 for a log")
    population: int | None = Field(None, ge=2, description="of nsga2; None: 16 trained, 50 predicted")
    seed: int = Field(0, ge=0)
    predicted: int = Field(1000, ge=1, description="trials of `taut search`, which trains nothing")
    propose: int = Field(8, ge=1, description="runs that `taut search` writes at most")

    @field_validator("space")
    @classmethod
    def _choices(cls, space: dict[str, Range | list[Any]]) -> dict[str, Range | list[Any]]:
        for key, values in space.items():
            if isinstance(values, list) and not values:
                raise ValueError(f"{key}: an empty list; give {{low, high}} or the values to choose from")
        return space

    def sampler_of(self, kind: Literal["trained", "predicted"], number: int) -> Any:
        """Optuna's sampler for the trial with this number: one that goes on after a kill draws what it would have drawn."""
        optuna = load_optuna()
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        if (self.sampler or {"trained": "tpe", "predicted": "nsga2"}[kind]) == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.NSGAIISampler(population_size=self.population or POPULATION[kind], seed=seed)

    def draw(self, trial: Any) -> dict[str, Any]:
        """The settings of an Optuna trial: those of all, and a value for each key of the space."""
        values = {}
        for key, among in self.space.items():
            if isinstance(among, list):
                values[key] = among[trial.suggest_categorical(key, list(range(len(among))))]
            elif among.integer:
                values[key] = trial.suggest_int(key, int(among.low), int(among.high), log=among.log)
            else:
                x = trial.suggest_float(key, among.low, among.high, log=among.log)
                values[key] = min(max(float(f"{x:.{DIGITS}g}"), among.low), among.high)
        return {**self.settings, **values}

    def chosen(self, settings: dict[str, Any]) -> str:
        """The drawn part of a trial's settings: `reward.target=40 advantage=grpo`."""
        return " ".join(f"{key}={settings[key]}" for key in self.space)


def load_optuna() -> Any:
    """The module. Raises TautError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise TautError("a search needs Optuna, which is not installed: pip install 'taut[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def spread(points: list[tuple[float, float]], count: int) -> list[int]:
    """Up to `count` of the points, far from each other: the two ends in tokens, then always the one farthest from those taken,
    each axis measured by its range."""
    if len(points) <= count:
        return list(range(len(points)))
    at = np.array(points, dtype=np.float64)
    width = np.ptp(at, axis=0)
    at = at / np.where(width > 0, width, 1.0)
    taken = [int(at[:, 1].argmin()), int(at[:, 1].argmax())][:count]
    while len(taken) < count:
        gap = np.min([np.hypot(*(at - at[i]).T) for i in taken], axis=0)
        gap[taken] = -math.inf
        taken.append(int(gap.argmax()))
    return sorted(taken)
