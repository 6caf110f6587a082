"""One process of TRL's side of `benchmarks.peers`; runs in TRL's environment."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Timed(GRPOTrainer):
    """TRL's trainer with a clock at its phases."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        super().__init__(*args, **more)

    def _generate(self, prompts: Any) -> Any:
        return self._clock("sample", super()._generate, prompts)

    def _calculate_rewards(self, *args: Any) -> Any:
        return self._clock("score", super()._calculate_rewards, *args)

    def _clock(self, name: str, call: Any, *args: Any) -> Any:
        start = time.perf_counter()
        out = call(*args)
        self.seconds[name].append(time.perf_counter() - start)
        return out


class Steps(TrainerCallback):
    """Seconds from a step's beginning to its end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self.start)


def main() -> None:
    """argv[1]: model, data, out and the size of a step, as JSON."""
    given = json.loads(sys.argv[1])
    rows = [json.loads(line) for line in Path(given["data"]).read_text(encoding="utf-8").splitlines()]
    data = [{"prompt": [{"role": "user", "content": r["problem"]}], "answer": r["answer"]} for r in rows]
    steps, tokens = Steps(), list[int]()

    def right(completions: Any, completion_ids: list[list[int]], answer: list[str], **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [
            float(f"\\boxed{{{a}}}" in c[0]["content"].replace(" ", ""))
            for c, a in zip(completions, answer, strict=True)
        ]

    size = given["prompts"] * given["samples"]
    args = GRPOConfig(
        output_dir=str(Path(given["out"]).parent / "trl"), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
        save_strategy="no", logging_steps=1, seed=0, per_device_train_batch_size=min(given["batch"], size),
        gradient_accumulation_steps=max(size // given["batch"], 1), max_steps=1 + given["steps"],
        num_generations=given["samples"], max_completion_length=given["cap"], learning_rate=given["lr"],
        lr_scheduler_type="constant", scale_rewards="none", loss_type="dapo", epsilon=0.2, epsilon_high=0.28, beta=0.0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    trainer = Timed(model, right, args, Dataset.from_list(data), processing_class=tokenizer, callbacks=[steps])
    trainer.train()
    seconds = trainer.seconds
    out = {name: statistics.median(seconds[name][1:]) for name in ("sample", "score")}
    out["step"] = statistics.median(steps.seconds[1:])
    out["update"] = out["step"] - out["sample"] - out["score"]
    out |= {"sync": 0.0, "rest": 0.0, "tokens": statistics.median(tokens[1:])}
    Path(given["out"]).write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main()
