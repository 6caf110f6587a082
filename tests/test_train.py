"""The whole path, on the embedded model: it trains, and a run killed at any moment resumes to the same bits."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taut import main
from tests.runs import SMALL, assert_same_run, launch, rows

pytestmark = pytest.mark.slow
PRELOAD = {
    "transformers": ["trainers.grpo", "rollout.transformers_engine"],
    "vllm": ["trainers.grpo", "rollout.vllm_engine", "vllm"],
}
ENGINES = [
    "transformers",
    pytest.param(
        "vllm", marks=pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed")
    ),
]


def steps_done(run: Path) -> int:
    """Whole lines of metrics.jsonl, which another process is writing."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_at_ten_random_moments_it_resumes_to_the_same_bits(engine: str, tmp_path: Path) -> None:
    options = [*SMALL, f"rollout.engine={engine}", "steps=20", "checkpoint.every=2"]
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log.txt"
    unbroken = launch(["train", f"out={whole}", *options], log, PRELOAD[engine])
    unbroken.join()
    assert unbroken.exitcode == 0, log.read_text()
    a_step = float(np.median([json.loads(line)["time/step"] for line in (whole / "metrics.jsonl").open()]))

    chance, moments = random.Random(0), []
    process = launch(["train", f"out={broken}", *options], log, PRELOAD[engine])
    for _ in range(10):
        # At start-up, or in the middle of a step, of a save, of a test: some steps after the start plus part of a step.
        wait_for = steps_done(broken) + chance.choice([0, 1, 1, 2]) if (broken / "config.yaml").exists() else 1
        while process.is_alive() and (steps_done(broken) < wait_for or not (broken / "config.yaml").exists()):
            time.sleep(0.01)
        process.join(chance.uniform(0, 1.5 * a_step))
        assert process.exitcode is None, log.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        moments.append(steps_done(broken))
        process = launch(["train", f"resume={broken}"], log, PRELOAD[engine])
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert len(set(moments)) > 3, moments  # the kills were spread over the run
    assert_same_run(whole, broken)


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    options = [*SMALL, "rollout.engine=transformers", "steps=4", "checkpoint.every=100"]
    whole, stopped, log = tmp_path / "whole", tmp_path / "stopped", tmp_path / "log.txt"
    assert main(["train", f"out={whole}", *options]) == 0
    process = launch(["train", f"out={stopped}", *options], log, PRELOAD["transformers"])
    while not (stopped / "metrics.jsonl").exists() or not (stopped / "metrics.jsonl").read_text():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130 and f"resume with: taut train resume={stopped}" in log.read_text()
    assert json.loads((stopped / "status.json").read_text())["state"] == "interrupted"
    assert main(["train", f"resume={stopped}"]) == 0
    assert_same_run(whole, stopped)


def test_training_on_vllm_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    run = tmp_path / "run"
    options = ["prompts=8", "heldout.problems=60", "steps=10", "heldout.every=5", "rollout.engine=vllm"]
    harsh = "reward={type: sum, terms: [correct, {type: weight, weight: -4, term: linear_length}]}"
    process = launch(["train", f"out={run}", *options, harsh], tmp_path / "log.txt", PRELOAD["vllm"])
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
            PRELOAD["transformers"],
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
