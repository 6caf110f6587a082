"""Others' rollouts as evaluations: judged by our verifier where asked, a point a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.collect import kind_of_pieces
from benchmarks.foreign_evaluations import foreign_samples, is_foreign
from rewards.errors import TautError
from rewards.verifier import Verifier
from rollout.foreign import Foreign
from taut import main

TOKENIZER = "benchmarks:overthinker/checkpoint"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows() -> list[dict[str, Any]]:
    """Two models on three problems, two samples each; the label of the last is wrong on purpose."""
    made = []
    for model, right in (("small", (0, 1)), ("large", (1, 1))):
        for p in range(3):
            for k, correct in enumerate(right):
                text = rf"so \boxed{{{p if correct else p + 1}}}"
                made.append(
                    {
                        "problem_id": f"p{p}",
                        "answer": str(p),
                        "response": text,
                        "model": model,
                        "correct": bool(correct),
                    }
                )
                made[-1]["sample_id"] = k
    return [*made[:-1], made[-1] | {"correct": False}]


def test_each_model_is_an_evaluation_and_labels_are_believed_unless_a_judge_is_given(tmp_path: Path) -> None:
    file = write(tmp_path / "rollouts.jsonl", rows())
    assert is_foreign(file)
    found = foreign_samples(file, Foreign(tokenizer=TOKENIZER, cap=64))
    assert {model: samples.verdict.tolist() for model, (samples, _) in found.items()} == {
        "small": [0, 1] * 3, "large": [1, 1, 1, 1, 1, 0],
    }  # fmt: skip
    assert (found["small"][0].length > 3).all()
    with Verifier() as judge:
        judged = foreign_samples(file, Foreign(tokenizer=TOKENIZER, cap=64, judge=judge))
        assert judged["large"][0].verdict.tolist() == [1] * 6
        torn = write(tmp_path / "torn.jsonl", [{k: v for k, v in row.items() if k != "answer"} for row in rows()])
        with pytest.raises(TautError, match=r"torn.jsonl:1: to judge a row .* columns.gold=NAME"):
            foreign_samples(torn, Foreign(tokenizer=TOKENIZER, judge=judge))


def test_replay_judges_what_has_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path / "log.jsonl", [{k: v for k, v in r.items() if k not in ("correct", "model")} for r in rows()[:6]]
    )
    asked = ["replay", str(file), f"tokenizer={TOKENIZER}", "cap=64", "reward=correct", "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "nothing says what is correct" in capsys.readouterr().err
    assert main([*asked, "extraction=boxed"]) == 0
    assert "6 rollouts of 3 problems" in capsys.readouterr().out


def test_a_front_of_what_others_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [row | {"source": "a" if row["problem_id"] != "p2" else "b"} for row in rows()]
    file = write(tmp_path / "rollouts.jsonl", made)
    asked = ["pareto", str(file), "--tokenizer", TOKENIZER, "--cap", "64", "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    said = capsys.readouterr()
    assert "| small " in said.out and "| large " in said.out
    assert "text counted by the tokenizer" in said.err and (tmp_path / "out" / "front.html").is_file()
    assert main([*asked, "--where", "source=a", "--extraction", "boxed"]) == 0
    assert "1.000" in capsys.readouterr().out
    assert main([*asked, "--where", "source=c"]) == 2
    assert "no rows with" in capsys.readouterr().err
    assert main(["pareto", f"mine={file}", *asked[2:]]) == 2
    assert "2 models; leave the name out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        (("correct", "dr_grpo", "clipped_token"), "plain"),
        (("correct", "canon", "clipped_token"), "shaped"),
        (("correct", "grpo", "drpo"), "shaped"),
        (("laser", "grpo", "clipped_token"), "shaped"),
    ],
)
def test_an_advantage_that_looks_at_length_shapes(pieces: tuple[str, str, str], kind: str) -> None:
    assert kind_of_pieces(*pieces) == kind
