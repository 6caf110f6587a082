"""One process of TRL's side of `benchmarks.peers`; runs in TRL's environment."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rollout.vllm_engine import repack_tied_head, set_environment


class Timed(GRPOTrainer):
    """TRL's trainer with a clock at its phases."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        super().__init__(*args, **more)

    def _generate(self, prompts: Any) -> Any:
        return self._clock("sample", super()._generate, prompts)

    def _calculate_rewards(self, *args: Any) -> Any:
        return self._clock("score", super()._calculate_rewards, *args)

    def sync(self, generation: Any) -> None:
        """The policy's weights into vLLM, in place of TRL's way."""
        start = time.perf_counter()
        pairs = [(name, tensor.detach()) for name, tensor in generation._iter_named_params()]
        generation.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": pairs})
        generation.llm.apply_model(repack_tied_head)
        generation.llm.reset_prefix_cache()
        self.seconds["sync"].append(time.perf_counter() - start)

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
    """argv[1]: model, data, out, the size of a step and, to sample with vLLM, the tokens it has room for, as JSON."""
    given = json.loads(sys.argv[1])
    vllm: dict[str, Any] = {}
    if given["vllm"]:
        set_environment(False, True, 1)
        vllm = {
            "use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": given["vllm"],
            "vllm_importance_sampling_correction": False,
        }  # fmt: skip
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
        **vllm,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    trainer = Timed(model, right, args, Dataset.from_list(data), processing_class=tokenizer, callbacks=[steps])
    if vllm:
        trainer.vllm_generation.sync_weights = partial(trainer.sync, trainer.vllm_generation)
    trainer.train()
    seconds = trainer.seconds
    out = {name: statistics.median(seconds[name][1:] or [0.0]) for name in ("sample", "score", "sync")}
    out["sample"] -= out["sync"]  # TRL does it when it generates
    out["step"] = statistics.median(steps.seconds[1:])
    out["update"] = out["step"] - out["sample"] - out["score"] - out["sync"]
    out |= {"rest": 0.0, "tokens": statistics.median(tokens[1:])}
    Path(given["out"]).write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main()
