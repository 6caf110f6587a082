"""Rehearsals on made-up logs of which the best policy is known, and `taut replay LOG steps=N`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.predicted_ranks import MEASURES
from benchmarks.predicted_rehearsed import at_the_end, in_steps
from benchmarks.predicted_rehearsed import section as ranks_section
from benchmarks.rehearsal import Course, Rehearsal, _chosen
from benchmarks.replay_plan import Configuration, configurations
from benchmarks.sweep_predict import Log
from rewards.errors import TautError
from rollout.foreign import Foreign
from taut import main
from tests.test_predicted import made

FINE, COARSE, AGAIN, END = 7, 8, 9, 1  # tokens of the made-up styles
SHORT = Course(30, 6, 8, 2)


def log(path: Path, problems: int = 20, samples: int = 12) -> Path:
    """Three styles a problem: fine (20 tokens, right), fine and again (40, right), coarse (8, right one time in four)."""
    rng = np.random.default_rng(0)
    lines = []
    for p in range(problems):
        for k in range(samples):
            style = k % 3
            ids = ([FINE] * 19, [FINE] * 19 + [AGAIN] * 20, [COARSE] * 7)[style] + [END]
            right = style < 2 or rng.random() < 0.25
            lines.append(
                {"problem_id": f"p{p}", "sample_id": k, "correct": bool(right), "length": len(ids), "token_ids": ids}
            )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def linear(weight: float, gated: bool = True) -> dict[str, Any]:
    short: dict[str, Any] = {"type": "weight", "weight": -weight, "term": {"type": "linear_length"}}
    if gated:
        short = {"type": "rollout_gate", "when": {"type": "is_correct"}, "then": short}
    return {"reward": {"type": "sum", "terms": [{"type": "correct"}, short]}, "advantage": {"type": "dr_grpo"}}


def one(entry: dict[str, Any]) -> Configuration:
    return configurations({"one": entry})[0]


def test_a_policy_comes_to_rest_where_its_reward_is_highest(tmp_path: Path) -> None:
    rehearsal = Rehearsal(Log(log(tmp_path / "log.jsonl"), Foreign(cap=40)))
    plain, mild, harsh = (
        rehearsal(one(entry), SHORT).mean(axis=0)
        for entry in ({"reward": "correct", "advantage": "dr_grpo"}, linear(0.3), linear(4.0, gated=False))
    )
    assert plain[0] == pytest.approx(mild[0]) and plain.shape == (31, 2)
    assert plain[-1, 0] > 0.97  # no coarse ones, whatever their length
    assert mild[-1, 0] > 0.97 and mild[-1, 1] == pytest.approx(20, abs=2)  # right, and not again
    assert harsh[-1, 0] < 0.4 and harsh[-1, 1] == pytest.approx(8, abs=2)  # length is all that counts
    assert mild[-1, 1] < plain[-1, 1]


def test_a_rehearsal_is_repeated_to_the_bit_and_leaves_the_reward_as_it_was(tmp_path: Path) -> None:
    rehearsal = Rehearsal(Log(log(tmp_path / "log.jsonl"), Foreign(cap=40)))
    hapo = one({"recipe": "hapo"})
    state = json.dumps(hapo.reward.state_dict(), default=str)
    first = rehearsal(hapo, SHORT)
    assert json.dumps(hapo.reward.state_dict(), default=str) == state
    np.testing.assert_array_equal(first, rehearsal(hapo, SHORT))
    assert not np.array_equal(first[0], first[1])  # the repeats have draws of their own
    longer = rehearsal(hapo, Course(40, 6, 8, 2))
    np.testing.assert_array_equal(first[:, :30], longer[:, :30])  # more steps go on from there


@pytest.mark.parametrize("prompts", [1, 4, 7, 20])
def test_no_problem_comes_twice_in_a_step_or_is_forgotten(prompts: int) -> None:
    rng, waiting, met = np.random.default_rng(0), list[int](), np.zeros(10, dtype=int)
    for _ in range(60):
        step = _chosen(waiting, 10, prompts, rng)
        assert len(set(step.tolist())) == len(step) == min(prompts, 10)
        met[step] += 1
        assert met.max() - met.min() <= 2


def test_what_cannot_be_rehearsed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.loads(line) for line in log(path).read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "token_ids"}) + "\n" for row in lines))
    with pytest.raises(TautError, match=r"log\.jsonl: has no token ids"):
        Rehearsal(Log(path, Foreign(cap=40)))
    alike = [row | {"token_ids": [FINE, END], "length": 2} for row in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in alike))
    with pytest.raises(TautError, match="all rollouts of a problem are alike"):
        Rehearsal(Log(path, Foreign(cap=40)))


def test_text_is_rehearsed_by_the_tokens_that_count_it(tmp_path: Path) -> None:
    path, said = tmp_path / "log.jsonl", {FINE: "1", AGAIN: "Wait", COARSE: "2"}
    lines = [json.loads(line) for line in log(path).read_text().splitlines()]
    rows = [{k: row[k] for k in ("problem_id", "sample_id", "correct")} for row in lines]
    for row, ids in zip(rows, (line["token_ids"] for line in lines), strict=True):
        row["response"] = "".join(said.get(i, "") for i in ids)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    foreign = Foreign(tokenizer="benchmarks:overthinker/checkpoint", keep_tokens=True)
    ids = Rehearsal(Log(log(tmp_path / "ids.jsonl"), Foreign()))
    text = Rehearsal(Log(path, foreign))
    mild = one(linear(0.3))
    np.testing.assert_allclose(text(mild, SHORT)[:, -1, 0], ids(mild, SHORT)[:, -1, 0], atol=0.02)


def test_what_the_replay_judges_the_rehearsal_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text without verdicts: right is what is in the box, and that is learned."""
    rows = [
        {"problem_id": f"p{p}", "sample_id": k, "gold": "1", "response": f"{'Wait' * (k % 4)}\\boxed{{{1 + (k % 2)}}}"}
        for p in range(12) for k in range(8)
    ]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        "replay",
        str(path),
        "extraction=boxed",
        "tokenizer=benchmarks:overthinker/checkpoint",
        "cap=40",
        "steps=20",
    ]
    assert main([*asked, "reward=correct", "advantage=dr_grpo", "--out", str(tmp_path / "out")]) == 0
    assert "20 steps of 10 problems x 8 rollouts, rehearsed" in capsys.readouterr().out
    with (tmp_path / "out" / "replay.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["accuracy"]) == 0.5 and float(row["rehearsed_accuracy"]) > 0.8


def test_replay_tells_and_draws_where_so_many_steps_lead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = log(tmp_path / "log.jsonl"), tmp_path / "out"
    asked = [
        "replay",
        str(path),
        "cap=40",
        "steps=20",
        "prompts=6",
        f"configs={tmp_path / 'what_if.yaml'}",
        "--out",
        str(out),
    ]
    mild, harsh = (json.dumps(linear(w, gated)) for w, gated in ((0.3, True), (4.0, False)))
    pear = '{"reward": "pear"}'
    (tmp_path / "what_if.yaml").write_text(f"mild: {mild}\nharsh: {harsh}\npear: {pear}\n")
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "20 steps of 6 problems x 8 rollouts, rehearsed" in told and "not rehearsed: pear" in told
    assert {p.name for p in out.iterdir()} == {"report.md", "replay.csv", "arrows.png", "rehearsed.png"}
    with (out / "replay.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["harsh"]["rehearsed_tokens"]) < float(rows["mild"]["rehearsed_tokens"])
    assert float(rows["harsh"]["rehearsed_accuracy"]) < 0.5 < float(rows["mild"]["rehearsed_accuracy"])
    assert main(["replay", str(path), str(path), "steps=3", "reward=kimi"]) == 2
    assert "takes one log, these are 2" in capsys.readouterr().err


def test_ranks_of_rehearsals_are_those_of_what_they_foretell() -> None:
    rows, rng = made(0.0), np.random.default_rng(3)
    for c, r in enumerate(rows):
        for m in MEASURES:
            r.rehearsed[m] = np.linspace(0, c, 21) + 0.01 * rng.normal(size=(4, 21))
    for m in MEASURES:
        value, (low, high) = at_the_end(rows, m, 200)
        assert value == pytest.approx(1.0) and low <= value <= high + 1e-9
        assert in_steps(rows, m, 2, 9, 200)[0] > 0.95
    told = ranks_section(rows, 200)
    assert "| all " in told and "tokens, steps 2 to 20" in told
    turned = [r.rehearsed | {m: -v for m, v in r.rehearsed.items()} for r in rows]
    for r, of in zip(rows, turned, strict=True):
        r.rehearsed.update(of)
    assert at_the_end(rows, "tokens", 200)[0] == pytest.approx(-1.0)
