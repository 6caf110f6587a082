"""A run killed at any moment, or stopped by Ctrl-C, resumes to the same bits; with transformers and with vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from taut import main
from tests.runs import SMALL, assert_same_run, hurried, launch

pytestmark = pytest.mark.slow
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
    options = [*SMALL, f"rollout.engine={engine}", "steps=22", "checkpoint.every=2"]
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log.txt"
    unbroken = launch(["train", f"out={whole}", *options], log)
    unbroken.join()
    assert unbroken.exitcode == 0, log.read_text()
    a_step = float(np.median([json.loads(line)["time/step"] for line in (whole / "metrics.jsonl").open()]))

    chance, moments = random.Random(0), []
    process = launch(["train", f"out={broken}", *options], log)
    for _ in range(10):
        # At start-up, or in the middle of a step, of a save, of a test: up to a step after the start plus part of a step.
        # No life gets further than two steps, however the machine's speed changes, so that ten fit into the run.
        wait_for = steps_done(broken) + chance.choice([0, 0, 1, 1]) if (broken / "config.yaml").exists() else 1
        while process.is_alive() and (steps_done(broken) < wait_for or not (broken / "config.yaml").exists()):
            time.sleep(0.01)
        until = time.monotonic() + chance.uniform(0, 1.5 * a_step)
        while process.is_alive() and time.monotonic() < until and steps_done(broken) <= wait_for:
            time.sleep(0.005)
        assert process.exitcode is None, log.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        moments.append(steps_done(broken))
        process = launch(["train", f"resume={broken}"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert len(set(moments)) > 3, moments  # the kills were spread over the run
    assert_same_run(whole, broken)


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    options = [*SMALL, "rollout.engine=transformers", "steps=4", "checkpoint.every=100"]
    whole, stopped, log = tmp_path / "whole", tmp_path / "stopped", tmp_path / "log.txt"
    assert main(["train", f"out={whole}", *options]) == 0
    process = launch(["train", f"out={stopped}", *options], log)
    while not (stopped / "metrics.jsonl").exists() or not (stopped / "metrics.jsonl").read_text():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130 and f"resume with: taut train resume={stopped}" in log.read_text()
    assert json.loads((stopped / "status.json").read_text())["state"] == "interrupted"
    assert main(["train", f"resume={stopped}"]) == 0
    assert_same_run(whole, stopped)


@pytest.mark.parametrize("mode", ["sync", "overlap", "async"])
def test_ctrl_c_in_a_long_step_gives_it_up(tmp_path: Path, mode: str) -> None:
    """The step samples for longer than it may: it is given up, and done again when the run is resumed."""
    options = [*SMALL, "prompts=16", "sampling.samples=48", "sampling.max_tokens=320", "rollout.engine=transformers"]
    options += ["steps=1", "checkpoint.every=100", "heldout.every=100", "micro_tokens=8000", f"mode={mode}"]
    stopped, log = tmp_path / "stopped", tmp_path / "log.txt"
    process = launch(["train", f"out={stopped}", *options], log, hurried)
    while process.is_alive() and not (stopped / "status.json").exists():
        time.sleep(0.02)
    while process.is_alive() and "inversion check" not in log.read_text():
        time.sleep(0.02)
    time.sleep(1.0)  # into the first step
    asked = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    took = time.monotonic() - asked
    assert process.exitcode == 130 and took < 30, log.read_text()
    assert not steps_done(stopped), "the step ended before it could be given up"
    if mode == "overlap":
        assert "goes on from the last checkpoint" in log.read_text()
        return
    assert (stopped / "checkpoints/step-000000/manifest.json").exists()
    assert main(["train", f"resume={stopped}"]) == 0
    if mode == "sync":
        whole = tmp_path / "whole"
        assert main(["train", f"out={whole}", *options]) == 0
        assert_same_run(whole, stopped)
