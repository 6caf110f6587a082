"""Run every case file of a folder: cases, passed and worst relative error of each. Exit 1 on a miss, 2 on an unknown file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.conformance import advantages, analyses, budgets, laser, modes, objectives
from benchmarks.conformance.judge import TOLERANCE, Adapter, error

ADAPTERS: dict[str, Adapter] = {}
for family in (laser, budgets, modes, advantages, objectives, analyses):
    ADAPTERS |= family.ADAPTERS
TOLERANCES = {"lc_alpacaeval": 1e-2}  # scikit-learn's fits differ between versions
INFORMATIVE = {"hapo_stateful_mean_artefact"}  # defects of the official code: shown, never held against anybody


def judge(name: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """{"cases", "passed", "worst"} of one file, and "missed": a line for each case that failed."""
    tolerance, worst, missed = TOLERANCES.get(name, TOLERANCE), 0.0, []
    for i, case in enumerate(cases):
        try:
            gaps = [error(got, want, tolerance) for got, want in ADAPTERS[name](case)]
            gap, why = max(gaps, default=float("inf")), "nothing was compared" if not gaps else f"error {max(gaps):.1e}"
        except Exception as problem:  # a case that cannot be run is a miss; the others are still wanted
            gap, why = float("inf"), f"{type(problem).__name__}: {problem}"
        worst = max(worst, gap)
        if not gap <= tolerance:
            missed.append(f"{name}[{i}]: {why}")
    return {"cases": len(cases), "passed": len(cases) - len(missed), "worst": worst, "missed": missed}


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser("python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds NAME.json case files")
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args(argv)
    files = sorted(options.folder.glob("*.json"))
    if not files:
        print(f"{options.folder}: no .json files; give a folder of reference cases", file=sys.stderr)
        return 2
    unknown = [file.stem for file in files if file.stem not in ADAPTERS]
    results: dict[str, dict[str, Any]] = {}
    print(f"{'file':<36} {'cases':>6} {'passed':>6}  worst relative error")
    for file in files:
        if file.stem in unknown:
            print(f"{file.stem:<36} unknown: no adapter for this file")
            continue
        result = results[file.stem] = judge(file.stem, json.loads(file.read_text(encoding="utf-8"))["cases"])
        mark = "" if not result["missed"] else "  informative" if file.stem in INFORMATIVE else "  MISSED"
        print(f"{file.stem:<36} {result['cases']:>6} {result['passed']:>6}  {result['worst']:.1e}{mark}")
    missed = [line for name, r in results.items() if name not in INFORMATIVE for line in r["missed"]]
    counted = [r for name, r in results.items() if name not in INFORMATIVE]
    print(
        f"{len(counted)} files, {sum(r['passed'] for r in counted)} of {sum(r['cases'] for r in counted)} cases passed"
    )
    for line in missed[:20]:
        print(line)
    if options.json:
        table = {name: {k: r[k] for k in ("cases", "passed", "worst")} for name, r in results.items()}
        for row in table.values():  # JSON has no infinity
            row["worst"] = row["worst"] if row["worst"] < float("inf") else None
        options.json.write_text(json.dumps({"files": table}, indent=1) + "\n", encoding="utf-8")
    return 2 if unknown else 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
