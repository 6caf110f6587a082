"""Hand-made cases of every kind, right and wrong, in all modes: the verifier agrees with each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from rewards.batch import Verdict
from rewards.verifier import Verifier
from rewards.verifier.extract import Mode

ROWS = [
    json.loads(line)
    for line in Path(__file__).with_name("data").joinpath("verifier_variants.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_variant_is_judged_as_labelled(mode: Mode) -> None:
    rows = [row for row in ROWS if row["mode"] == mode]
    with Verifier(timeout_s=30, extraction=mode) as verifier:
        found = verifier.verify_many([(row["gold"], row["response"], "stop", False) for row in rows])
    assert {row["right"] for row in rows} == {True, False}
    pairs = zip(rows, found, strict=True)
    expected = {True: Verdict.CORRECT, False: Verdict.WRONG}
    assert not [(row, judged.reason) for row, judged in pairs if judged.verdict is not expected[row["right"]]]


def test_no_variant_is_there_twice() -> None:
    keys = [(row["gold"], row["mode"], row["response"]) for row in ROWS]
    assert len(keys) == len(set(keys))
