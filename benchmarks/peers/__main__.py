"""The same GRPO step by Taut and by TRL, side by side on this machine.

    python -m benchmarks.peers                               # the embedded model, one thread, then all cores
    python -m benchmarks.peers --threads 1 --repeats 7 --out benchmarks/results/peers.md

Each program runs in a process and an environment of its own (`python3 bootstrap.py test` makes TRL's, .venv-trl), in turn: one
of Taut, one of TRL, and again. A process trains the same model with the same settings, one step to warm up and then some that
are timed; its figure is their median, and the table shows the median over the processes with the lowest and the highest. Same
model file, prompts, rollouts a step, cap, dtype (float32), loss (tokens' mean, clip-higher) and optimiser; both sample with
transformers. "Equal lengths": a copy of the model that ends no response, so that both do the same work to the token.
"Natural": responses end where they end, and seconds are given for 1,000 tokens. Taut verifies with its verifier and writes its
rollout log meanwhile; TRL compares strings and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rewards.errors import TautError
from rollout.paths import locate

ROOT = Path(__file__).parents[2]
PHASES = ("sample", "score", "update", "sync", "rest")
MODEL, DATA = "benchmarks:overthinker/checkpoint", "benchmarks:overthinker/data/train.jsonl"


@dataclass(frozen=True)
class Shape:
    """A step's size."""

    prompts: int
    samples: int
    cap: int
    steps: int


@contextmanager
def endless(model: Path) -> Iterator[Path]:
    """A copy of a model that ends no response by itself: it would have to sample its token for unknown text."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(model, Path(folder) / "model"))
        vocabulary = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        for name in ("config.json", "generation_config.json"):
            values = json.loads((copy / name).read_text(encoding="utf-8"))
            (copy / name).write_text(json.dumps(values | {"eos_token_id": vocabulary["<unk>"]}), encoding="utf-8")
        values = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = values["chat_template"].replace("<eos>", "")
        text = json.dumps(values | {"eos_token": "<unk>", "chat_template": template})
        (copy / "tokenizer_config.json").write_text(text, encoding="utf-8")
        yield copy


def taut(model: Path, shape: Shape, threads: int) -> dict[str, float]:
    """Seconds of a step by phase, tokens of a step and the process' peak memory, by `taut train`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model": model, "data": DATA, "out": f"{folder}/run", "steps": 1 + shape.steps, "prompts": shape.prompts,
            "sampling.samples": shape.samples, "sampling.max_tokens": shape.cap, "prompt.template": "'{problem}'",
            "verifier.arithmetic": "false", "objective.clip_high": 0.28, "advantage": "dr_grpo", "optim.lr": 1e-3,
            "rollout.engine": "transformers", "checkpoint.every": 10**6, "micro_tokens": 10**6, "seed": 0,
        }  # fmt: skip
        command = [sys.executable, "-m", "taut", "train", *(f"{key}={value}" for key, value in settings.items())]
        memory = _run(command, threads)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines][1:]
    out = {"memory": memory, "tokens": statistics.median(row["tokens"] * row["rollouts"] for row in rows)}
    named = {"sample": ("sample",), "score": ("reward",), "update": ("policy", "update"), "sync": ("sync",)}
    for phase, parts in named.items():
        out[phase] = statistics.median(sum(row[f"time/{part}"] for part in parts) for row in rows)
    # the last step also writes the final checkpoint, which no other does
    out["step"] = statistics.median(row["time/step"] - row.get("time/checkpoint", 0.0) for row in rows)
    return out | {"rest": out["step"] - sum(out[phase] for phase in named)}


def trl(model: Path, shape: Shape, threads: int) -> dict[str, float]:
    """The same by TRL's GRPOTrainer."""
    python = ROOT / ".venv-trl" / "bin" / "python"
    if not python.exists():
        raise TautError(f"{python}: TRL's environment is not there; `python3 bootstrap.py test` makes it")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        given = {"model": str(model), "data": str(locate(DATA)), "out": str(out), **vars(shape)}
        memory = _run([str(python), "-m", "benchmarks.peers.trl_step", json.dumps(given)], threads)
        return {**json.loads(out.read_text(encoding="utf-8")), "memory": memory}


def _run(command: Sequence[str], threads: int) -> float:
    """Run a command on so many threads; its peak memory in MiB. Raises TautError with what it said."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = {**os.environ, **{name: str(threads) for name in names}, "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(list(command), cwd=ROOT, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            said.seek(0)
            raise TautError(f"{' '.join(command[:4])} failed:\n{said.read()[-3000:]}")
    return usage.ru_maxrss / 1024


def measure(model: Path, shape: Shape, threads: int, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Every figure of both, run in turn."""
    found: dict[str, list[dict[str, float]]] = {"Taut": [], "TRL": []}
    for i in range(repeats):
        for name, program in (("Taut", taut), ("TRL", trl))[:: 1 if i % 2 else -1]:
            found[name].append(program(model, shape, threads))
            print(f"{name} {i + 1}/{repeats}: {found[name][-1]['step']:.3f} s", file=sys.stderr, flush=True)
    return found


def table(title: str, found: dict[str, list[dict[str, float]]], per_token: bool) -> str:
    """Markdown: a row each, and the ratio of the medians. per_token: seconds for 1,000 tokens."""

    def of(name: str, key: str) -> list[float]:
        return [
            one[key] / (one["tokens"] / 1000 if per_token and key not in ("memory", "tokens") else 1)
            for one in found[name]
        ]

    unit = "s per 1,000 tokens" if per_token else "s per step"
    heads = [f"step, {unit}", *PHASES, "tokens a step", "tokens/s", "peak MiB"]
    lines = [f"### {title}", "", "| | " + " | ".join(heads) + " |", "|" + " --- |" * (len(heads) + 1)]
    for name in found:
        step = of(name, "step")
        cells = [f"{statistics.median(step):.3f} [{min(step):.3f}, {max(step):.3f}]"]
        cells += [f"{statistics.median(of(name, phase)):.3f}" for phase in PHASES]
        speed = statistics.median(one["tokens"] / one["step"] for one in found[name])
        cells += [
            f"{statistics.median(of(name, 'tokens')):.0f}",
            f"{speed:,.0f}",
            f"{statistics.median(of(name, 'memory')):.0f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    pairs = [b / a for a, b in zip(of("Taut", "step"), of("TRL", "step"), strict=True)]
    ratio = statistics.median(of("TRL", "step")) / statistics.median(of("Taut", "step"))
    lines += ["", f"TRL takes {ratio:.2f} times as long as Taut (pairs: {min(pairs):.2f} to {max(pairs):.2f})."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--cap", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a process")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    shape, model = Shape(given.prompts, given.samples, given.cap, given.steps), locate(MODEL)
    parts = []
    for threads in given.threads:
        size = f"{shape.prompts} x {shape.samples} rollouts of at most {shape.cap} tokens, {threads} thread" + "s" * (
            threads > 1
        )
        with endless(model) as copy:
            parts.append(table(f"Equal lengths: {size}", measure(copy, shape, threads, given.repeats), False))
        parts.append(table(f"Natural: {size}", measure(model, shape, threads, given.repeats), True))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if given.out:
        head = (
            given.out.read_text(encoding="utf-8").split("###")[0] if given.out.exists() else "# Taut and its peers\n\n"
        )
        given.out.write_text(head + text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TautError as error:
        sys.exit(f"peers: {error}")
