"""AdamW with float32 masters, the learning-rate schedule, gradient clipping. Bit-deterministic on one thread."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class OptimConfig(BaseModel):
    """AdamW (1711.05101). lr is the peak; warmup_steps: optimiser steps from 0 up to it; schedule: constant, or
    linear down to 0 at the last step. grad_clip: largest global gradient norm, None for no clipping."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    lr: float = Field(default=1e-6, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float | None = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear"] = "constant"


def lr_at(step: int, config: OptimConfig, total_steps: int) -> float:
    """Learning rate of optimiser step `step` (0 is the first) of `total_steps`.

    Warm-up: lr * (step + 1) / warmup_steps for the first warmup_steps. Then constant, or linear from lr down to
    lr / (total_steps - warmup_steps) at the last step (0 would waste it). Steps past the end keep the last value.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    span = max(total_steps - config.warmup_steps, 1)
    return config.lr * max(span - (step - config.warmup_steps), 1) / span


class MasterAdamW(torch.optim.AdamW):
    """AdamW on float32 masters of the model's parameters; for float32 parameters the master is the parameter itself.

    A bfloat16 parameter cannot hold an update smaller than 1/256 of itself, nor a sum of many micro-batches'
    gradients: each `backward` adds its gradient to the master's in float32, `step` moves the master and rounds it
    into the parameter. The state holds such masters too, so that a resumed run goes on with the bits that were
    rounded away.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], config: OptimConfig) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [
            p if p.dtype == torch.float32 else torch.nn.Parameter(p.detach().float()) for p in self.parameters
        ]
        for p, master in self.pairs():
            p.register_post_accumulate_grad_hook(_move_gradient(master))
        super().__init__(
            self.masters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            foreach=self.masters[0].device.type != "cpu",
        )

    def pairs(self) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        """(parameter, its master) where they are two."""
        return [(p, m) for p, m in zip(self.parameters, self.masters, strict=True) if p is not m]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """AdamW's step on the masters, which are then rounded into the parameters."""
        out = super().step(closure)
        for p, master in self.pairs():
            p.copy_(master)
        return out

    @torch.no_grad()
    def update(self, lr: float, grad_clip: float | None) -> float:
        """One step with the gradients gathered since the last one, which are then cleared; gives their norm before
        clipping.

        A norm that is not finite leaves weights and moments as they were: the caller sees it in the value.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, float("inf") if grad_clip is None else grad_clip))
        if math.isfinite(norm):
            for group in self.param_groups:
                group["lr"] = lr
            self.step()
        self.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state, and the masters that are not the parameters themselves."""
        return {**super().state_dict(), "masters": [m.detach() for _, m in self.pairs()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the model's parameters become the rounded masters."""
        state = dict(state_dict)
        masters: list[Tensor] = state.pop("masters", [])
        super().load_state_dict(state)
        with torch.no_grad():
            for (p, master), saved in zip(self.pairs(), masters, strict=True):
                master.copy_(saved)
                p.copy_(master)


def _move_gradient(master: torch.nn.Parameter) -> Any:
    def move(p: Tensor) -> None:
        assert p.grad is not None
        master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
        p.grad = None

    return move


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> MasterAdamW:
    """The optimiser of a model's trainable parameters; call `update(lr_at(...), grad_clip)` once a mini-batch."""
    return MasterAdamW(model.parameters(), config)
