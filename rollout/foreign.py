"""Rows of others' logs as batches: which column is what, how long a response is, whether it is correct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewards.batch import Batch, Verdict
from rewards.errors import TautError
from rewards.verifier import Verifier
from rewards.verifier.verifier import Item
from rollout.log import Wanted
from rollout.paths import locate
from rollout.prompts import load_tokenizer
from rollout.rows import as_text, short

Row = tuple[str, dict[str, Any]]  # where it stands, what it holds
KNOWN = (  # columns of ours that a row may have
    "step", "problem_id", "problem", "sample_id", "correct", "gold", "length", "token_ids", "response", "truncated",
)  # fmt: skip
GOLDS = ("gold", "answer", "ground_truth", "gts")  # what others call it, where `columns.gold` does not say
DIALECTS: dict[str, tuple[frozenset[str], dict[str, str]]] = {  # by the columns that give them away
    "verl": (frozenset({"input", "output", "score"}), {"problem": "input", "response": "output"}),
    "TRL": (frozenset({"prompt", "completion"}), {"problem": "prompt", "response": "completion"}),
}


@dataclass
class Foreign:
    """How to read logs that are not ours.

    columns: our names (KNOWN) and the file's, where they differ; `correct` is 0, 1, true, false or null (unknown).
    tokenizer: a model folder, by which responses are counted where there are neither lengths nor token ids; a response that
    ended by itself counts one more, its end-of-sequence. cap: the token limit of a response; those that reach it count as
    truncated where no column says it. where: only rows with these values. notes: remarks for the report;
    counted_by: what measured the lengths so far. wanted: see `read_rollouts`. judge: judges responses against the column of
    golds, in place of a column of verdicts. keep_tokens: text that is counted is kept as these tokens, which are hardly other than
    those that were sampled.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    cap: int | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counted_by: str | None = None
    wanted: Wanted = lambda meta: frozenset({"tokens"})
    judge: Verifier | None = None
    keep_tokens: bool = False
    _encoder: Any = None

    def __post_init__(self) -> None:
        if odd := sorted(set(self.columns) - set(KNOWN)):
            raise TautError(f"columns.{odd[0]}: no such column of ours; it is one of {', '.join(KNOWN)}")

    def note(self, text: str) -> None:
        """Keep a remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def encode(self, place: str, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, end-of-sequence not included. Raises TautError without a tokenizer."""
        if self.tokenizer is None:
            raise TautError(
                f"{place}: neither lengths nor token ids; name the tokenizer that counts the responses (tokenizer=FOLDER, "
                "such as benchmarks:overthinker/checkpoint), or the column (columns.length=NAME)"
            )
        if self._encoder is None:
            self._encoder = load_tokenizer(locate(self.tokenizer))
        out: list[list[int]] = []
        for start in range(0, len(texts), 1024):
            out += self._encoder(texts[start : start + 1024], add_special_tokens=False)["input_ids"]
        return out


def one_measure(foreign: Foreign, measure: str, place: str) -> None:
    """Lengths by two tokenizers are no lengths."""
    if foreign.counted_by not in (None, measure):
        raise TautError(
            f"{place}: its lengths are by {measure}, those before it by {foreign.counted_by}; lengths by different tokenizers "
            "cannot be mixed: replay these logs one by one"
        )
    foreign.counted_by = measure


def column_names(first: tuple[str, dict[str, Any]], foreign: Foreign) -> tuple[dict[str, str], str]:
    """({our name: the file's}, dialect) from the first row and what the user said."""
    place, row = first
    names = {name: name for name in KNOWN if name in row}
    dialect = "rows"
    for kind, (signs, known) in DIALECTS.items():
        if signs <= set(row):
            names, dialect = names | known, kind
            if kind == "verl" and "correct" not in names and "acc" in row:
                names["correct"] = "acc"
            break
    if gold := next((name for name in GOLDS if name in row), None):
        names.setdefault("gold", gold)
    for ours, theirs in foreign.columns.items():
        if theirs not in row:
            raise TautError(f"{place}: no column {theirs!r} for columns.{ours}; it has {', '.join(sorted(row))}")
        names[ours] = theirs
    if foreign.judge and not {"gold", "response"} <= set(names):
        raise TautError(
            f"{place}: to judge a row takes its gold answer and its response; give columns.gold=NAME and columns.response=NAME, "
            f"of {', '.join(sorted(row))}"
        )
    if "correct" not in names and not foreign.judge:
        raise TautError(
            f"{place}: nothing says what is correct; name the column with columns.correct=NAME (not a shaped reward), one of "
            f"{', '.join(sorted(row))}"
        )
    if "problem_id" not in names and "problem" not in names:
        raise TautError(f"{place}: nothing says which problem a row belongs to; give columns.problem_id=NAME")
    return names, dialect


