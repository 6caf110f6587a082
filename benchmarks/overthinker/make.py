"""Make the base checkpoint from nothing: `python -m benchmarks.overthinker.make [--out DIR] [--steps N] [--seed S]`.

Supervised training on the teacher's traces, on one thread. Schedule, curriculum and thermostat hang on the step, never
on the clock, so the same machine, torch version and step count give the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from benchmarks.overthinker import CHECKPOINT
from benchmarks.overthinker.measure import batches, evaluate, line_accuracy, line_sets, to_tensors
from benchmarks.overthinker.muon import Muon
from benchmarks.overthinker.problems import LEVELS, below, draw, split_of
from benchmarks.overthinker.teacher import Trace, make_drill, make_trace
from benchmarks.overthinker.tokenizer import EOS, IDS, PAD, PADDED_VOCABULARY, write_tokenizer

STEPS = 3800
ROWS, WIDTH = 6, 352  # a batch: six packed rows, about 2,000 trained tokens
WARM_UP, HOLD = 50, 0.4  # steps of warm-up; the rate falls linearly to 0 over the last 60 %
MUON_RATE, ADAM_RATE = 0.02, 5e-3
THERMOSTAT_EVERY, THERMOSTAT = 50, 0.76  # coarse results are left out of the loss while they are above this


def new_model(seed: int) -> PreTrainedModel:
    """A fresh 0.4 M-parameter Qwen3; head size 32 is the smallest vLLM's CPU attention takes."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=PADDED_VOCABULARY,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
        bos_token_id=None,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def is_drill(step: int, steps: int) -> bool:
    """Whether the step trains on drills: all at the start, then every fourth, in the second half every seventh."""
    if step < 0.12 * steps:
        return True
    return step % 4 == 0 if step < steps // 2 else step % 7 == 0


def traces(kind: str, rng: random.Random) -> Iterator[Trace]:
    """An endless stream of one kind ("drill", "single" or "many" passes), held-out problems never among them."""
    while True:
        if kind == "drill":
            yield make_drill(rng)
            continue
        level = 1 + below(rng, len(LEVELS))
        problem = draw(level, rng)
        if split_of(problem) == "train":
            yield make_trace(problem, level, rng, single=kind == "single")


def loss_of(model: PreTrainedModel, rows: list[list[Trace]], coarse: bool) -> torch.Tensor:
    """Mean negative log-likelihood over the batch's trained tokens; coarse results are left out unless `coarse`."""
    batch = to_tensors(rows, WIDTH)
    logits = model(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).logits[:, :-1]
    kinds = batch.kinds[:, 1:]
    trained = (kinds >= 0) if coarse else (kinds >= 0) & (kinds != 2) & (kinds != 3)
    return functional.cross_entropy(logits[trained], batch.ids[:, 1:][trained])


def rate(step: int, steps: int) -> float:
    """The learning rate's factor at a step."""
    return min((step + 1) / WARM_UP, 1.0, (steps - step) / (steps * (1 - HOLD)))


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """One thread (their number changes the bits) and deterministic kernels; the caller's settings come back after."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


@reproducible()
def train(steps: int, seed: int, log: Any = print) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train from nothing; returns the model and a record of the run (losses, line accuracies, thermostat)."""
    model = new_model(seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(matrices, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    streams = {k: batches(traces(k, random.Random(f"{seed}:{k}")), ROWS, WIDTH) for k in ("drill", "single", "many")}
    lines = line_sets()
    coarse, capped, tokens, smooth, started = True, 0, 0, 0.0, time.time()
    accuracy: dict[str, float] = {}
    for step in range(steps):
        kind = "drill" if is_drill(step, steps) else "single" if step < steps // 2 else "many"
        rows = next(streams[kind])
        factor = rate(step, steps)
        adam.param_groups[0]["lr"] = ADAM_RATE * factor
        loss = loss_of(model, rows, coarse)
        loss.backward()
        muon.step(MUON_RATE * factor)
        adam.step()
        model.zero_grad(set_to_none=True)
        tokens += sum(len(trace.ids) for row in rows for trace in row)
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % THERMOSTAT_EVERY == 0 or step + 1 == steps:
            accuracy = line_accuracy(model, lines)
            coarse = (accuracy["two"] + accuracy["three"]) / 2 < THERMOSTAT
            capped += not coarse
            spent = time.time() - started
            log(
                f"step {step + 1}/{steps}  loss {smooth:.4f}  "
                + "  ".join(f"{name} {value:.4f}" for name, value in accuracy.items())
                + f"  {'' if coarse else 'capped  '}{tokens / spent / 1000:.1f}k tok/s"
                + f"  {spent:.0f} s, {spent / (step + 1) * (steps - step - 1):.0f} s to go",
                flush=True,
            )
    record = {
        "steps": steps,
        "seed": seed,
        "tokens": tokens,
        "loss": round(smooth, 4),
        "line_accuracy": {name: round(value, 4) for name, value in accuracy.items()},
        "capped_intervals": capped,
        "muon": {"lr": MUON_RATE, "momentum": 0.95},
        "adamw": {"lr": ADAM_RATE, "betas": [0.9, 0.95]},
        "batch": {"rows": ROWS, "width": WIDTH},
        "thermostat": THERMOSTAT,
        "torch": torch.__version__,
    }
    return model, record


def save(model: PreTrainedModel, folder: Path) -> str:
    """Write model and tokenizer in a form every recent transformers and vLLM reads; returns the weights' sha256."""
    model.generation_config.eos_token_id = IDS[EOS]
    model.generation_config.pad_token_id = IDS[PAD]
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = 10000.0  # transformers 5 nests it under rope_parameters; older readers look here
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_tokenizer(folder)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Train, save, measure the base at T=1 on held-out problems, write training.json."""
    parser = argparse.ArgumentParser(description="Make the embedded benchmark's base checkpoint from nothing.")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="folder to write (default: the committed one)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=600, help="held-out problems for the base's numbers")
    args = parser.parse_args()
    started = time.time()
    model, record = train(args.steps, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    record["sha256"] = save(model, args.out)
    record["seconds"] = round(time.time() - started)
    record["base"] = evaluate(model, args.problems, seed=0)
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["base"], indent=2))
    print(f"sha256 of model.safetensors: {record['sha256']}")


if __name__ == "__main__":
    main()
