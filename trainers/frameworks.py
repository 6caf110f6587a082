"""Which recipe which framework carries: the table of docs/frameworks.md.

python -m trainers.frameworks                             # print it
python -m trainers.frameworks --write docs/frameworks.md  # put it into the page; a test holds the two together
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trainers.config import TrainConfig
from trainers.seams import TOLERANCE, Seam, drift, from_data, reasons
from trainers.settings import recipes
from trainers.shaping import recipe_of
from trainers.trl.settings import TRL
from trainers.verl.settings import VERL


def seams() -> list[Seam]:
    """Those of all frameworks."""
    return [VERL, TRL]


def cell(config: TrainConfig, seam: Seam) -> str:
    """A recipe's place in the table: yes, with what the data must bring, or the reasons against."""
    if found := list(reasons(config, seam)):
        return "no: " + "; ".join(found)
    needs = [f"`{column}`" for column in from_data(config)]
    said = [f"the data brings {' and '.join(needs)}"] if needs else []
    said += ["monitor rows"] if config.reward.monitor() else []
    if seam.centred and drift(config, unknown=True) > TOLERANCE:
        said.append("groups with an unknown verdict are left out")
    return f"yes ({', '.join(said)})" if said else "yes"


def table() -> str:
    """Every shipped recipe against every framework, in Markdown."""
    kinds = seams()
    lines = ["| recipe | " + " | ".join(seam.name for seam in kinds) + " |", "|" + " --- |" * (1 + len(kinds))]
    for name in recipes():
        config = recipe_of([f"recipe={name}"])
        lines.append("| " + " | ".join([name, *(cell(config, seam).replace("|", "\\|") for seam in kinds)]) + " |")
    return "\n".join(lines)


BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--write"] and len(arguments) == 2:
        path = Path(arguments[1])
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")
        print(path)
        return 0
    print(table() if not arguments else __doc__)
    return 2 if arguments else 0


if __name__ == "__main__":
    sys.exit(main())
