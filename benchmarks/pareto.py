"""The front: configurations as points of accuracy against tokens with intervals, non-dominated set, CSV, picture."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.collect import Configuration, collect
from benchmarks.metrics import dominated
from benchmarks.picture import draw as draw_picture
from benchmarks.statistics import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Comparison,
    Estimate,
    Summary,
    compare,
    summarise,
)
from benchmarks.tables import table
from rewards.errors import TautError
from rewards.verifier import Verifier
from rewards.verifier.extract import Mode
from rollout.foreign import Foreign


@dataclass(frozen=True)
class Point:
    """One configuration in the plane. kind: base | plain (GRPO without shaping) | shaped. seeds: runs averaged.

    against: difference to the reference configuration on the same problems, None for the reference itself.
    """

    name: str
    accuracy: Estimate
    tokens: Estimate
    seeds: int = 1
    kind: str = "shaped"
    summary: Summary | None = None
    against: Comparison | None = None


def non_dominated(points: Sequence[Point]) -> list[bool]:
    """For each point: no other is as accurate for as few tokens, and better in one of the two. NaN is never on it."""
    at = np.array([(p.accuracy.value, p.tokens.value) for p in points], dtype=np.float64).reshape(-1, 2)
    free: Any = ~dominated(at[:, 0], at[:, 1]) & ~np.isnan(at).any(axis=1)
    return [bool(f) for f in free]


def make_points(
    configurations: Sequence[Configuration],
    reference: str | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> tuple[list[Point], list[str]]:
    """(points, warnings). All are measured on the problems that all evaluations share, so that they can be compared.

    reference: the configuration the differences are taken to (default: the plain one, else the base model, else none).
    Raises TautError when no problem is shared, or when the reference is none of the names.
    """
    problems, warnings = _shared_problems(configurations)
    warnings += _unlike(configurations)
    names = [c.name for c in configurations]
    if reference is None:
        reference = next((c.name for kind in ("plain", "base") for c in configurations if c.kind == kind), None)
    elif reference not in names:
        raise TautError(f"reference {reference!r} is none of the configurations: {', '.join(names)}")
    options = {"resamples": resamples, "seed": seed, "confidence": confidence}
    kept = {c.name: [e.take(np.isin(e.problem_id, problems)) for e in c.evaluations] for c in configurations}
    points = []
    for c in configurations:
        s = summarise(kept[c.name], **options)
        against = None
        if reference is not None and c.name != reference:
            against = compare(kept[c.name], kept[reference], **options)
        points.append(Point(c.name, s.accuracy, s.tokens, s.seeds, c.kind, s, against))
        if s.unknown:
            warnings.append(f"{c.name}: {s.unknown} of {s.samples} samples have no verdict and are left out")
        if s.accuracy.reason:
            warnings.append(f"{c.name}: no interval: {s.accuracy.reason}")
    return points, warnings


def _shared_problems(configurations: Sequence[Configuration]) -> tuple[Any, list[str]]:
    sets = {c.name: [np.unique(e.problem_id) for e in c.evaluations] for c in configurations}
    everything = [(name, ids) for name, of in sets.items() for ids in of]
    shared = everything[0][1]
    for _, ids in everything[1:]:
        shared = np.intersect1d(shared, ids)
    sizes = {name: max(len(ids) for ids in of) for name, of in sets.items()}
    if not len(shared):
        told = ", ".join(f"{name} ({n} problems)" for name, n in sizes.items())
        raise TautError(f"these evaluations have no problem in common: {told}; evaluate them on the same data")
    if all(len(ids) == len(shared) for _, ids in everything):
        return shared, []
    told = ", ".join(f"{name} {n}" for name, n in sizes.items() if n != len(shared))
    return shared, [f"different problem sets: all points use the {len(shared)} problems they share (of {told})"]


def _unlike(configurations: Sequence[Configuration]) -> list[str]:
    """Settings of the evaluations that differ where they should not."""
    warnings = []
    for key in ("temperature", "samples", "max_tokens", "step"):
        values = {c.name: sorted({str(a[key]) for a in c.about if a.get(key) is not None}) for c in configurations}
        if key == "step":  # a base model has no step, and configurations may train for different times: seeds may not
            warnings += [
                f"{n}: its seeds stand at different steps: {', '.join(v)}" for n, v in values.items() if len(v) > 1
            ]
        elif len({v for vs in values.values() for v in vs}) > 1:
            told = "; ".join(f"{n}: {', '.join(v)}" for n, v in values.items() if v)
            warnings.append(f"evaluations differ in {key} ({told}): accuracies and tokens may not compare")
    return warnings


def subtitle(points: Sequence[Point], about: Sequence[dict[str, Any]], confidence: float = CONFIDENCE) -> str:
    """How the numbers were made: `600 problems x 4 samples, T = 1, 2 seeds; bars: 95 % intervals (...)`."""
    summaries = [p.summary for p in points if p.summary]
    parts = []
    if summaries:
        problems = summaries[0].problems
        per = sorted({round(s.samples / max(s.problems * s.seeds, 1)) for s in summaries})
        parts.append(f"{problems} held-out problems × {'–'.join(map(str, per[:: max(len(per) - 1, 1)]))} samples")
        temperatures = sorted({a["temperature"] for a in about if a.get("temperature") is not None})
        if temperatures:
            parts.append("T = " + ", ".join(f"{t:g}" for t in temperatures))
        seeds = max(s.seeds for s in summaries)
        parts.append("1 run" if seeds == 1 else f"{seeds} seeds")
    return ", ".join(parts) + f"; bars: {confidence:.0%} intervals over problems".replace("%", " %")


def draw(points: Sequence[Point], folder: Path, title: str, subtitle: str = "") -> None:
    """Write front.png and front.pdf (for a paper: vectors) and, beside them, every number in them as front.csv."""
    write_csv(points, folder / "front.csv")
    for picture in ("front.png", "front.pdf"):
        draw_picture(points, non_dominated(points), folder / picture, title, subtitle)


def write_csv(points: Sequence[Point], path: Path) -> None:
    """One row a point: values, standard errors, intervals, spread between seeds, differences to the reference."""
    rows = [_row(p, f) for p, f in zip(points, non_dominated(points), strict=True)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["name"])
        writer.writeheader()
        writer.writerows(rows)


def _row(point: Point, on_front: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": point.name, "kind": point.kind, "on_front": int(on_front), "seeds": point.seeds}
    row |= _columns("accuracy", point.accuracy) | _columns("tokens", point.tokens)
    if s := point.summary:
        row |= _columns("truncation", s.truncation)
        row |= {f"{measure}_seed_sd": _number(sd) for measure, sd in s.spread.items()}
        row |= {"problems": s.problems, "samples": s.samples, "unknown": s.unknown, "confidence": s.confidence}
    none = Estimate(math.nan, math.nan, math.nan, math.nan)
    a = point.against
    row |= _columns("accuracy_difference", a.accuracy if a else none)
    row |= _columns("tokens_difference", a.tokens if a else none)
    row |= _columns("tokens_change", a.tokens_ratio if a else none)
    return row


def _columns(name: str, e: Estimate) -> dict[str, str]:
    return {
        name: _number(e.value),
        f"{name}_se": _number(e.se),
        f"{name}_low": _number(e.low),
        f"{name}_high": _number(e.high),
    }


def _number(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.6g}"


def front_table(points: Sequence[Point]) -> str:
    """The front as a table, most tokens first; differences are paired ones to the reference (the row without them)."""
    reference = next((p.name for p in points if p.against is None), "") if len(points) > 1 else ""
    to = f" to {reference}" if reference else ""
    rows = [["configuration", "seeds", "accuracy", "tokens", "truncated", f"Δ accuracy{to}", f"Δ tokens{to}", "front"]]
    on_front = dict(zip((p.name for p in points), non_dominated(points), strict=True))
    for p in sorted(points, key=lambda p: (math.isnan(p.tokens.value), -p.tokens.value)):
        a = p.against
        rows.append([
            p.name, str(p.seeds), p.accuracy.text(3), p.tokens.text(1),
            f"{p.summary.truncation.value:.3f}" if p.summary else "",
            f"{a.accuracy.value:+.3f} ± {a.accuracy.se:.3f}" if a else "",
            f"{a.tokens_ratio.value:+.1%} ± {a.tokens_ratio.se:.1%}" if a else "",
            "yes" if on_front[p.name] else "",
        ])  # fmt: skip
    return table(rows)


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise TautError(f"{option} {text}: write NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def main(argv: Sequence[str] | None = None) -> int:
    """`taut pareto RUN_OR_EVAL... --out DIR`: the table of runs and evaluations, and in DIR front.html, front.png, front.pdf,
    front.csv, scores.csv, dominance.csv. `--compare A B` adds the paired comparison of two of them (compare.csv).

    scores.csv (a row a configuration; value and _low, _high of its interval): aes_o1_pruner to the base model, aes_drpo to the
    reference, reg and reg_positive where a frontier is given, p_front (chance of being on the front), p_dominated and by whom
    most likely; the front's hypervolume with its base is the last row. dominance.csv: the chance that the row's configuration
    dominates the column's. front.html holds all of it and rollouts, in one file that needs nothing but a browser.
    """
    parser = argparse.ArgumentParser(prog="taut pareto", description=main.__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder or evaluation parquet; NAME=PATH names it")
    parser.add_argument(
        "--out", default="pareto", help="folder for the page, pictures and tables (default: %(default)s)"
    )
    parser.add_argument("--title", default="Accuracy against tokens")
    parser.add_argument("--reference", help="configuration that differences are taken to (default: the plain one)")
    parser.add_argument(
        "--base", help="base model of AES and hypervolume (default: the one of kind base, else the reference)"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="B against A, on the same problems: differences and win rates"
    )
    parser.add_argument("--frontier", help="FILE.json or FILE.json:NAME, {NAME: [[budgets], [accuracies]]}: prints REG")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--seed", type=int, default=SEED, help="of the bootstrap")
    parser.add_argument("--confidence", type=float, default=CONFIDENCE)
    others = parser.add_argument_group(
        "rollouts that others logged (.jsonl, .jsonl.gz, .parquet): a configuration a model"
    )
    others.add_argument(
        "--tokenizer", metavar="FOLDER", help="counts responses where neither lengths nor token ids are logged"
    )
    others.add_argument(
        "--cap", type=int, metavar="TOKENS", help="token limit of a response, where no column says truncated"
    )
    others.add_argument(
        "--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="such as correct=acc problem_id=uid"
    )
    others.add_argument(
        "--where", nargs="+", default=[], metavar="COLUMN=VALUE", help="only these rows, such as source=gsm8k"
    )
    others.add_argument(
        "--extraction", choices=get_args(Mode), help="judge responses ourselves: where their answers stand"
    )
    args = parser.parse_args(argv)
    if args.resamples < 2 or not 0 < args.confidence < 1:
        raise TautError(f"--resamples {args.resamples} --confidence {args.confidence}: at least 2, and between 0 and 1")
    from benchmarks.comparison import comparison
    from benchmarks.html_report import write_front_page
    from benchmarks.scores import score, score_table, write_scores

    foreign = Foreign(_pairs("--columns", args.columns), args.tokenizer, args.cap, _pairs("--where", args.where))
    with Verifier(extraction=args.extraction or "boxed") as judge:  # it starts nothing that is not asked for
        foreign.judge = judge if args.extraction else None
        configurations = collect(args.runs, foreign)
    points, warnings = make_points(
        configurations, args.reference, resamples=args.resamples, seed=args.seed, confidence=args.confidence
    )
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    about = [a for c in configurations for a in c.about]
    draw(points, out, args.title, subtitle(points, about, args.confidence))
    scores = score(points, configurations, args.base, args.frontier, args.resamples, args.seed, args.confidence)
    write_scores(scores, out / "scores.csv", out / "dominance.csv")
    page = out / "front.html"
    write_front_page(
        page, points, configurations, scores, args.title, subtitle(points, about, args.confidence), warnings, args.confidence
    )  # fmt: skip
    print(front_table(points))
    print(f"\n{score_table(scores)}\n")
    if args.compare:
        first, second = args.compare
        told = comparison(
            configurations, first, second, out / "compare.csv", args.resamples, args.seed, args.confidence
        )
        print(f"{told}\n")
    for warning in (*warnings, *foreign.notes):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{page}\n{out / 'front.png'}")
    return 0
