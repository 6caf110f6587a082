"""Configurations on the predicted front, before anything is trained: `taut search LOG SWEEP.yaml --out FILE.yaml [key=value ...]`.

SWEEP.yaml is a sweep file with a `search:` (benchmarks/sweep_space.py). Its space is searched by the slopes that LOG predicts
(`taut replay` says how), `search.predicted` times; at most `search.propose` of the configurations on the front, far from each
other, are written to FILE.yaml beside the sweep's own runs and plain: `taut sweep FILE.yaml` trains them. LOG is read once.
A seed gives the same file again (search.seed=N). What the log needs to be read is given as in `taut replay`: columns.X=Y,
where.X=Y, tokenizer=FOLDER, cap=N.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.predicted_step import arrow, statistics
from benchmarks.sweep_plan import SweepConfig, load_sweep, plan
from benchmarks.sweep_predict import KL, Log, Prediction, layers, what_if
from benchmarks.sweep_space import DIRECTIONS, SearchConfig, load_optuna, spread
from benchmarks.tables import table
from rewards.errors import TautError
from rollout.foreign_logs import Foreign
from rollout.paths import locate
from trainers.config import TrainConfig
from trainers.settings import parse_override, set_dotted

OF_LOG = ("columns", "where", "tokenizer", "cap")


@dataclass
class Searched:
    """What a search found: (settings, training configuration, prediction) of each distinct trial, the trials in all, and how
    often each reason kept one from being predicted."""

    found: list[tuple[dict[str, Any], TrainConfig, Prediction]]
    trials: int
    failures: Counter[str]
    seconds: float


def search(log: Log, sweep: SweepConfig, overrides: Any = ()) -> Searched:
    """Predict `search.predicted` configurations of the sweep's space. Raises TautError when none of them could be."""
    asked = sweep.search
    if asked is None:
        raise TautError("the sweep file has no `search:`; give it a space (benchmarks/sweep_space.py)")
    optuna = load_optuna()
    study = optuna.create_study(directions=list(DIRECTIONS), sampler=asked.sampler_of("predicted", 0))
    known: dict[str, Prediction] = {}
    result = Searched([], asked.predicted, Counter(), 0.0)
    began = time.monotonic()
    for _ in range(asked.predicted):
        trial = study.ask()
        settings = asked.draw(trial)
        key = json.dumps(settings, sort_keys=True, default=str)
        if key not in known:
            known[key] = _predict(log, sweep, settings, overrides, result)
        if known[key].why or math.isnan(known[key].score):
            result.failures[known[key].why or "no group of the log has any signal under it"] += 1
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, known[key].point)
    result.seconds = time.monotonic() - began
    if not result.found:
        reasons = "\n  ".join(f"{count} times: {why}" for why, count in result.failures.most_common(3))
        raise TautError(f"none of {asked.predicted} configurations could be predicted:\n  {reasons}")
    return result


def _predict(log: Log, sweep: SweepConfig, settings: dict[str, Any], overrides: Any, result: Searched) -> Prediction:
    one = sweep.model_copy(update={"runs": {"found": settings}, "evaluation": None, "seeds": sweep.seeds[:1]})
    try:
        config = plan(one, Path("runs"), overrides)[0].config
    except TautError as error:
        return Prediction(why=f"cannot be trained: {error}")
    assert config is not None
    prediction = log.predict_run("found", config)
    if not prediction.why and not math.isnan(prediction.score):
        result.found.append((settings, config, prediction))
    return prediction


def proposals(result: Searched, asked: SearchConfig) -> list[tuple[dict[str, Any], TrainConfig, Prediction]]:
    """At most `propose` of the configurations on the predicted front, from fewest tokens to most; one of each arrow."""
    by_arrow = {entry[2].point: entry for entry in reversed(result.found)}
    entries = [by_arrow[point] for point in sorted(by_arrow, key=lambda point: point[1])]
    front = [e for e, layer in zip(entries, layers([e[2].point for e in entries]), strict=True) if layer == 0]
    return [front[i] for i in spread([e[2].point for e in front], asked.propose)]


