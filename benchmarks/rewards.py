"""How fast rewards and advantages are: rollouts a second at 1,048,576 rollouts in groups of 8, and against a plain loop.

    python -m benchmarks.rewards [--rollouts N] [--json OUT] [NAME ...]

One thread. A method's time is the median of some fresh batches (group statistics included; making the batch is not). The
plain loop of the same rule (`benchmarks/loops/`) reads the same arrays one rollout at a time. It runs on fewer rollouts, as
it is linear: the ratio is of rollouts a second, timed in turn. Memory is the peak of what the call allocates, per rollout.
Methods that read tokens are reported apart: on fewer responses, of 64 tokens each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.loops import advantages, budgets, laser, modes
from rewards import Batch, Progress, Reward, Scores, build_reward, dump

LOOPS = laser.LOOPS | budgets.LOOPS | modes.LOOPS | advantages.LOOPS
GROUP, CAP, TOKENS = 8, 4096, 64
PROGRESS = Progress(step=5, total_steps=10, max_length=CAP, seed=0)


def columns(n: int, tokens: bool = False) -> dict[str, np.ndarray]:
    """Every column of n rollouts; groups of 8 in order, each a problem of its own. Token arrays only where asked for."""
    rng = np.random.default_rng(0)
    group = np.arange(n) // GROUP
    groups = int(group[-1]) + 1
    length = np.full(n, TOKENS) if tokens else rng.integers(1, CAP, n)
    names = np.array([f"p{g}" for g in range(groups)], dtype=object)
    budget, accuracy, reference = rng.integers(100, CAP, groups), rng.random(groups), rng.integers(50, CAP, groups)
    tags = np.empty(n, dtype=object)
    tags[:] = [frozenset({"think", "answer"})] * n
    out: dict[str, Any] = {
        "group": group, "length": length, "verdict": (rng.random(n) < 0.6).astype(np.int8), "problem_id": names[group],
        "sample_id": np.arange(n), "truncated": np.zeros(n, bool), "max_tokens": np.full(n, CAP),
        "origin": np.full(n, "train", dtype=object), "format_ok": rng.random(n) < 0.95, "tags": tags,
        "mode": np.array(["think", "no_think", "long", "short"], dtype=object)[group % 2 * 2 + np.arange(n) % 2],
        "budget": budget[group].astype(float), "reference_accuracy": accuracy[group],
        "reference_length": reference[group].astype(float), "mean_log_prob": -rng.random(n),
        "entropy_temperature": np.ones(n),
    }  # fmt: skip
    for prefix in ("", "untempered_"):
        for phase in ("all", "think", "answer"):
            out[f"{prefix}entropy_{phase}"] = rng.random(n)
    if tokens:
        out["tokens"] = np.empty(n, dtype=object)
        out["tokens"][:] = list(rng.integers(0, 40, (n, TOKENS)))
    return out


def ready(method: Any, given: dict[str, np.ndarray]) -> Any:
    """A fresh copy; one with state has observed the batch, so that there is a history to look up."""
    if not isinstance(method, Reward):
        return method
    method = build_reward(dump(method))
    if any(node.state_version for _, node in method.walk()):
        wanted = method.monitor()
        seen = Batch(**given | ({"origin": np.full(len(given["group"]), "monitor", dtype=object)} if wanted else {}))
        method.observe(seen, PROGRESS)
    return method


def call(method: Any, batch: Batch, reward: np.ndarray) -> np.ndarray:
    """The method's numbers for the batch; `reward` is what an advantage starts from."""
    if isinstance(method, Reward):
        return method.score(batch, PROGRESS).total
    return method(batch, Scores(reward, {}, np.ones(len(batch), dtype=bool)), PROGRESS)


def seconds(method: Any, given: dict[str, np.ndarray], reward: np.ndarray, repeats: int) -> float:
    """Median time of a call on a batch whose group index is not computed yet."""
    times = []
    for _ in range(repeats):
        batch = Batch(**given)
        start = time.perf_counter()
        call(method, batch, reward)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, n: int, few: int, repeats: int) -> dict[str, Any]:
    """One row: seconds and rollouts a second at n, bytes a rollout, and the ratio to the loop at `few` rollouts."""
    method, loop = LOOPS[name]
    tokens = isinstance(method, Reward) and "tokens" in method.needs
    n = min(n, few) if tokens else n
    given, reward = columns(n, tokens), np.random.default_rng(1).random(n)
    large = ready(method, given)
    seconds(large, given, reward, 1)  # warm
    batch = Batch(**given)
    tracemalloc.start()
    call(large, batch, reward)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    part = {key: values[:few] for key, values in given.items()}
    small = ready(method, part)
    plain = SimpleNamespace(**part, reward=reward[:few])
    loops, ours = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        loop(small, plain, PROGRESS)
        loops.append((time.perf_counter() - start) / len(plain.group))
        ours.append(seconds(large, given, reward, 1) / n)
    ratio = statistics.median(a / b for a, b in zip(loops, ours, strict=True))
    took = statistics.median(ours) * n
    return {
        "method": name, "rollouts": n, "seconds": took, "rollouts_per_second": n / took, "bytes_per_rollout": peak / n,
        "loop_rollouts_per_second": 1 / statistics.median(loops), "times_the_loop": ratio,
        "reads_tokens": tokens, "history": isinstance(method, Reward) and bool(method.state_dict()),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.rewards", description="How fast rewards and advantages are, and against a plain loop."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LOOPS)}; default: all")
    parser.add_argument("--rollouts", type=int, default=1 << 20)
    parser.add_argument("--loop-rollouts", type=int, default=1 << 16, help="rollouts for the plain loop")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in LOOPS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(LOOPS)}")
    rows = []
    head = f"{'method':<26} {'seconds':>8} {'rollouts/s':>12} {'bytes each':>10} {'loop, 1/s':>10} {'times':>6}"
    print(f"{options.rollouts:,} rollouts in groups of {GROUP}, one thread\n{head}")
    for name in sorted(options.names or LOOPS, key=lambda n: (_late(n), n)):
        row = measure(name, options.rollouts, options.loop_rollouts, options.repeats)
        rows.append(row)
        note = "  reads tokens" if row["reads_tokens"] else "  looks a history up" if row["history"] else ""
        print(
            f"{name:<26} {row['seconds']:>8.3f} {row['rollouts_per_second']:>12,.0f} {row['bytes_per_rollout']:>10.0f} "
            f"{row['loop_rollouts_per_second']:>10,.0f} {row['times_the_loop']:>6.1f}{note}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"rollouts": options.rollouts, "methods": rows}, indent=1) + "\n")
    return 0


def _late(name: str) -> bool:
    method = LOOPS[name][0]
    return isinstance(method, Reward) and "tokens" in method.needs


if __name__ == "__main__":
    sys.exit(main())
