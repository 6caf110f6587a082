"""verl's stock trainer on a CPU, with Taut in it, killed and resumed."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("verl") is None:  # not imported here: that takes ten seconds
    pytest.skip("verl is not installed (the extra `verl`)", allow_module_level=True)

from rollout.log import read_rollouts
from tests.canned import HOME
from trainers.verl.command import ENVIRONMENT as CPU
from trainers.verl.command import main, overrides

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**CPU, "RAY_TMPDIR": "/tmp", "PYTHONUNBUFFERED": "1"}


def stock(out: Path, recipe: str, *more: str) -> list[str]:
    """The command of verl's stock trainer on the embedded model, without a GPU."""
    own = {
        "data.train_files": out / "train.parquet", "data.train_batch_size": 8,
        "data.max_prompt_length": 64, "data.max_response_length": 160, "actor_rollout_ref.rollout.n": 4,
        "actor_rollout_ref.rollout.temperature": 1, "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
        "actor_rollout_ref.actor.optim.lr": 1e-3, "actor_rollout_ref.model.path": HOME / "checkpoint",
        "actor_rollout_ref.rollout.val_kwargs.do_sample": True, "actor_rollout_ref.rollout.val_kwargs.temperature": 1,
        "hydra.run.dir": out / "hydra",
        "+taut.out": out / "taut", "trainer.default_local_dir": out / "checkpoints", "trainer.nnodes": 1,
        "trainer.save_freq": 2, "trainer.test_freq": 3, "trainer.total_training_steps": 6, "trainer.total_epochs": 100,
        "trainer.logger": "[console]", "trainer.rollout_data_dir": out / "dump",
    }  # fmt: skip
    lines = overrides([f"recipe={recipe}", *more], True, [f"{key}={value}" for key, value in own.items()])
    return [sys.executable, "-m", "verl.trainer.main_ppo", *lines]


def logged_steps(out: Path) -> list[dict[str, Any]]:
    file = out / "taut" / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def rows_of(split: str, out: Path, *more: str) -> None:
    """The embedded problems as verl's rows."""
    given = {"data": f"benchmarks:overthinker/data/{split}.jsonl", "out": out, "template": "{problem}"}
    assert main([*(f"{key}={value}" for key, value in given.items()), *more]) == 0


WATCHING = ["reward.target=40", "reward.interval=20", "reward.monitor_every=3", "reward.monitor_samples=4"]
BY_HAND = pytest.mark.skipif(
    "CI" in os.environ, reason="one run of verl is enough for CI; without CI set this one runs too"
)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("recipe", "settings", "kept"),
    [("hapo", [], "problems"), pytest.param("laser_d", WATCHING, "coverage", marks=BY_HAND)],
)
def test_verls_stock_trainer_killed_and_resumed(recipe: str, settings: list[str], kept: str, tmp_path: Path):
    """The embedded model by `python -m verl.trainer.main_ppo`: killed in the third step or the fourth, resumed to the sixth. The
    state is that of the checkpoint, the scores that verl trained on are the log's advantages, and the log replays."""
    rows_of("train", tmp_path / "train.parquet", "count=64")
    rows_of("heldout", tmp_path / "heldout.parquet", "count=8")
    rows_of("train", tmp_path / "monitor.parquet", "count=8", "origin=monitor")
    files = [tmp_path / "heldout.parquet"] + ([tmp_path / "monitor.parquet"] if settings else [])
    command = stock(tmp_path, recipe, "verifier.arithmetic=false", *settings)
    command.append(f"data.val_files=[{','.join(map(str, files))}]")
    environment = {**os.environ, **ENVIRONMENT}
    log = (tmp_path / "log.txt").open("w")
    first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    saved = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    while not (saved.exists() and len(logged_steps(tmp_path)) >= 3):
        assert first.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    _wait_until_free(tmp_path / "taut" / ".lock")
    at = int(saved.read_text())
    state = json.loads((tmp_path / f"checkpoints/global_step_{at}/taut.json").read_text())
    assert state["step"] == at and state["reward"]["(self)"][kept]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    rows = logged_steps(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and "heldout/accuracy" in rows[-1]
    assert all({"accuracy", "tokens", f"reward/{recipe}"} <= row.keys() for row in rows)
    assert json.loads((tmp_path / "taut/status.json").read_text())["state"] == "finished"
    for step in range(at + 1, 7):
        logged = read_rollouts(tmp_path / f"taut/rollouts/step-{step:06d}.parquet")
        if step == at + 1:
            assert logged.meta["state"]["reward"] == state["reward"]
        trained = [json.loads(line)["score"] for line in (tmp_path / f"dump/{step}.jsonl").read_text().splitlines()]
        np.testing.assert_allclose(sorted(trained), sorted(logged.columns["advantage"]), atol=1e-6)
    told = subprocess.run(
        [sys.executable, "-m", "taut", "replay", str(tmp_path / "taut"), "--out", str(tmp_path / "r")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0 and "as logged" in told.stdout, told.stdout + told.stderr
    shutil.rmtree(tmp_path / "checkpoints")


def _wait_until_free(lock: Path) -> None:
    """verl's actors outlive its killed driver by some seconds."""
    for _ in range(600):
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(0.1)
    raise AssertionError("verl's actors are still there a minute after their driver was killed")
