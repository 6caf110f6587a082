"""How fast a replay and the statistics of a front are; `python -m benchmarks.replay [--rollouts N] [--json OUT]` prints it.

A log as a run writes it (`rollout.log.write_rollouts`: texts, token ids, log-probs and all) is made first, then replayed
under 20 configurations by `taut replay` itself, reading and report included, in a process of its own whose peak memory is
told. Then a front of 20 methods, 500 problems x 16 samples each, with 10,000 resamples. Seconds of wall time, one run of each.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from benchmarks.collect import Configuration
from benchmarks.pareto import make_points
from benchmarks.scores import score
from benchmarks.statistics import Samples
from benchmarks.tables import table
from rewards.batch import Batch, Verdict
from rollout.log import write_rollouts
from rollout.types import Problem, Request, Rollout

STEP, GROUP, CAP = 4096, 8, 512
SHORT = {"type": "weight", "weight": -1.0, "term": {"type": "linear_length"}}
LINEAR = {
    "type": "sum",
    "terms": [{"type": "correct"}, {"type": "rollout_gate", "when": {"type": "is_correct"}, "then": SHORT}],
}
GATED = {
    "type": "group_gate", "when": {"type": "correct_ratio", "at_least": 0.75}, "then": {"type": "arora_zanette"},
    "otherwise": {"type": "correct"},
}  # fmt: skip
CONFIGURATIONS = {  # twenty, of every kind: by rollout, by group, with state, gated, with advantages of their own
    "plain": {"reward": "correct", "grid": {"advantage": ["grpo", "dr_grpo", "rloo", "batch_std"]}},
    "linear": {"reward": LINEAR, "grid": {"reward.terms.1.then.weight": [-0.1, -0.3, -1.0, -2.0]}},
    "laser": {"reward": {"type": "laser", "format": False}, "grid": {"reward.target": [64, 128, 256]}},
    "laser_d": {"reward": {"type": "laser_d", "target": 64, "format": False}},
    "hapo": {"reward": "hapo"},
    "kimi": {"reward": {"type": "sum", "terms": [{"type": "correct"}, {"type": "kimi"}]}},
    "gated": {"reward": GATED},
    "alp": {"reward": {"type": "alp", "beta": 0.5, "per_cap": True}},
    "dast": {"reward": "dast"},
    "shorter": {"reward": {"type": "shorter_better", "beta": 0.01}},
    "canon": {"advantage": {"type": "canon", "metric": "length", "alpha": 0.8, "mu": 0.5}},
    "rank": {"advantage": "length_rank"},
}


def write_log(folder: Path, rollouts: int) -> None:
    """A run's rollouts/: steps of 4096 rollouts in groups of 8, problems of 20 % to 90 % accuracy that come again."""
    rng = np.random.default_rng(0)
    problems = [
        Problem(f"p{i}", f"question {i}", str(i), level=str(i % 6)) for i in range(max(rollouts // 64, STEP // GROUP))
    ]
    ease = rng.uniform(0.2, 0.9, len(problems))
    ids = [tuple(rng.integers(0, 50_000, CAP).tolist()) for _ in range(64)]
    nats = [tuple((-rng.random(CAP)).tolist()) for _ in range(64)]
    for step in range(-(-rollouts // STEP)):
        size = min(STEP, rollouts - step * STEP)
        who = np.repeat(rng.choice(len(problems), -(-size // GROUP), replace=False), GROUP)[:size]
        length = np.minimum(rng.lognormal(5.0, 0.5, size).astype(int) + 8, CAP)
        right = rng.random(size) < ease[who]
        rows = []
        for i in range(size):
            n, a = int(length[i]), i % 64
            request = Request(problems[who[i]], i // GROUP, step * STEP + i, "", CAP)
            verdict = Verdict.CORRECT if right[i] else Verdict.WRONG
            rows.append(
                Rollout(
                    request,
                    (1, 2, 3),
                    ids[a][:n],
                    nats[a][:n],
                    "stop",
                    (step,) * n,
                    "a response " * (n // 3),
                    verdict=verdict,
                )
            )
        batch = Batch(
            group=[r.request.group for r in rows], length=length, verdict=[int(r.verdict) for r in rows],
            problem_id=[r.request.problem.id for r in rows], sample_id=[r.request.sample_id for r in rows],
            truncated=length >= CAP, max_tokens=np.full(size, CAP), format_ok=np.ones(size, bool),
        )  # fmt: skip
        write_rollouts(folder / "rollouts" / f"step-{step:06d}.parquet", rows, batch, {"step": step, "max_tokens": CAP})


def timed_replay(log: Path, configs: Path, out: Path) -> tuple[float, float, int]:
    """(seconds, peak GiB, configurations scored) of `taut replay` in a process of its own."""
    command = [sys.executable, "-m", "taut", "replay", str(log), f"configs={configs}", "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    rows = len((out / "replay.csv").read_text("utf-8").splitlines()) - 1
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, rows


def timed_front(methods: int, problems: int, samples: int, resamples: int) -> float:
    """Seconds of the points, their differences, hypervolume and dominance of a front."""
    rng = np.random.default_rng(0)
    ease = rng.beta(2, 2, problems)
    ids = np.repeat([f"p{i}" for i in range(problems)], samples)
    made = []
    for m in range(methods):
        right = (rng.random(len(ids)) < np.repeat(ease, samples)).astype(int)
        length = rng.lognormal(5 + 0.05 * m, 0.5, len(ids))
        made.append(
            Configuration(
                "plain" if not m else f"method {m}", "shaped" if m else "plain", [Samples(ids, length, right)]
            )
        )
    start = time.perf_counter()
    points, _ = make_points(made, resamples=resamples)
    score(points, made, resamples=resamples)
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        write_log(folder / "run", options.rollouts)
        made = time.perf_counter() - start
        size = sum(f.stat().st_size for f in (folder / "run" / "rollouts").iterdir()) / 2**30
        print(
            f"a log of {options.rollouts:,} rollouts ({size:.2f} GiB) was made in {made:.0f} s",
            flush=True,
        )
        configs = folder / "configs.yaml"
        configs.write_text(yaml.safe_dump(CONFIGURATIONS), encoding="utf-8")
        seconds, gib, scored = timed_replay(folder / "run", configs, folder / "out")
    front = timed_front(20, 500, 16, options.resamples)
    rows = [
        ["work", "seconds", "peak GiB"],
        [f"replay {options.rollouts:,} rollouts under {scored} configurations", f"{seconds:.1f}", f"{gib:.2f}"],
        [f"front of 20 methods, 500 problems x 16 samples, {options.resamples:,} resamples", f"{front:.1f}", ""],
    ]
    print(table(rows))
    if options.json:
        found = {
            "rollouts": options.rollouts,
            "configurations": scored,
            "replay_s": seconds,
            "replay_gib": gib,
            "front_s": front,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0