def write_sweep(path: Path, sweep: SweepConfig, runs: dict[str, dict[str, Any]], comment: str) -> None:
    """The sweep with these runs in place of its search, as a file that `taut sweep` takes. Raises TautError when it cannot be
    written."""
    values = sweep.model_dump(
        mode="json", exclude={"search", "first", "runs"}, exclude_none=True, exclude_defaults=True
    )
    text = yaml.safe_dump({**values, "runs": runs}, sort_keys=False, allow_unicode=True)
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    try:
        path.write_text(lines + text, encoding="utf-8")
    except OSError as error:
        raise TautError(f"--out {path}: cannot be written ({error}); choose another file") from error
    plan(load_sweep(str(path))[0], Path("runs"))


def main(argv: Sequence[str] | None = None) -> int:
    """`taut search LOG SWEEP.yaml --out FILE.yaml`: search, print the proposed, write the sweep that trains them."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    command = shlex.join(["taut", "search", *arguments])
    if "--out" not in arguments[:-1]:
        raise TautError("--out: missing; say where the sweep goes: taut search LOG SWEEP.yaml --out FILE.yaml")
    at = arguments.index("--out")
    out = Path(arguments[at + 1])
    rest = arguments[:at] + arguments[at + 2 :]
    files = [a for a in rest if "=" not in a]
    if len(files) != 2 or out.suffix != ".yaml":
        raise TautError(f"{' '.join(files)}: write taut search LOG SWEEP.yaml --out FILE.yaml [key=value ...]")
    of_log: dict[str, Any] = {}
    for keys, value in map(parse_override, (a for a in rest if "=" in a)):
        if keys[0] in OF_LOG:
            set_dotted(of_log, keys, value)
    pairs = [a for a in rest if "=" in a and parse_override(a)[0][0] not in OF_LOG]
    sweep, overrides = load_sweep(files[1], pairs)
    if overrides:
        raise TautError(f"{'.'.join(overrides[0][0])}=: say what concerns every run in `base:` of {files[1]}")
    log = Log(locate(files[0]), Foreign(**of_log))
    result = search(log, sweep)
    assert sweep.search is not None
    chosen = proposals(result, sweep.search)
    runs = dict(sweep.runs)
    if not any(r.kind == "plain" for r in plan(sweep, Path("runs"))):
        runs["plain"] = {"reward": {"type": "correct"}}
    rows = [["run", "Δ accuracy", "Δ tokens", "drawn"]]
    for i, (settings, config, _) in enumerate(chosen, 1):
        if f"found-{i}" in runs:
            raise TautError(f"run 'found-{i}': the name is taken; call the run of {files[1]} otherwise")
        runs[f"found-{i}"] = settings
        replayer = log.replayed(what_if("found", config))
        assert replayer.sums is not None
        estimates = statistics(replayer.sums.table, replayer.terms)[0]
        accuracy, tokens = (arrow(estimates[name], KL) for name in ("slope_accuracy", "slope_tokens"))
        rows.append([f"found-{i}", accuracy.text(4), tokens.text(1), sweep.search.chosen(settings)])
    told = (
        f"{log.rollouts:,} rollouts of {log.problems:,} problems in {files[0]}; {result.trials} trials, of them "
        f"{len(result.found)} distinct with a prediction; arrows at a KL of {KL:g} nats, brackets 95 % over problems"
    )
    write_sweep(out, sweep, runs, f"Made by: {command}\n{told}\n{table(rows)}")
    print(f"{told}\n\n{table(rows)}\n")
    for why, count in result.failures.most_common(5):
        print(f"warning: {count} of {result.trials} trials without a prediction: {why}")
    for note in log.notes:
        print(f"warning: {note}")
    print(f"{result.trials / result.seconds:.0f} trials a second\ntrain them: taut sweep {out}\n{out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
