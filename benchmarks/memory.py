"""Peak bytes of the update's pass against tokens and vocabulary: all logits at once, Taut's, TRL's and Liger's pass.

    python -m benchmarks.memory                                  # about seven minutes
    python -m benchmarks.memory --tokens 512 2048 --vocabulary 32768 131072 --out benchmarks/results/memory.md

Runs in TRL's environment (`python3 bootstrap.py test` makes it; Liger takes part where `pip install --no-deps liger-kernel` put it
there). Each case is a process of its own: a Qwen3 of random weights (two layers, width 256), four responses of so many tokens after
a prompt of 64, the on-policy GRPO loss over their tokens, forward and backward. Peak: the largest resident size on the way beyond
what it was before, less the gradients (which every way needs, and which grow with the vocabulary). Seconds: the median of three
after one that warms up. Same gradient: the largest difference from that of all logits, relative to its norm, over
eight projections.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import publish
from rewards.errors import TautError

ROOT = Path(__file__).parents[1]
PROMPT, RESPONSES, WIDTH, REPEATS, PROJECTIONS = 64, 4, 256, 3, 8
WAYS = ("all logits", "Taut", "TRL", "Liger")


def resident(key: str) -> int:
    """Bytes of this process: VmRSS, or VmHWM (the most since `forget`)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def forget() -> None:
    """Begin VmHWM anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def child(way: str, tokens: int, vocabulary: int) -> dict[str, Any]:
    """Peak bytes, seconds and projections of the gradient of one case, in this process."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, intermediate_size=3 * WIDTH, max_position_embeddings=PROMPT + tokens, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    ids = torch.randint(0, vocabulary, (RESPONSES, PROMPT + tokens), generator=torch.Generator().manual_seed(1))
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5])
    loss = loss_of(way, model.eval(), ids, advantage)

    def once() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    before = resident("VmRSS")
    forget()
    once()
    gradients = sum(p.numel() * 4 for p in model.parameters())
    peak, seconds = resident("VmHWM") - before - gradients, []
    for _ in range(REPEATS):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
    draw = torch.Generator().manual_seed(2)
    projections = [float(flat @ torch.randn(len(flat), generator=draw).double()) for _ in range(PROJECTIONS)]
    return {
        "way": way, "tokens": tokens, "vocabulary": vocabulary, "peak": peak, "seconds": statistics.median(seconds),
        "projections": projections, "norm": float(flat.norm()),
    }  # fmt: skip


def loss_of(way: str, model: Any, ids: Any, advantage: Any) -> Callable[[], Any]:
    """The loss of one way, minus the mean of ratio times advantage over all response tokens, as a function of nothing."""
    import torch

    rows = ids.tolist()
    wanted = ids[:, PROMPT:]

    def of(log_prob: Any) -> Any:
        return -((log_prob - log_prob.detach()).exp() * advantage[:, None]).mean()

    if way == "Taut":
        from trainers.policy import Policy

        policy = Policy(model)
        prompts, responses = [row[:PROMPT] for row in rows], [row[PROMPT:] for row in rows]
        return lambda: of(policy.log_probs(prompts, responses, grad=True).log_prob)
    if way == "TRL":
        from trl.trainer.utils import add_fused_lm_head  # type: ignore[import-not-found]

        add_fused_lm_head(model)
        labels = ids.clone()
        labels[:, :PROMPT] = -100
        keep = ids.shape[1] - PROMPT
        return lambda: of(model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs[:, -keep:])
    if way == "Liger":
        from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss  # type: ignore[import-not-found]

        grpo = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False)

        def liger() -> Any:
            hidden = model.base_model(input_ids=ids, use_cache=False)[0][:, PROMPT - 1 : -1]
            return grpo(hidden, model.lm_head.weight, wanted, torch.ones_like(wanted), advantage)[0]

        return liger

    def full() -> Any:
        logits = model(input_ids=ids, use_cache=False).logits[:, PROMPT - 1 : -1]
        return of(torch.log_softmax(logits, -1).gather(-1, wanted[..., None])[..., 0])

    return full


def measure(way: str, tokens: int, vocabulary: int) -> dict[str, Any]:
    """`child` in TRL's environment; `failed` instead where it did not run."""
    python = ROOT / ".venv-trl" / "bin" / "python"
    if not python.exists():
        raise TautError(f"{python}: TRL's environment is not there; `python3 bootstrap.py test` makes it")
    command = [str(python), "-W", "ignore", "-m", "benchmarks.memory", "--child", json.dumps([way, tokens, vocabulary])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"way": way, "tokens": tokens, "vocabulary": vocabulary, "failed": why}
    return json.loads(done.stdout.splitlines()[-1])


def slope(rows: Sequence[dict[str, Any]], way: str, tokens: int) -> float:
    """Bytes for each word and token of the vocabulary, by least squares over the vocabularies at one length."""
    mine = [r for r in rows if r["way"] == way and r["tokens"] == tokens and "peak" in r]
    if len(mine) < 2:
        return float("nan")
    fit = np.polyfit([r["vocabulary"] for r in mine], [r["peak"] for r in mine], 1)
    return float(fit[0]) / (RESPONSES * tokens)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: peaks, seconds and gradients by case, then the slopes in the vocabulary."""
    sizes = sorted({(r["tokens"], r["vocabulary"]) for r in rows})
    ways = [way for way in WAYS if any(r["way"] == way for r in rows)]
    lines = [
        "| tokens | vocabulary | " + " | ".join(f"{way}: MiB | s | same gradient" for way in ways) + " |",
        "|" + " ---: |" * (2 + 3 * len(ways)),
    ]
    for size in sizes:
        case = {r["way"]: r for r in rows if (r["tokens"], r["vocabulary"]) == size}
        cells = [f"{RESPONSES} x {size[0]:,}", f"{size[1]:,}"]
        for way in ways:
            row, full = case[way], case["all logits"]
            if "failed" in row:
                cells += [row["failed"], "", ""]
                continue
            far = ""
            if "failed" not in full:
                gaps = np.abs(np.subtract(row["projections"], full["projections"]))
                far = f"{gaps.max() / full['norm']:.0e}"
            cells += [f"{row['peak'] / 2**20:,.0f}", f"{row['seconds']:.2f}", far]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| bytes for a token and a word of the vocabulary | " + " | ".join(ways) + " |"]
    lines.append("|" + " --- |" * (1 + len(ways)))
    for tokens in sorted({r["tokens"] for r in rows}):
        cells = [f"{slope(rows, way, tokens):.3f}" for way in ways]
        lines.append(f"| {RESPONSES} x {tokens:,} tokens | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[16_384, 49_152, 151_936])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--out", type=Path, help="put the tables there, below the text before the mark")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        print(json.dumps(child(*json.loads(given.child))))
        return 0
    rows = []
    for tokens in given.tokens:
        for vocabulary in given.vocabulary:
            for way in given.ways:
                rows.append(measure(way, tokens, vocabulary))
                told = rows[-1].get("failed") or f"{rows[-1]['peak'] / 2**20:,.0f} MiB, {rows[-1]['seconds']:.2f} s"
                print(f"{way}, {tokens} tokens, vocabulary {vocabulary}: {told}", file=sys.stderr, flush=True)
    text = table(rows) + "\n"
    publish(text, given.out)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TautError as error:
        sys.exit(f"memory: {error}")
