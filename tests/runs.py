"""Small real runs for tests: started in a process of their own, killed, resumed, compared."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

# A stateful reward is part of every run, so that its state must survive as well.
SMALL = [
    "prompts=4", "sampling.samples=4", "sampling.max_tokens=96", "heldout.problems=8", "heldout.every=4", "checkpoint.every=1",
    "micro_tokens=1000",
    "reward={type: sum, terms: [correct, {type: weight, weight: 0.001, term: 'tests.test_rewards:Counter'}]}",
]  # fmt: skip


# Imported once, in the server that every run is forked from.
PRELOAD = ["trainers.train", "rollout.transformers_engine"]
if importlib.util.find_spec("vllm"):
    PRELOAD += ["rollout.vllm_engine", "vllm"]


def _main(arguments: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from taut import main

    os._exit(main(arguments))  # as a console script would end, without the forkserver's clean-up


def hurried(arguments: list[str], log: str) -> None:
    """`taut ARGUMENTS`; what it samples is given up a third of a second after Ctrl-C."""
    from trainers import interrupt

    interrupt.GRACE_S = 0.3
    _main(arguments, log)


def launch(arguments: list[str], log: Path, run: Callable[[list[str], str], None] = _main) -> Any:
    """`taut ARGUMENTS` in a process of its own; heavy modules are imported once, in the server that it is forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=run, args=(arguments, str(log)))
    process.start()
    return process


@contextlib.contextmanager
def ray_head(folder: Path, cpus: int = 1, version: str = "") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Ray cluster of this machine as an administrator starts it: (HOST:PORT, the process of its head). version: what it takes
    itself to be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "head.txt"
    with tempfile.TemporaryDirectory(
        prefix="ray", dir="/tmp", ignore_cleanup_errors=True
    ) as short:  # sockets' paths are short
        other = f"import ray; ray.__version__ = {version!r}; from ray.scripts.scripts import main; main()"
        start = [sys.executable, "-c", other] if version else [str(Path(sys.executable).parent / "ray")]
        command = [
            *start, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}",
            f"--num-cpus={cpus}", "--block", "--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={short}",
        ]  # fmt: skip
        head = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while "Ray runtime started" not in log.read_text():
                assert head.poll() is None, log.read_text()
                time.sleep(0.1)
            yield f"127.0.0.1:{port}", head
        finally:
            head.terminate()
            head.wait(30)


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the timing fields."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in lines]


def assert_same_run(a: Path, b: Path, but: Sequence[str] = ()) -> None:
    """Bit for bit: weights, optimiser, metrics (all fields `but` these), rollouts, held-out tests and reward state."""
    for key, value in load_file(a / "model" / "model.safetensors").items():
        assert torch.equal(value, load_file(b / "model" / "model.safetensors")[key]), key
    of_a, of_b = ([{k: v for k, v in row.items() if k not in but} for row in rows(run)] for run in (a, b))
    assert of_a == of_b
    for folder in ("rollouts", "heldout"):
        names = sorted(p.name for p in (a / folder).glob("*.parquet"))
        assert names and names == sorted(p.name for p in (b / folder).glob("*.parquet"))
        for name in names:
            left, right = (pq.read_table(run / folder / name).replace_schema_metadata(None) for run in (a, b))
            assert left.to_pylist() == right.to_pylist() or left.equals(right), (
                name
            )  # NaN of forced tokens: equals is stricter
    last = sorted(p.name for p in (a / "checkpoints").iterdir())[-1]
    states = [json.loads((run / "checkpoints" / last / "state.json").read_text()) for run in (a, b)]
    assert all(states[0][part] == states[1][part] for part in ("reward", "sampling")) and (
        states[0]["reward"] or states[0]["sampling"]
    )
    left, right = (_trainer_state(run / "checkpoints" / last) for run in (a, b))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def _trainer_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Optimiser and generator of a checkpoint, or the shards of several ranks put together, by name."""
    if (checkpoint / "shards").exists():
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        with tempfile.NamedTemporaryFile() as file:
            dcp_to_torch_save(checkpoint / "shards", file.name)
            return torch.load(file.name)
    saved = torch.load(checkpoint / "trainer.pt", weights_only=True)
    moments = saved["optimizer"]["state"].items()
    return {"rng": saved["torch_rng"]} | {f"{i}.{name}": v for i, values in moments for name, v in values.items()}
