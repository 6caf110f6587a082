"""The same GRPO step by Taut and by what users would take instead, side by side on this machine.

    python -m benchmarks.peers                               # the embedded model, one thread, then all cores
    python -m benchmarks.peers --model models/smollm2 --prompts 8 --samples 4 --steps 2 --repeats 3 --threads 2
    python -m benchmarks.peers --vllm --threads 1            # both with vLLM as well
    python -m benchmarks.peers --verl --threads 1            # verl's stock trainer as well: a minute or two a process

Each program runs in a process and an environment of its own (`python3 bootstrap.py test` makes TRL's, .venv-trl), in turn: one
of Taut, one of TRL, and again. A process trains the same model with the same settings, one step to warm up and then some that
are timed; its figure is their median, and the table shows the median over the processes with the lowest and the highest. Same
model file, prompts, rollouts a step, cap, dtype (float32), loss (tokens' mean, clip-higher), optimiser and sequences a forward
pass (`--batch`); all sample with transformers, or with vLLM where they are called so (`programs.trl_vllm` says how TRL can).
"Equal lengths": a copy of the model that ends no response, so that all do the same work to the token. "Natural": responses end
where they end, and seconds are given for 1,000 tokens. Taut verifies with its verifier and writes its rollout log meanwhile;
TRL compares strings and writes nothing; verl runs with Taut's plug-in.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.peers.programs import Work, endless, taut, taut_vllm, trl, trl_vllm, verl
from benchmarks.tables import publish
from benchmarks.timing import in_turn
from rewards.errors import TautError
from rollout.paths import locate

PHASES = ("sample", "score", "update", "sync", "rest")
Program = Callable[[Work, int], dict[str, float]]


def measure(programs: dict[str, Program], work: Work, threads: int, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Every figure of all, run in turn."""
    calls = {name: partial(program, work, threads) for name, program in programs.items()}
    return in_turn(calls, repeats, "{step:.3f} s".format_map)


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
            f"{statistics.median(of(name, 'memory')):.0f}".replace("nan", "not measured"),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in (name for name in found if not name.startswith("Taut")):
        for ours in dict.fromkeys(("Taut", name.replace("TRL", "Taut"))):
            if ours in found:
                pairs = [b / a for a, b in zip(of(ours, "step"), of(name, "step"), strict=True)]
                ratio = statistics.median(of(name, "step")) / statistics.median(of(ours, "step"))
                span = f"pairs: {min(pairs):.2f} to {max(pairs):.2f}"
                lines += ["", f"{name} takes {ratio:.2f} times as long as {ours} ({span})."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="benchmarks:overthinker/checkpoint", help="a Hugging Face folder")
    parser.add_argument("--data", default="benchmarks:overthinker/data/train.jsonl", help="JSONL with problem, answer")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--cap", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a process")
    parser.add_argument("--batch", type=int, default=16, help="sequences that the update takes at once")
    parser.add_argument("--vllm", action="store_true", help="Taut and TRL with vLLM as well")
    parser.add_argument("--verl", action="store_true", help="verl's stock trainer as well")
    parser.add_argument("--lengths", choices=["both", "equal", "natural"], default="both")
    parser.add_argument("--out", type=Path, help="put the tables there, below the text before the mark")
    given = parser.parse_args(argv)
    work = Work(str(locate(given.model)), given.data, given.prompts, given.samples, given.cap, given.steps, given.batch)
    programs: dict[str, Program] = {"Taut": taut, "TRL": trl}
    if given.vllm:
        programs |= {"Taut with vLLM": taut_vllm, "TRL with vLLM": trl_vllm}
    if given.verl:
        programs["verl"] = verl
    parts = []
    for threads in given.threads:
        size = f"{Path(work.model).name}, {work.prompts} x {work.samples} rollouts of at most {work.cap} tokens, "
        size += f"{threads} thread" + "s" * (threads > 1)
        if given.lengths != "natural":
            with endless(work) as copy:
                parts.append(table(f"Equal lengths: {size}", measure(programs, copy, threads, given.repeats), False))
        if given.lengths != "equal":
            parts.append(table(f"Natural: {size}", measure(programs, work, threads, given.repeats), True))
    text = "\n\n".join(parts) + "\n"
    publish(text, given.out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TautError as error:
        sys.exit(f"peers: {error}")