def to_batch(rows: list[Row], names: dict[str, str], foreign: Foreign) -> Batch:
    """Rows as a batch, a group a problem. Raises TautError naming the row and its remedy."""

    def column(name: str) -> list[Any] | None:
        if name not in names:
            return None
        values = [row.get(names[name]) for _, row in rows]
        if name not in ("correct", "problem_id") and None in values:
            place = rows[values.index(None)][0]
            raise TautError(f"{place}: no {names[name]!r}; the row is torn or of another kind: mend it or leave it out")
        return values

    ids = column("problem_id") or [None] * len(rows)
    problems = column("problem") if None in ids else None
    if problems is None and None in ids:
        raise TautError(f"{rows[ids.index(None)][0]}: no problem id and no problem text; give columns.problem=NAME")
    keys = [str(i) if i is not None else str(problems[k]) for k, i in enumerate(ids)]  # type: ignore[index]
    group = {key: g for g, key in enumerate(dict.fromkeys(keys))}
    samples = column("sample_id")
    if samples is not None:
        _refuse_repeats(rows, keys, samples)
    tokens = column("token_ids")
    truncated = column("truncated")
    length, read = _lengths(rows, column, tokens, truncated, foreign)
    longest = foreign.cap or int(max(length))
    if foreign.cap is not None and int(max(length)) > foreign.cap:
        over = [place for (place, _), n in zip(rows, length, strict=True) if n > foreign.cap]
        foreign.note(
            f"{over[0]}: {len(over)} responses are longer than cap={foreign.cap} (first: this row); is the cap right?"
        )
    if truncated is None:
        at_cap = foreign.cap is not None
        foreign.note(
            f"truncated: taken to be the responses of {foreign.cap} tokens or more"
            if at_cap
            else "truncated: unknown, none is taken to be; give cap=TOKENS or columns.truncated=NAME"
        )
        truncated = [at_cap and n >= longest for n in length]
    return Batch(
        group=[group[key] for key in keys],
        problem_id=keys,
        length=length,
        verdict=_judged(rows, names, truncated, foreign.judge)
        if foreign.judge
        else [_verdict(place, row.get(names["correct"]), names["correct"]) for place, row in rows],
        sample_id=np.arange(len(rows)),
        truncated=truncated,
        max_tokens=[longest] * len(rows),
        tokens=read if foreign.keep_tokens and tokens is None else tokens,
    )


def _lengths(
    rows: list[Any], column: Any, tokens: Any, truncated: Any, foreign: Foreign
) -> tuple[list[int], list[list[int]] | None]:
    """(the lengths, the tokens where text had to be counted)."""
    place = rows[0][0]
    if tokens is not None:
        one_measure(foreign, "token ids", place)
        return [len(ids) for ids in tokens], None
    if (length := column("length")) is not None:
        one_measure(foreign, "the column of lengths", place)
        return length, None
    if (texts := column("response")) is None:
        raise TautError(f"{place}: no responses; give columns.response=NAME or columns.length=NAME")
    texts = [
        text if isinstance(text, str) else _said(row_place, text)
        for (row_place, _), text in zip(rows, texts, strict=True)
    ]
    read = foreign.encode(place, texts)
    counts = [len(ids) for ids in read]
    one_measure(foreign, f"tokenizer {foreign.tokenizer}", place)
    foreign.note(f"lengths: text counted by the tokenizer of {foreign.tokenizer}, plus one for the end of a response")
    over = truncated or [foreign.cap is not None and n >= foreign.cap for n in counts]
    return [n + (not cut) for n, cut in zip(counts, over, strict=True)], read


def _judged(rows: list[Any], names: dict[str, str], truncated: list[bool], judge: Verifier) -> list[Verdict]:
    """Verdicts of our verifier: a response that was cut off has no answer."""
    items: list[Item] = []
    for (place, row), cut in zip(rows, truncated, strict=True):
        text = row[names["response"]]
        text = text if isinstance(text, str) else _said(place, text)
        items.append((as_text(place, names["gold"], row[names["gold"]]), text, "length" if cut else "stop", False))
    return [judgement.verdict for judgement in judge.verify_many(items)]


def _said(place: str, turns: Any) -> str:
    """The text of a completion that is a list of chat messages."""
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns):
        raise TautError(f"{place}: the response is {short(turns)}; expected text or a list of messages with `content`")
    return "".join(turn["content"] for turn in turns)


def _refuse_repeats(rows: list[Row], keys: list[str], samples: list[Any]) -> None:
    seen: dict[tuple[str, Any], str] = {}
    for (place, _), key, sample in zip(rows, keys, samples, strict=True):
        if (key, sample) in seen:
            raise TautError(
                f"{place}: sample {sample} of problem {short(key)} stands at {seen[key, sample]} already; remove the copy"
            )
        seen[key, sample] = place


def _verdict(place: str, value: Any, name: str) -> Verdict:
    if value is None:
        return Verdict.UNKNOWN
    if isinstance(value, bool | int | float) and value in (0, 1):
        return Verdict.CORRECT if value else Verdict.WRONG
    raise TautError(
        f"{place}: {name} is {short(value)}, no verdict; it must be 0, 1, true, false or null (unknown): name the column of raw "
        "correctness with columns.correct=NAME"
    )
