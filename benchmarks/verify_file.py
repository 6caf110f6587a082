"""Judge the responses of a file: verdicts, the rules that decided, and where they differ from the file's own labels.

taut verify rollouts.jsonl.gz                                     # columns gold (or answer), response, perhaps finish_reason, label
taut verify mine.parquet gold=target response=completion label=reward out=verdicts.jsonl
taut verify gsm8k.jsonl extraction=hash                           # the answer stands after ####; also answer_tag, free
taut verify runs/train                                            # a run's log, with the run's verifier: was it judged as today?

FILE is .jsonl, .jsonl.gz or .parquet, a run, or a folder of step-N.parquet. With a file of our own, labels are the logged
verdicts. Exit code: 0 when all was judged, 2 for a file or setting that cannot be used, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import Field

from benchmarks.arguments import as_pairs
from benchmarks.tables import table
from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.verifier import Judgement, Verifier
from rollout.rows import as_text, missing, read_rows, short
from trainers.config import VerifierConfig
from trainers.settings import parse_override, read_yaml, resolve, set_dotted

NAMES = {  # the columns looked for, in this order, where none is named
    "gold": ("gold", "answer", "ground_truth", "target", "solution"),
    "response": ("response", "prediction", "completion", "text", "output"),
    "label": ("label", "correct", "expected", "verdict"),
}
PROGRESS_S = 5.0
LABELS: dict[Any, bool | None] = {"true": True, "correct": True, "1": True, "1.0": True, "false": False, "wrong": False,
    "0": False, "0.0": False, "": None, "none": None, "unknown": None, "-1": None, "-1.0": None}  # fmt: skip


class VerifyConfig(VerifierConfig):
    """What `taut verify FILE` takes as key=value: columns, what to show and write, and every setting of the verifier."""

    file: str = Field(description=".jsonl, .jsonl.gz, .parquet, a run, or a folder of step-N.parquet")
    gold: str | None = Field(None, description=f"column; None: the first of {', '.join(NAMES['gold'])}")
    response: str | None = Field(None, description=f"column; None: the first of {', '.join(NAMES['response'])}")
    label: str | None = Field(None, description=f"column; None: the first of {', '.join(NAMES['label'])}, if any")
    finish_reason: str = Field("finish_reason", description="column; `length`: cut off, so there is no answer")
    thinking_open: bool = Field(
        False, description="the prompts ended with <think>; a column of this name says it by row"
    )
    out: str | None = Field(None, description="a .jsonl file to write, a line a response")
    show: int = Field(20, ge=0, description="so many disagreements and unknown verdicts are listed")


@dataclass(frozen=True)
class Row:
    """One response as the file has it. `label`: whether the file says it is right, None where it does not say."""

    place: str
    id: Any
    gold: str
    response: str
    finish_reason: str
    label: bool | None
    thinking_open: bool


@dataclass
class Tally:
    """What was found so far. `differing`: the first disagreements, a line each; `open`: unknown verdicts by gold and reason,
    how many and where the first of them stands."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[tuple[Verdict, str]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)  # agree, disagree, unknown
    differing: list[str] = field(default_factory=list)
    open: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, row: Row, judgement: Judgement, show: int) -> None:
        """One more verdict; at most `show` disagreements are kept."""
        verdict, reason = judgement.verdict, judgement.reason
        self.verdicts[verdict] += 1
        self.reasons[verdict, reason] += 1
        if verdict is Verdict.UNKNOWN:
            count, place = self.open.get((row.gold, reason), (0, row.place))
            self.open[row.gold, reason] = count + 1, place
        if row.label is None:
            return
        if verdict is Verdict.UNKNOWN:
            self.labels["unknown"] += 1
        elif row.label == (verdict is Verdict.CORRECT):
            self.labels["agree"] += 1
        else:
            self.labels["disagree"] += 1
            if len(self.differing) < show:
                label = "correct" if row.label else "wrong"
                self.differing.append(
                    f"{row.place}: labelled {label}, {verdict.name.lower()} ({reason}): gold {short(row.gold)}, "
                    f"answer {short(judgement.answer)}"
                )


