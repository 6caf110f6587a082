"""The whole path, on the embedded model: real vLLM, and real Ray actors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rollout.paths import locate
from taut import main
from tests.runs import SMALL, launch, rows

pytestmark = pytest.mark.slow


def test_training_on_vllm_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    run = tmp_path / "run"
    options = ["prompts=8", "heldout.problems=60", "steps=10", "heldout.every=5", "rollout.engine=vllm"]
    harsh = "reward={type: sum, terms: [correct, {type: weight, weight: -4, term: linear_length}]}"
    process = launch(["train", f"out={run}", *options, harsh], tmp_path / "log.txt")
    process.join()
    assert process.exitcode == 0, (tmp_path / "log.txt").read_text()
    done = rows(run)
    assert len(done) == 10 and all(row["sync_gap"] < 1e-4 and row["mismatch"] < 1e-5 for row in done)
    first, last = (sum(row["tokens"] for row in part) / 3 for part in (done[:3], done[-3:]))
    assert last < 0.8 * first, (first, last)  # a harsh penalty shows within ten steps
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "7+5"}], add_generation_prompt=True, return_tensors="pt"
    )
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=100, do_sample=False)[0])
    assert "</think>" in text and "boxed" in text


def test_training_with_two_ray_actors_gives_the_numbers_of_one_process(tmp_path: Path) -> None:
    options = [*SMALL, "rollout.engine=transformers", "steps=3"]
    for name, workers in (("one", 0), ("two", 2)):
        process = launch(
            ["train", f"out={tmp_path / name}", *options, f"rollout.workers={workers}"],
            tmp_path / "log.txt",
        )
        process.join()
        assert process.exitcode == 0, (tmp_path / "log.txt").read_text()
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert (
            one["accuracy"] == two["accuracy"] and one["tokens"] == two["tokens"]
        )  # draws do not depend on the worker
        assert one["loss"] == pytest.approx(
            two["loss"], rel=1e-3, abs=1e-5
        )  # log-probs to the rounding of other batches


def test_a_response_longer_than_the_context_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", f"out={run}", *SMALL, "rollout.engine=transformers", "sampling.max_tokens=100000"]) == 2
    assert "max_tokens=100000 exceed the context" in capsys.readouterr().err
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert main(["train", f"out={run}", *SMALL, "rollout.engine=transformers", "steps=1"]) == 0  # nothing is in the way


def test_a_model_folder_without_tokenizer_and_shared_problems_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(locate("benchmarks:overthinker/checkpoint"), model, ignore=shutil.ignore_patterns("tokenizer*"))
    assert main(["train", f"out={tmp_path / 'a'}", *SMALL, "recipe=overthinker", f"model={model}"]) == 2
    assert f"{model}: no tokenizer in this model folder" in capsys.readouterr().err
    data = "benchmarks:overthinker/data/train.jsonl"
    assert main(["train", f"out={tmp_path / 'b'}", *SMALL, f"heldout.data={data}"]) == 2
    assert "8 problems are also trained on" in capsys.readouterr().err
