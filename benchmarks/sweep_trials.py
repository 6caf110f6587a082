"""The trials of a sweep's search: an Optuna study in the sweep's folder that outlives a kill.

What is drawn depends on the study and on the number of the trial alone, and trials are drawn and told in batches of a fixed size,
so that a search which was killed and started again makes the same trials as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.sweep_space import DIRECTIONS, SearchConfig, load_optuna
from rewards.errors import TautError

FILE = "search.journal"
FREE = (
    "trials",
    "predicted",
    "propose",
)  # may change from call to call: they decide how far the search goes, not its way


class _Alone:
    """The journal's lock: the sweep holds its whole folder already, and a lock file would outlive a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Trials:
    """The study of a search; nobody else may write to it meanwhile. Raises TautError where it was begun with another `search:`."""

    def __init__(self, search: SearchConfig, folder: Path) -> None:
        optuna = load_optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.search, file = search, folder / FILE
        if file.exists():  # a line that a killed writer did not end would spoil the one after it
            whole = file.read_bytes()
            with file.open("r+b") as journal:
                journal.truncate(whole.rfind(b"\n") + 1)
        lock: Any = _Alone()
        self._states: Any = optuna.trial.TrialState
        self._study: Any = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file), lock_obj=lock)),
            study_name="sweep", directions=list(DIRECTIONS), load_if_exists=True,
        )  # fmt: skip
        now = search.model_dump(mode="json", exclude=set(FREE))
        before = self._study.user_attrs.get("search")
        if before is None:
            self._study.set_user_attr("search", now)
        elif before != now:
            changed = next(key for key in now if before.get(key) != now[key])
            raise TautError(
                f"{file}: this search was begun with search.{changed}={before.get(changed)!r}, the sweep asks for "
                f"{now[changed]!r}; choose another --out"
            )

    def batch(self) -> dict[str, dict[str, Any]]:
        """NAME -> settings of the trials to be made now; none when all were told. Those of a batch that was cut off come again."""
        told = self._study.get_trials(deepcopy=False)
        begun = [t.number for t in told if not t.state.is_finished()]
        first = begun[0] if begun else len(told)
        size = self.search.together
        end = min((first // size + 1) * size, max(self.search.trials, len(told)))
        return {f"trial-{n}": self._draw(n) for n in range(first, end) if n >= len(told) or n in begun}

    def _draw(self, number: int) -> dict[str, Any]:
        """Draw a trial in a copy of the study and write it down as one line: half a draw cannot be gone on with."""
        optuna = load_optuna()
        trials = self._study.get_trials(deepcopy=False)
        if number < len(trials):  # drawn before a kill
            return self.search.draw(_Drawn(trials[number].params))
        copy = optuna.create_study(directions=list(DIRECTIONS), sampler=self.search.sampler_of("trained", number))
        copy.add_trials(trials)
        settings = self.search.draw(copy.ask())
        self._study.add_trial(copy.get_trials(deepcopy=False)[-1])
        return settings

    def tell(self, results: Mapping[str, tuple[float, float] | None]) -> None:
        """(accuracy, tokens) of trials by name, in the order of their numbers; None: it failed."""
        for name, values in results.items():
            number = int(name.removeprefix("trial-"))
            if values is None:
                self._study.tell(number, state=self._states.FAIL)
            else:
                self._study.tell(number, values)

    def made(self) -> dict[str, tuple[dict[str, Any], tuple[float, float] | None]]:
        """NAME -> (settings, (accuracy, tokens) or None) of all trials that were told."""
        finished = [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished()]
        return {
            f"trial-{t.number}": (self.search.draw(_Drawn(t.params)), t.values and tuple(t.values)) for t in finished
        }


class _Drawn:
    """A trial whose values are known."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def suggest_categorical(self, key: str, choices: Any) -> Any:
        return self._values[key]

    def suggest_int(self, key: str, low: int, high: int, log: bool = False) -> int:
        return self._values[key]

    def suggest_float(self, key: str, low: float, high: float, log: bool = False) -> float:
        return self._values[key]
