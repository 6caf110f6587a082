"""The replay buffer that verl's driver takes each step's rows from: the one place that sees the whole step, with problem ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils import tensordict_utils as tu

from rewards.errors import TautError
from rollout.types import Rollout
from trainers.shaping import Host, Shaped, Shaping
from trainers.sinks import numbers
from trainers.verl.checkpoint import prepared
from trainers.verl.rows import FIELDS, LOG_PROBS, Rows


class TautReplayBuffer(ReplayBuffer):
    """Scores each training step by the recipe, moves its state once, and writes the advantages back as verl's `rm_scores`.

    Rows of a validation move nothing, but for those that the reward watches (extra_info.origin: monitor). Metrics of the step go
    to verl's loggers under taut/.
    """

    def __init__(self, *args: Any, refill_fn: Any = None, **more: Any) -> None:
        super().__init__(*args, refill_fn=refill_fn, **more)
        self.trainer: Any = getattr(refill_fn, "__self__", None)
        if self.trainer is None:
            raise TautError("TautReplayBuffer: was not made by verl's trainer, whose configuration it reads")
        self.config = self.trainer.config
        self.poll_interval = float(self.config.taut.get("poll_s") or 0.2)
        self.prepared = prepared()
        self.shaping: Shaping | None = None
        self._rows: Rows | None = None
        self._tested: list[Rollout] = []

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """verl's rows of a step, scored. Its own metrics, and Taut's."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        shaping, rows = self._begun()
        if partition_id == "val":
            found, _ = self._read(rows, batch, len(self._tested), "validation")
            self._tested += found
            shaping.test(self._tested)  # again with every part of it: none is known to be the last
            return batch, metrics
        self.settle()
        if shaping.step != global_steps - 1:
            raise TautError(
                f"verl is at step {global_steps}, and Taut's state at step {shaping.step}: a step was sampled twice or not at all; "
                "resume from the last checkpoint"
            )
        size = int(self.config.data.train_batch_size) * int(self.config.actor_rollout_ref.rollout.n)
        rollouts, places = self._read(rows, batch, shaping.step * size, "train")
        columns = {}
        if "mean_log_prob" in shaping.config.reward.needs | shaping.config.advantage.needs:
            columns["mean_log_prob"] = [float(np.mean(r.log_probs)) if r.log_probs else 0.0 for r in rollouts]
        shaped = shaping.train(rollouts, **columns)
        self._write(batch, places, rollouts, shaped)
        shaping.log(shaped.row)
        return batch, metrics | {f"taut/{k}": v for k, v in numbers(shaped.row).items() if k != "step"}

    def settle(self) -> None:
        """A validation is over: the reward observes what it watches."""
        if self.shaping is not None:
            self.shaping.watch(self._tested)
        self._tested = []

    def _begun(self) -> tuple[Shaping, Rows]:
        if self.shaping is None or self._rows is None:
            config, rollout = self.config, self.config.actor_rollout_ref.rollout
            host = Host(
                model=str(config.actor_rollout_ref.model.path), data=str(config.data.train_files),
                steps=int(self.trainer.total_training_steps), prompts=int(config.data.train_batch_size), samples=int(rollout.n),
                max_tokens=int(config.data.max_response_length), temperature=float(rollout.temperature),
                seed=int(config.data.get("seed") or 0), out=config.taut.get("out"),
            )  # fmt: skip
            self.shaping = Shaping(self.prepared.recipe, host)
            if self.prepared.state is not None:
                self.shaping.load_state_dict(self.prepared.state, str(self.prepared.place))
            self.shaping.open()
            self._rows = Rows(self.prepared.recipe, self.trainer.tokenizer, host.max_tokens)
        return self.shaping, self._rows

    def _read(self, rows: Rows, batch: Any, first: int, origin: str) -> tuple[list[Rollout], list[int]]:
        needs = self.prepared.recipe.reward.needs | self.prepared.recipe.advantage.needs
        fields = [*FIELDS, *([LOG_PROBS] if "mean_log_prob" in needs and origin == "train" else [])]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        columns = {name: unpacked(data[name]) for name in fields}
        found = [{name: columns[name][i] for name in fields} for i in range(len(batch.keys))]
        step = self.shaping.step if self.shaping else 0
        return rows.rollouts(batch.keys, found, first, step, origin)

    def _write(self, batch: Any, places: list[int], rollouts: list[Rollout], shaped: Shaped) -> None:
        """Each advantage on its response's last token, where the estimator `taut` finds it."""
        scores: list[torch.Tensor] = [torch.zeros(0)] * len(places)
        for place, rollout, advantage in zip(places, rollouts, shaped.advantage, strict=True):
            row = torch.zeros(len(rollout.token_ids), dtype=torch.float32)
            if len(row):
                row[-1] = float(advantage)
            scores[place] = row
        fields = tu.get_tensordict({"rm_scores": torch.nested.as_nested_tensor(scores, layout=torch.jagged)})
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def unpacked(column: Any) -> list[Any]:
    """A column of verl's queue as a list, one value a row: it comes as nested tensors, as stacks or as lists."""
    if isinstance(column, torch.Tensor):
        return list(column.unbind())
    return [
        getattr(value, "data", value) if not isinstance(value, dict | list | str) else value for value in list(column)
    ]