def load_verify_config(arguments: Sequence[str]) -> VerifyConfig:
    """The config of `taut verify ARGUMENTS`: FILE and key=value (`--key value` means the same). Raises TautError.

    The verifier's settings are those of the run where FILE is one, unless they are given.
    """
    given = as_pairs(arguments)
    files = [argument for argument in given if "=" not in argument]
    if len(files) > 1:
        raise TautError(f"taut verify: one file at a time, not {', '.join(files)}; other arguments are key=value")
    values: dict[str, Any] = {"file": files[0]} if files else {}
    pairs = [parse_override(argument) for argument in given if "=" in argument]
    run = Path(str(next((value for keys, value in pairs if keys == ["file"]), values.get("file", "")))) / "config.yaml"
    if run.is_file():
        values |= read_yaml(run).get("verifier") or {}
    for keys, value in pairs:
        set_dotted(values, keys, value)
    if "file" not in values:
        raise TautError("taut verify: which file? Such as: taut verify rollouts.jsonl gold=answer response=text")
    return resolve(VerifyConfig, values, "taut verify")


def rows_of(config: VerifyConfig) -> Iterator[Row]:
    """The rows of the file, or of each file of the run or folder. Raises TautError (place, value, remedy)."""
    names: dict[str, str] | None = None
    for path in _files(Path(config.file)):
        for place, row in read_rows(path):
            if names is None:
                names = _columns(place, row, config)
            for name in ("gold", "response"):
                if names[name] not in row:
                    raise TautError(f"{place}: no {names[name]!r} among its columns ({', '.join(row)}); {name}=COLUMN")
            yield Row(
                place=place, id=row.get("id", row.get("problem_id")),
                gold=as_text(place, names["gold"], row[names["gold"]]),
                response=as_text(place, names["response"], row[names["response"]]),
                finish_reason=as_text(place, config.finish_reason, row.get(config.finish_reason)) or "stop",
                label=_label(place, names["label"], row),
                thinking_open=bool(row.get("thinking_open", config.thinking_open)),
            )  # fmt: skip


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise TautError(missing(path))
    if not path.is_dir():
        return [path]
    folder = path / "rollouts" if (path / "rollouts").is_dir() else path
    found = sorted(folder.glob("step-*.parquet"), key=lambda p: (len(p.name), p.name))
    if not found:
        raise TautError(
            f"{path}: holds no step-N.parquet; give a file, a run, or the rollouts or heldout folder of one"
        )
    return found


def _columns(place: str, row: dict[str, Any], config: VerifyConfig) -> dict[str, str]:
    """The column of each of NAMES: as told, else the first that the row has and that is not taken; "" for no label."""
    found: dict[str, str | None] = {name: getattr(config, name) for name in NAMES}
    for name, candidates in NAMES.items():
        if found[name] is None:
            found[name] = next((c for c in candidates if c in row and c not in found.values()), None)
        if found[name] is None and name != "label":
            has = ", ".join(row) or "none"
            raise TautError(f"{place}: none of {', '.join(candidates)} among its columns ({has}); say {name}=COLUMN")
    if config.label and config.label not in row:
        raise TautError(f"{place}: no {config.label!r} among its columns ({', '.join(row)}); say label=COLUMN")
    return {name: column or "" for name, column in found.items()}


def _label(place: str, name: str, row: dict[str, Any]) -> bool | None:
    value = row.get(name)
    key = str("" if value is None else value).strip().lower()
    if key not in LABELS:
        raise TautError(
            f"{place}: {name} is {short(value)}, not a label; write true, false or nothing, or say label=COLUMN"
        )
    return LABELS[key]


def verify_file(config: VerifyConfig, tally: Tally, say: Callable[[str], None]) -> None:
    """Judges every row into `tally`, writes `config.out` if any, says how far it is. Raises TautError."""
    settings = {name: getattr(config, name) for name in VerifierConfig.model_fields}
    waiting: dict[int, Row] = {}
    began = told = time.monotonic()

    def items() -> Iterator[tuple[str, str, str, bool]]:
        for i, row in enumerate(rows_of(config)):
            waiting[i] = row
            yield row.gold, row.response, row.finish_reason, row.thinking_open

    with Verifier(**settings) as verifier, _writer(config.out) as write:
        for i, judgement in verifier.stream(items()):
            row = waiting.pop(i)
            tally.add(row, judgement, config.show)
            write(i, row, judgement)
            if (now := time.monotonic()) - told > PROGRESS_S:
                told, done = now, tally.verdicts.total()
                say(f"{done:,} responses judged, {done / (now - began):,.0f}/s")
    if not tally.verdicts:
        raise TautError(f"{config.file}: holds no row; it needs one of {{gold, response}} or more")


