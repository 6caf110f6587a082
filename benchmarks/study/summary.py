"""The README's table: a few of the configurations, under the names that readers know them by."""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.pace import REFERENCE, paces
from benchmarks.study.reference import Against, all_against_linear
from benchmarks.study.runs import Study
from benchmarks.study.uncertainty import Uncertainty, text
from benchmarks.tables import table
from rewards.errors import TautError

BEGIN, END = "<!-- table: python -m benchmarks.study -->", "<!-- end of the table -->"
SHOWN = {
    "base": "base model",
    "plain": "plain GRPO (Dr. GRPO's advantage)",
    "plain-grpo": "plain GRPO, divided by the group's std",
    "linear-0.1": "c(1 - 0.1 l/L)",
    "linear-1": "c(1 - l/L)",
    "linear-2.5": "c(1 - 2.5 l/L)",
    "linear-4": "c(1 - 4 l/L)",
    "std-linear-0.1": "c(1 - 0.1 l/L), divided by the group's std",
    "laser-60": "LASER, target 60",
    "laser-d-24": "LASER-D, lower bound 24",
    "grpo-lambda-0.8": "GRPO-λ, alpha 0.8",
    "az-0.8": "Arora–Zanette in all groups, alpha 0.8",
    "alp-1": "ALP, beta 1",
    "hapo-0.3": "HAPO, w 0.3",
    "dler-144": "DLER, cap 144",
    "dast": "DAST",
    "canon-eff-0.8": "CANON-Eff, alpha 0.8",
    "drpo-advantage-0.1": "DRPO's advantage, lambda 0.1",
    "drpo-0.1": "DRPO, lambda 0.1",
    "kimi-0.4": "Kimi k1.5, weight 0.4",
    "pear-1": "PEAR, alpha 1",
    "gfpo-4": "GFPO, 4 of 8 kept",
}


def summary(study: Study, u: Uncertainty) -> str:
    """The table. Those of SHOWN that the study lacks are left out."""
    held = all_against_linear(study, u)
    ratios = {p.name: "1" if p.name == REFERENCE else text(p.ratio, 2) for p in paces(study, u, held)}
    against = "accuracy to linear penalties at equal tokens"
    rows = [["configuration", "seeds", "accuracy", "tokens", against, f"training tokens to {SHOWN[REFERENCE]}'s"]]
    for name, label in SHOWN.items():
        c = study.base if name == "base" else study.configurations.get(name)
        if c is not None:
            seeds = "" if c is study.base else str(len(c.seeds))
            accuracy, tokens = text(u.of(c.name, "accuracy")), text(u.of(c.name, "tokens"), 1)
            rows.append([label, seeds, accuracy, tokens, _text(held.get(c.name)), ratios.get(c.name, "")])
    return table(rows)


def _text(held: Against | None) -> str:
    return text(held.value, 3, True) if held else ""


def write(study: Study, u: Uncertainty, page: Path) -> None:
    """Put the table between the page's two marks. Raises TautError where it has none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise TautError(f"{page}: has no {BEGIN} with {END} below it; put both where the table should stand")
    page.write_text(f"{before}{begin}\n\n{summary(study, u)}\n\n{end}{after}", encoding="utf-8")
