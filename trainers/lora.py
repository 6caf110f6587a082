"""LoRA (2106.09685) through peft: a frozen model, and small factors beside its linear layers that are trained in its place.

Engines, exports and checkpoints' model folders hold ordinary weights, W + (alpha / rank) B A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rewards.errors import TautError

NAME = "taut"  # of the adapter, as peft has many


class LoraConfig(BaseModel):
    """The section `lora` of a run's config; left out: all weights are trained."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0, description="the factors' product counts alpha / rank times")
    targets: list[str] | None = Field(
        default=None, description="names of linear layers, such as q_proj; None: all but the head"
    )


def add_adapters(model: Any, config: LoraConfig, seed: int) -> None:
    """Freeze a transformers model and put trainable factors beside its linear layers; A is random by `seed`, B is 0.

    Raises TautError where peft is not installed, or knows no such layers in this model.
    """
    try:
        import peft
    except ImportError as error:
        raise TautError(f"lora: needs peft ({error}); install the extra `lora`, or leave `lora` out") from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type] - a whole number is only usual
        target_modules=config.targets or "all-linear",
        lora_dropout=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, model, adapter_name=NAME)
        except ValueError as error:
            raise TautError(
                f"lora.targets={config.targets}: {str(error).splitlines()[0]}; name linear layers of this model"
            ) from error
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        if not isinstance(module.base_layer, torch.nn.Linear):
            raise TautError(f"lora.targets: {name} is a {type(module.base_layer).__name__}; leave it out")
        if module is head:
            raise TautError(f"lora.targets: {name} is the head, to which no factors are added; leave it out")


def merged(model: Any, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name, tied ones once, detached; factors multiplied out. whole: puts shards together.

    Weights without factors are views of the model's own.
    """
    for name, p in model.named_parameters():
        if ".lora_" in name:
            continue
        weight = whole(p.detach())
        place, base, last = name.rpartition(".base_layer.")
        if base and last == "weight":
            module = model.get_submodule(place)
            a, b = (whole(getattr(module, side)[NAME].weight.detach()).float() for side in ("lora_A", "lora_B"))
            weight = (weight.float() + module.scaling[NAME] * (b @ a)).to(weight.dtype)
        yield (f"{place}.{last}" if base else name), weight
