"""The processes of a sweep's run, and what of it is done already: a finished run is never made again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks import sweep_code
from benchmarks.jobs import Job, Stage
from benchmarks.sweep_plan import Planned, train_arguments
from benchmarks.warm import TAUT
from rewards.errors import TautError
from trainers.run import flat
from trainers.settings import read_yaml, to_mapping

# Settings of a finished run that may differ from what the sweep asks for: they decide how it was done, not its numbers.
INCIDENTAL = (
    "out",
    "log.",
    "checkpoint.",
    "heldout.",
    "alarms.",
    "micro_tokens",
    "rollout.workers",
    "rollout.deadline_s",
    "rollout.core",
)


def make_job(run: Planned) -> Job:
    """The processes of a run. Raises TautError when its folder holds a run with other settings."""
    stages = []
    if run.config is not None:
        _same_run(run)
        stages.append(Stage("train", lambda: _train_command(run), lambda: trained(run)))
    if run.evaluation is not None:
        stages.append(Stage("evaluate", lambda: _evaluate_command(run), lambda: evaluated(run)))
    return Job(run.name, stages, run.folder / "log.txt")


def _same_run(run: Planned) -> None:
    saved = run.folder / "config.yaml"
    if not saved.exists():
        return
    before, now = flat(read_yaml(saved)), flat(to_mapping(run.config))
    for key, value in now.items():
        if key in before and before[key] != value and not key.startswith(INCIDENTAL):
            raise TautError(
                f"{saved}: this run was made with {key}={before[key]!r}, the sweep asks for {value!r}; "
                f"choose another --out, or remove {run.folder}"
            )


def settle(runs: Sequence[Planned], choice: str | None, out: Path) -> list[str]:
    """What other code made is taken, or put out of the way to be made anew; a line on those that are taken. Raises TautError where
    neither was chosen."""
    found = []
    for run in runs:
        if (run.folder / "config.yaml").exists() and (by := sweep_code.other(run.folder, "train")):
            found.append((run, "train", by))
        elif run.evaluation is not None and evaluated(run) and (by := sweep_code.other(run.folder, "evaluate")):
            found.append((run, "evaluate", by))
    if choice is None:
        sweep_code.refuse_others(
            (run.name if stage == "train" else f"{run.name} (evaluation)", by) for run, stage, by in found
        )
    if choice == "take":
        made: dict[tuple[str, str], list[str]] = {}
        for run, stage, by in found:
            made.setdefault((stage, by), []).append(run.name)
        return [f"{stage}: made by {by}, taken as it is: {', '.join(names)}" for (stage, by), names in made.items()]
    for run, stage, by in found:
        print(f"{run.name}: {stage}: made by {by}, made anew")
        if stage == "evaluate" and run.evaluation is not None:
            Path(run.evaluation.out).unlink()
            continue
        number = 1
        while (old := out / "replaced" / f"{run.name}.{number}").exists():
            number += 1
        old.parent.mkdir(exist_ok=True)
        run.folder.rename(old)
    return []


def _train_command(run: Planned) -> list[str]:
    run.folder.mkdir(parents=True, exist_ok=True)
    resumed = (run.folder / "config.yaml").exists()
    sweep_code.note(run.folder, "train", afresh=not resumed)
    if resumed:
        return [*TAUT, "train", f"resume={run.folder}"]
    return [*TAUT, "train", *train_arguments(run.requested, run.folder / "sweep.yaml", run.folder)]


def _evaluate_command(run: Planned) -> list[str]:
    assert run.evaluation is not None
    Path(run.evaluation.out).unlink(missing_ok=True)  # made with other settings, or torn
    run.folder.mkdir(parents=True, exist_ok=True)
    sweep_code.note(run.folder, "evaluate", afresh=not Path(f"{run.evaluation.out}.parts").exists())
    values = run.evaluation.model_dump(mode="json", exclude_none=True)
    return [*TAUT, "eval", *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())]


def trained(run: Planned) -> bool:
    """Whether the run stands at its last step and has left its model."""
    assert run.config is not None
    try:
        status = json.loads((run.folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    finished = status.get("state") == "finished" and status.get("step", 0) >= run.config.steps
    return finished and (run.folder / "model" / "config.json").exists()


def evaluated(run: Planned) -> bool:
    """Whether the run's evaluation is there, whole, and made as the sweep asks."""
    assert run.evaluation is not None
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = Path(run.evaluation.out)
    if not path.exists():
        return False
    try:
        made = json.loads((parquet.read_schema(path).metadata or {}).get(b"taut", b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return False
    wanted = run.evaluation.model_dump(mode="json", exclude={"rollout", "out", "reference"})
    if run.config is not None:
        wanted.pop("model")  # it lies beside the evaluation, wherever the folder was moved to
    return all(made.get(key) == value for key, value in wanted.items())
