"""Public data sets as Taut's JSON lines: id, problem, answer, level, source; answers that cannot be verified are told.

taut data                                        # the sets, and where each comes from
taut data math500                                # downloads it and writes math500.jsonl
taut data gsm8k --split train --out train.jsonl
taut data minerva --unverifiable drop            # without the rows whose answer no verifier can check
taut data deepscaler --from deepscaler.json      # a file (or several) as the hub has it: no network is used
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rewards.errors import TautError
from rollout.datasets import DATASETS, RAW_FORMATS, convert, download, read_raw
from rollout.log import write_atomically

LISTED = 20  # rows with a fault that the console shows


def listing() -> str:
    """The sets, a line each: name, where it lies on the hub, its splits, what it is."""
    rows = [("name", "on the hub", "splits", "")]
    rows += [(name, of.repository, ", ".join(of.splits), of.note) for name, of in DATASETS.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def write_problems(name: str, out: Path, split: str, files: Sequence[Path], unverifiable: str) -> str:
    """Convert `files`, or with none what is downloaded, into `out`; what was done, in words.

    unverifiable: "refuse" raises TautError when a row cannot be used, "drop" leaves those rows out and lists them. What was
    downloaded is kept beside `out` until that is written, so that no call fetches it twice.
    """
    if out.exists():
        raise TautError(f"{out}: exists already; remove it, or give another --out")
    raw = out.with_name(f"{out.name}.raw")
    rows, told = convert(name, read_raw(list(files) or download(name, split, raw), DATASETS[name].columns))
    repeated = sum(": repeats " in line for line in told)
    said = "\n".join(told[:LISTED]) + (f"\n... and {len(told) - LISTED} more" if len(told) > LISTED else "")
    if not rows:
        raise TautError(f"{said}\n{name}: no row is left" if said else f"{name}: the files hold no row; check them")
    faults = len(told) - repeated
    if faults and unverifiable == "refuse":
        raise TautError(f"{said}\n{faults} rows of {name} cannot be used; leave them out with --unverifiable drop")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(out, lambda temporary: temporary.write_text(lines, encoding="utf-8"))
    if not files:
        shutil.rmtree(raw)
    left_out = f"; left out: {faults} that cannot be used, {repeated} repeated" if told else ""
    return (f"{said}\n" if said else "") + f"{out}: {len(rows)} problem{'s' * (len(rows) > 1)}{left_out}"


def main(argv: Sequence[str] | None = None) -> int:
    """`taut data`: see the module."""
    parser = argparse.ArgumentParser(
        "taut data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="one of the sets; none: list them")
    parser.add_argument("--out", type=Path, help="where to write (default: NAME.jsonl, NAME-SPLIT.jsonl)")
    parser.add_argument("--split", help="one of the set's splits (default: its first)")
    parser.add_argument("--from", dest="files", type=Path, nargs="+", default=[], metavar="FILE",
                        help=f"files of the hub's own form ({', '.join(RAW_FORMATS)}), in place of a download")  # fmt: skip
    parser.add_argument("--unverifiable", choices=("refuse", "drop"), default="refuse",
                        help="rows whose answer cannot be verified, or is not the same everywhere")  # fmt: skip
    options = parser.parse_args(argv)
    if options.name is None:
        print(f"{listing()}\n\nto write one: taut data NAME")
        return 0
    if options.name not in DATASETS:
        raise TautError(f"taut data {options.name}: no such set; it is one of {', '.join(DATASETS)}")
    splits = DATASETS[options.name].splits
    split = options.split or splits[0]
    if split not in splits:
        raise TautError(f"--split {split}: {options.name} has {', '.join(splits)}")
    out = options.out or Path(f"{options.name}.jsonl" if split == splits[0] else f"{options.name}-{split}.jsonl")
    print(write_problems(options.name, out, split, options.files, options.unverifiable))
    return 0


if __name__ == "__main__":
    sys.exit(main())
