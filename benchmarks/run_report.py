"""One run as one HTML file: curves by step, alarms, settings, and rollouts of the first and the last step side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.html.page import Cell, Head, table, warning_list, write_page
from benchmarks.run_data import RunData, alarms_of, compare_files, logged, read_run, spans
from rewards.errors import TautError
from trainers.run import flat

TAIL_STEPS = 5  # the last so many steps are also given as a mean: one step alone is noisy
NOT_PHASES = (
    "step",
    "tokens_per_second",
    "verdict_mean",
    "verdict_slowest",
    "verdict_memo_hits",
)  # of what is under time/
HELD_OUT = "heldout/"


@dataclass(frozen=True)
class Panel:
    """Curves on one pair of axes: (name, key) of each. stacked: they are parts of a sum. share: between 0 and 1."""

    title: str
    curves: list[tuple[str, str]]
    share: bool = False
    stacked: bool = False
    zero: bool = True  # the axis begins at 0 or above, whatever the span
    note: str = ""

    def data(self) -> dict[str, Any]:
        """As run.js draws it."""
        curves = [{"name": n, "key": k, "dots": k.startswith(HELD_OUT)} for n, k in self.curves]
        return {"curves": curves, "share": self.share, "stacked": self.stacked, "zero": self.zero}


def panels_of(keys: Sequence[str]) -> list[Panel]:
    """The panels of a run that logged these keys; a curve that was never logged is left out, and so is an empty panel."""
    terms = [(k.removeprefix("reward/"), k) for k in keys if k.startswith("reward/")]
    kl = [({"approx_kl": "to the sampling policy", "mismatch_kl": "engine to trainer"}.get(k, k), k)
          for k in keys if k in ("kl", "approx_kl") or k.endswith("_kl")]  # fmt: skip
    phases = [(k.removeprefix("time/"), k) for k in keys if k.startswith("time/") and k[5:] not in NOT_PHASES]
    wanted = [
        Panel("Accuracy", [("training", "accuracy"), ("held out", "heldout/accuracy")], share=True),
        Panel("Tokens per response", [("all", "tokens"), ("correct", "tokens_correct"), ("wrong", "tokens_wrong"),
                                      ("held out", "heldout/tokens")]),
        Panel("Truncated and empty", [("cut at the cap", "truncated"), ("no answer", "empty"),
                                      ("cut, held out", "heldout/truncated")], share=True, note="share of the rollouts"),
        Panel("Reward, each term", terms, zero=False, note="mean over the rollouts that are kept"),
        Panel("KL", kl, zero=False, note="nats per token; 0 to the sampling policy where a step is one update"),
        Panel("Entropy", [("policy", "entropy")], note="nats per token"),
        Panel("Gradient norm", [("before clipping", "grad_norm")]),
        Panel("Verifier", [("unknown", "unknown"), ("unknown, held out", "heldout/unknown"),
                           ("audit disagrees", "verify/audit_disagreement")], share=True, note="share of the verdicts"),
        Panel("Groups without signal", [("all verdicts equal", "zero_signal")], share=True, note="share of the groups"),
        Panel("Advantage of the wrong sign", [("correct, pushed down", "correct_pushed_down"),
                                               ("wrong, pushed up", "wrong_pushed_up")],
              share=True, note="share of the correct, of the wrong rollouts"),
        Panel("Time by phase", phases, stacked=True, note="seconds, stacked; a checkpoint counts for the step after it"),
    ]  # fmt: skip
    held = [Panel(p.title, [c for c in p.curves if c[1] in keys], p.share, p.stacked, p.zero, p.note) for p in wanted]
    return [p for p in held if p.curves]


def comparisons(run: RunData) -> tuple[list[dict[str, Any]], list[str]]:
    """Rollouts of the first and the last step, and of the first and the last held-out test: [{title, note, matches}]; and what
    could not be shown, in words."""
    config, warnings = run.config, []
    heldout = config.get("heldout") if isinstance(config.get("heldout"), dict) else {}
    own = (
        heldout.get("data") if heldout else None
    )  # held-out problems come from `data` where no file of their own is named
    places = [
        ("rollouts", "Rollouts of step {}", config.get("data"), config.get("columns")),
        ("heldout", "Held-out test at step {}", own or config.get("data"),
         (heldout or {}).get("columns") if own else config.get("columns")),
    ]  # fmt: skip
    shown = []
    for folder, words, data, columns in places:
        files = logged(run.path / folder, run.steps[-1])
        if not files:
            continue
        first, last = next(iter(files)), next(reversed(files))
        found = compare_files(files[first], files[last], data, columns, warnings)
        if found:
            title = words.format(first) + (f" and of step {last}" if folder == "rollouts" else f" and at step {last}")
            both = title if first != last else words.format(first)
            shown.append({"title": both, "steps": [first, last], "matches": found})
    return shown, warnings


def write_run_page(path: Path, run: RunData) -> None:
    """Write the page of a run. Raises TautError when the file cannot be written."""
    keys = run.keys()
    panels = panels_of(keys)
    shown, more = comparisons(run)
    data = {
        "steps": run.steps,
        "numbers": {key: _rounded(run.series(key)) for key in keys},
        "alarms": [[str(t) for t in row.get("alarms") or []] for row in run.rows],
        "panels": [p.data() for p in panels],
        "comparisons": shown,
    }
    title = f"Run {run.path.resolve().name}"
    warnings = [*run.warnings, *more, *([f"The run failed: {run.error}"] if run.error else [])]
    body = [
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(_lead(run))}</p>',
        warning_list(warnings),
        _facts(run),
        _alarms_section(run),
        _curves_section(panels, keys),
        _rollouts_section(shown, run),
        _settings_section(run),
    ]
    write_page(path, title, "\n".join(part for part in body if part), data, "run.js")


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if v is None else float(f"{v:.6g}") for v in values]


def _lead(run: RunData) -> str:
    reward = run.config.get("reward")
    kind = reward.get("type", "") if isinstance(reward, dict) else reward or ""
    parts = [f"model {run.config['model']}" if run.config.get("model") else "", f"reward {kind}" if kind else ""]
    return ", ".join([*(p for p in parts if p), f"folder {run.path}"]) + "."


def _ends(run: RunData, key: str) -> tuple[float | None, float | None, float | None]:
    """The value at the first and at the last step that have one, and the mean of the last TAIL_STEPS of them."""
    values = [v for v in run.series(key) if v is not None]
    if not values:
        return None, None, None
    return values[0], values[-1], float(np.mean(values[-TAIL_STEPS:]))


def _arrow(run: RunData, key: str, digits: int) -> str:
    first, last, _ = _ends(run, key)
    if first is None or last is None:
        return "n/a"
    return f"{first:.{digits}f} → {last:.{digits}f}" if len(run.rows) > 1 else f"{first:.{digits}f}"


def _steps_text(run: RunData) -> str:
    total = run.config.get("steps")
    return f"{run.steps[-1]} of {total}" if isinstance(total, int) else str(run.steps[-1])


def _facts(run: RunData) -> str:
    raised = alarms_of(run.rows)
    alarming = len({step for a in raised for step in a.steps})
    seconds = sum(v for v in run.series("time/step") if v is not None)
    rollouts = sum(v for v in run.series("rollouts") if v is not None)
    facts = [("state", run.state, ""), ("steps", _steps_text(run), f"{seconds:,.0f} s, {rollouts:,.0f} rollouts")]
    for name, key, digits in (("accuracy", "accuracy", 3), ("tokens", "tokens", 1)):
        mean = _ends(run, key)[2]
        several = mean is not None and len(run.rows) > TAIL_STEPS
        facts.append((name, _arrow(run, key, digits), f"last {TAIL_STEPS} steps: {mean:.{digits}f}" if several else ""))
        if _ends(run, HELD_OUT + key)[0] is not None:
            tests = sum(v is not None for v in run.series(HELD_OUT + key))
            note = f"first and last of {tests} tests" if tests > 1 else "one test"
            facts.append((f"{name}, held out", _arrow(run, HELD_OUT + key, digits), note))
    kinds = ", ".join(a.kind for a in raised)
    facts.append(("alarms", f"{alarming} steps" if alarming != 1 else "1 step", kinds or "none was raised"))
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{f'<small>{escape(note)}</small>' if note else ''}</dd></div>"
        for name, value, note in facts
    )
    return f'<dl class="facts">{items}</dl>'


def _alarms_section(run: RunData) -> str:
    heads = [Head("alarm", words=True), Head("steps", "down"), Head("at step", words=True),
             Head("at the last of them", words=True)]  # fmt: skip
    rows = [
        (a.kind, [Cell(a.kind), Cell(str(len(a.steps)), len(a.steps)), Cell(spans(a.steps), a.steps[0], words=True),
                  Cell(a.last.partition(": ")[2] or a.last, words=True)])
        for a in alarms_of(run.rows)
    ]  # fmt: skip
    events = [f"step {row['step']}: {event}" for row in run.rows for event in row.get("events") or []]
    inside = table("alarms", "Marked on the curves with a triangle.", heads, rows) if rows else ""
    listed = "".join(f"<li>{escape(e)}</li>" for e in events)
    told = f"<h3>Events of the engine</h3><ul>{listed}</ul>" if events else ""
    return f"<h2>Alarms</h2>\n{inside}{told}" if inside or told else ""


def _curves_section(panels: Sequence[Panel], keys: Sequence[str]) -> str:
    drawn = {key for panel in panels for _, key in panel.curves}
    rest = [key for key in keys if key not in drawn]
    made = [_panel(p.title, p.note) for p in panels]
    if rest:
        options = "".join(f"<option>{escape(k)}</option>" for k in rest)
        made.append(
            _panel("Any other number", "", f'<select id="other" aria-label="Any other number">{options}</select>')
        )
    smooth = (
        '<div class="controls"><label>Running mean over <input type="number" id="smooth" min="1" max="999" value="1"> steps'
        '</label><span class="note">Hover a curve, or move along it with the arrow keys, for the numbers of a step.</span></div>'
    )
    return f'<h2>By step</h2>\n{smooth}<div class="panels">\n{"".join(made)}</div>'


def _panel(title: str, note: str, control: str = "") -> str:
    told = f' <small class="note">{escape(note)}</small>' if note else ""
    return (
        f'<section class="panel"><h3>{escape(title)}{control}{told}</h3><div class="legend"></div>'
        f'<svg viewBox="0 0 560 220" tabindex="0" role="img" aria-label="{escape(title)} by step"></svg></section>\n'
    )


def _rollouts_section(shown: Sequence[dict[str, Any]], run: RunData) -> str:
    if shown:
        return '<h2>Rollouts, before and after</h2>\n<div id="comparisons"></div>'
    log = run.config.get("log")
    off = isinstance(log, dict) and log.get("rollouts") is False
    why = "log.rollouts is false" if off else "no file of this run's steps is in rollouts/ or heldout/"
    return f'<h2>Rollouts, before and after</h2>\n<p class="note">None to show: {why}.</p>'


def _settings_section(run: RunData) -> str:
    if not run.config:
        return '<h2>Settings</h2>\n<p class="note">No config.yaml in this folder.</p>'
    rows = [(k, [Cell(k), Cell(_text(v), words=True)]) for k, v in flat(run.config).items()]
    inner = table("settings", "", [Head("setting"), Head("value", words=True)], rows, sortable=False)
    find = '<div class="controls"><label>Find <input type="search" id="find" placeholder="name or value"></label></div>'
    told = ""
    if run.versions:
        text = json.dumps(run.versions, indent=1, ensure_ascii=False)
        told = f"<details><summary>Versions</summary><pre>{escape(text)}</pre></details>"
    return f"<h2>Settings</h2>\n<details><summary>{len(rows)} settings</summary>{find}{inner}</details>{told}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def summary(run: RunData) -> str:
    """The run in a few lines for the console."""
    lines = [f"{run.path}: {run.state}, step {_steps_text(run)}"]
    for name, key, digits in (("accuracy", "accuracy", 3), ("tokens", "tokens", 1)):
        mean = _ends(run, key)[2]
        several = mean is not None and len(run.rows) > TAIL_STEPS
        line = f"{name:<9} {_arrow(run, key, digits)}" + (
            f" (last {TAIL_STEPS} steps: {mean:.{digits}f})" if several else ""
        )
        held = f"; held out {_arrow(run, HELD_OUT + key, digits)}" if _ends(run, HELD_OUT + key)[0] is not None else ""
        lines.append(line + held)
    raised = [f"alarm     {a.kind}: step {spans(a.steps)}" for a in alarms_of(run.rows)]
    return "\n".join([*lines, *(raised or ["alarms    none"])])


def main(argv: Sequence[str] | None = None) -> int:
    """`taut report RUN [--out FILE.html]`: one training run as one HTML page that needs nothing but a browser, and a summary.

    Curves by step (accuracy, tokens, truncation, each reward term, KL, entropy, gradient norm, verdicts, groups without signal,
    time by phase, and any other number of metrics.jsonl), alarms, settings, and rollouts of the first and the last step side by
    side. A run that is still going, or was killed, is reported as far as it went.
    """
    parser = argparse.ArgumentParser(prog="taut report", description=main.__doc__)
    parser.add_argument("run", metavar="RUN", help="a run folder, the `out` of a taut train")
    parser.add_argument("--out", metavar="FILE.html", help="the page (default: RUN/report.html)")
    args = parser.parse_args(argv)
    run = read_run(Path(args.run))
    out = Path(args.out) if args.out else run.path / "report.html"
    if out.suffix not in (".html", ".htm"):
        raise TautError(f"--out {out}: the page is one file; give a name that ends in .html")
    write_run_page(out, run)
    print(summary(run))
    for warning in run.warnings:
        print(f"note: {warning}")
    print(out)
    return 0
