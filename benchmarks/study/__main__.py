"""The study's pages from what `python -m benchmarks.study.gather` made of the sweep `table`:

python -m benchmarks.study FOLDER [--claims docs/claims.md] [--long FOLDER of the sweep `long`] [--readme README.md]

Writes FOLDER/report.md, table.png, pace.png, claims.md (or where it is said) and warning.md. What a page has above its mark stays,
and of the README all but the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study import claims, figure, long, pace, report, summary, warning
from benchmarks.study.runs import load
from benchmarks.study.uncertainty import measure
from benchmarks.tables import publish
from rewards.errors import TautError


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--claims", type=Path, help="the page of the claims (default: FOLDER/claims.md)")
    parser.add_argument("--long", type=Path, help="the runs of 400 steps, for claims of their own")
    parser.add_argument("--readme", type=Path, help="a page with the summary's marks, between which it is written anew")
    given = parser.parse_args(argv)
    folder: Path = given.folder
    try:
        study = load(folder)
        uncertainty = measure(study)
        (folder / "report.md").write_text(report.report(study, uncertainty), encoding="utf-8")
        figure.draw(study, uncertainty, folder / "table.png")
        pace.draw(study, uncertainty, folder / "pace.png")
        publish(warning.report(study) + "\n", folder / "warning.md")
        more = long.claims(of := load(given.long), measure(of)) if given.long else []
        publish(claims.page(study, uncertainty, more) + "\n", given.claims or folder / "claims.md")
        if given.readme:
            summary.write(study, uncertainty, given.readme)
    except TautError as error:
        print(f"benchmarks.study: {error}", file=sys.stderr)
        return 2
    print(folder / "report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
