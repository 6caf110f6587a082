"""What a trainer step takes, in seconds and bytes, by tokens and vocabulary: our chunked pass beside one with all logits at once.

    python -m benchmarks.trainer_step           # for a GPU: a model of 1.1 B parameters, 8k and 32k tokens
    python -m benchmarks.trainer_step --layers 4 --width 256 --tokens 512 2048 --vocabulary 4096 32768   # for two cores

A Qwen3 of the size asked for is made with random weights; nothing is downloaded. Every measurement runs in a process of its
own, so that its peak is its own: on a GPU the largest sum of allocations, on a CPU the growth of the process beyond the model.
One response of the given length after a prompt of 64 tokens, in bfloat16 on a GPU and float32 on a CPU. Medians of several
repeats after one that warms up.

    log-probs    the pass without gradient, as before the update and after a sync
    gradient     forward and backward; "checkpointed": only each layer's input is kept
    step         the same with AdamW on float32 masters
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PROMPT = 64
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """What is measured once. kind: log-probs, gradient or step. logits: chunked, or full (all at once)."""

    kind: str
    logits: str
    checkpointed: bool
    layers: int
    width: int
    vocabulary: int
    tokens: int
    repeats: int


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All measurements that the command line asks for."""
    for vocabulary in options.vocabulary:
        for tokens in options.tokens:
            for kind in ("log-probs", "gradient", "step"):
                for logits in ("chunked", "full"):
                    for checkpointed in (False, True) if kind == "gradient" else (kind == "step",):
                        yield Case(
                            kind,
                            logits,
                            checkpointed,
                            options.layers,
                            options.width,
                            vocabulary,
                            tokens,
                            options.repeats,
                        )


def measure(case: Case) -> dict[str, Any]:
    """Seconds (median) and peak MiB beyond the model of one case, in this process; `failed` where memory did not suffice."""
    import transformers

    from trainers.optim import OptimConfig, make_optimizer
    from trainers.policy import Policy

    gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=case.vocabulary,
        hidden_size=case.width,
        num_hidden_layers=case.layers,
        num_attention_heads=max(case.width // 128, 1),
        num_key_value_heads=max(case.width // 512, 1),
        head_dim=min(128, case.width),
        intermediate_size=3 * case.width,
        max_position_embeddings=PROMPT + max(case.tokens, 1024),
        tie_word_embeddings=True,
    )
    dtype = torch.bfloat16 if gpu else torch.float32
    with torch.device("cuda" if gpu else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    policy = Policy(model)
    if case.logits == "full":
        policy.chunk = 1 << 62
        policy._measure = lambda hidden, target, **kinds: _at_once(policy, hidden, target)  # type: ignore[method-assign]
    if case.checkpointed:
        policy.recompute_layers()
    optimizer = make_optimizer(model, OptimConfig()) if case.kind == "step" else None
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, case.vocabulary, (PROMPT + case.tokens,), generator=draw).tolist()

    def once() -> None:
        out = policy.log_probs([ids[:PROMPT]], [ids[PROMPT:]], grad=case.kind != "log-probs")
        if case.kind != "log-probs":
            out.log_prob.mean().backward()
        if optimizer is not None:
            optimizer.update(1e-6, 1.0)
        elif case.kind == "gradient":
            model.zero_grad(set_to_none=True)

    before, seconds = _used(gpu), []
    try:
        for _ in range(case.repeats + 1):
            start = time.perf_counter()
            once()
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return {"parameters": sum(p.numel() for p in model.parameters()), "failed": "out of memory"}
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": statistics.median(seconds[1:]),
        "peak_mib": (peak - before) / MIB,
    }


def _at_once(policy: Any, hidden: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """What `Policy._measure` gives, by all logits at once, which are kept for the backward pass."""
    log_p = torch.log_softmax(policy._logits(hidden), dim=-1)
    of_token = log_p.gather(-1, target[:, None])[:, 0]
    return of_token, of_token.new_zeros(len(target)), of_token.new_zeros(len(target))


def _used(gpu: bool) -> int:
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _child(case: Case, connection: Any) -> None:
    try:
        connection.send(measure(case))
    except (MemoryError, RuntimeError) as error:  # a CPU's allocator raises the second
        connection.send({"failed": str(error).splitlines()[0]})


def apart(case: Case) -> dict[str, Any]:
    """`measure` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(case, theirs))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        found = {"failed": "killed (out of memory?)"}
    process.join()
    return {**asdict(case), **found}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as markdown; beside each chunked one what the full one took."""
    keys = ("kind", "checkpointed", "vocabulary", "tokens")
    full = {tuple(row[k] for k in keys): row for row in rows if row["logits"] == "full"}
    lines = [
        "| | vocabulary | tokens | seconds | all logits | ratio | peak MiB | all logits | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row["logits"] == "full":
            continue
        other = full[tuple(row[k] for k in keys)]
        name = row["kind"] + (", checkpointed" if row["checkpointed"] else "")
        cells = [name, f"{row['vocabulary']:,}", f"{row['tokens']:,}"]
        for key, form in (("seconds", "{:.3f}"), ("peak_mib", "{:,.0f}")):
            mine, theirs = row.get(key), other.get(key)
            cells += [form.format(v) if v is not None else r["failed"] for v, r in ((mine, row), (theirs, other))]
            cells.append(f"{mine / theirs:.2f}" if mine is not None and theirs else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and write the rows as JSON where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trainer_step", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[151_936])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768], help="of the response")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args(arguments)
    rows = []
    for case in cases(options):
        rows.append(apart(case))
        told = rows[-1].get("failed") or f"{rows[-1]['seconds']:.3f} s, {rows[-1]['peak_mib']:,.0f} MiB"
        print(f"{case.kind} {case.logits} {case.vocabulary} x {case.tokens}: {told}", file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{rows[0].get('parameters', 0) / 1e9:.2f} B parameters, torch {torch.__version__}, {where}\n\n{table(rows)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