@contextmanager
def _writer(out: str | None) -> Iterator[Callable[[int, Row, Judgement], None]]:
    """A function that takes verdicts as they come and writes them in the file's order; the file appears when all is done."""
    if out is None:
        yield lambda i, row, judgement: None
        return
    path = Path(out)
    if path.suffix != ".jsonl":
        raise TautError(f"out={out}: it is written as JSON lines; name it .jsonl")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            yield _in_order(file)
        os.replace(temporary, path)
    except OSError as error:
        raise TautError(f"out={out}: cannot be written ({error}); choose another `out`") from error
    finally:
        temporary.unlink(missing_ok=True)


def _in_order(file: IO[str]) -> Callable[[int, Row, Judgement], None]:
    ready: dict[int, str] = {}
    following = 0

    def write(i: int, row: Row, judgement: Judgement) -> None:
        nonlocal following
        entry = {
            "place": row.place, "id": row.id, "gold": row.gold, "answer": judgement.answer, "label": row.label,
            "verdict": judgement.verdict.name.lower(), "reason": judgement.reason, "seconds": round(judgement.seconds, 6),
        }  # fmt: skip
        ready[i] = json.dumps(entry) + "\n"  # ASCII: what a model wrote may hold half of a character
        while following in ready:
            file.write(ready.pop(following))
            following += 1

    return write


def report(tally: Tally, extraction: str, show: int) -> str:
    """Verdicts, reasons, what the labels say, and lists of `show` lines at most, as text."""
    count, total = tally.verdicts, tally.verdicts.total()
    known = total - count[Verdict.UNKNOWN]
    share = f"{count[Verdict.CORRECT] / known:.4f}" if known else "none"
    lines = [
        f"{total:,} responses, extraction {extraction}: accuracy {share} ({count[Verdict.CORRECT]:,} correct of {known:,} "
        f"with a known verdict), {count[Verdict.UNKNOWN]:,} unknown"
    ]
    ordered = sorted(tally.reasons.items(), key=lambda item: (-item[0][0], -item[1]))
    cells = [[v.name.lower(), reason, f"{n:,}", f"{n / total:.4f}"] for (v, reason), n in ordered]
    lines.append(table([["verdict", "reason", "responses", "share"], *cells]))
    if labels := tally.labels.total():
        known = tally.labels["agree"] + tally.labels["disagree"]
        agreement = f"{tally.labels['agree'] / known:.4f}" if known else "none"
        lines.append(
            f"labels: {labels:,}; agreement {agreement} of {known:,} with a known verdict; "
            f"{tally.labels['disagree']:,} disagree, {tally.labels['unknown']:,} unknown"
        )
    if tally.differing:
        lines.append("\n".join([f"disagreements, the first {len(tally.differing)}:", *tally.differing]))
    if tally.open and show:
        unknown = [
            f"{place}: gold {short(gold)}: {reason}" + (f", and {n - 1} more of this gold" if n > 1 else "")
            for (gold, reason), (n, place) in list(tally.open.items())[:show]
        ]
        lines.append("\n".join([f"unknown, the first {len(unknown)} of {len(tally.open)} golds:", *unknown]))
    return "\n\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`taut verify FILE key=value ...`: judge, write, print the tables."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        fields = VerifyConfig.model_fields.items()
        print(__doc__, *(f"  {k:<14} {f.description or ''} (default: {f.default})" for k, f in fields), sep="\n")
        return 0
    config, tally = load_verify_config(arguments), Tally()
    code = 0
    try:
        verify_file(config, tally, lambda line: print(f"verify: {line}", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("verify: interrupted; what was judged until then:", file=sys.stderr)
        code = 130
    if tally.verdicts:
        print(report(tally, config.extraction, config.show))
    if config.out and not code:
        print(config.out)
    return code


if __name__ == "__main__":
    sys.exit(main())
