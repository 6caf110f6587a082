"""A policy whose weights, gradients and optimiser state are spread over ranks: FSDP2 (`fully_shard`), one shard a rank.

Every layer of the transformer is whole on a rank only while it computes; embedding, norm and head are while a pass runs. What
is computed is what one process computes: gradients are summed over ranks, for the shares of a loss add up (`trainers.share`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from rewards.errors import TautError
from trainers.optim import MasterAdamW
from trainers.policy import Policy

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def shard(policy: Policy, mesh: Any, dtype: torch.dtype) -> None:
    """Spread a policy, the same on every rank and not used yet, over the ranks of a one-dimensional device mesh.

    Its weights are the float32 masters; layers compute in `dtype`, gradients are summed in float32. Raises TautError for a
    model in which no repeated layers are found.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    model = policy.model
    mixed = MixedPrecisionPolicy() if dtype == torch.float32 else MixedPrecisionPolicy(dtype, torch.float32)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=mixed)
    fully_shard(model, mesh=mesh, mp_policy=mixed)
    for module in [*_layers(model), model]:
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    model.policy_pass = policy._compute
    register_fsdp_forward_method(model, "policy_pass")

    def compute(*args: Any) -> tuple[Tensor, ...]:
        out = model.policy_pass(*args)
        if not torch.is_grad_enabled():
            model.reshard()  # what no backward pass will do: these weights are stale after the next update
        return out

    policy.compute = compute


def _layers(model: Any) -> list[Any]:
    """The repeated blocks of a transformer, as transformers names them."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [m for m in model.modules() if type(m).__name__.removeprefix("FSDP") in names]
    if not found:
        raise TautError(
            f"trainer.ranks: {type(model).__name__} does not name its layers (_no_split_modules), so it cannot be sharded; "
            "use trainer.ranks=0"
        )
    return found


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, on every rank; any other as it is. All ranks must ask together."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def state_of(policy: Policy, optimizer: MasterAdamW) -> dict[str, Tensor]:
    """What a checkpoint must hold of what is trained, by name: `model.*`, and the moments `exp_avg.*`, `exp_avg_sq.*`, `step.*`.

    The tensors are those that are used, moments made (as zeros) where there have been no updates yet: reading into them is
    loading. A master that is not the parameter itself (bfloat16 in one process) stands for the parameter.
    """
    masters = {id(p): m for p, m in zip(optimizer.parameters, optimizer.masters, strict=True)}
    state = {}
    for name, p in policy.model.named_parameters():
        if (master := masters.get(id(p))) is None:
            continue
        state[f"model.{name}"] = master.detach()
        moments = optimizer.state[master]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32)
            moments["exp_avg"], moments["exp_avg_sq"] = torch.zeros_like(master), torch.zeros_like(master)
        state |= {f"{moment}.{name}": moments[moment].detach() for moment in MOMENTS}
    return state


def save_shards(folder: Path, state: dict[str, Tensor]) -> None:
    """Write the state of `state_of`, each rank its own shards; all ranks must ask together."""
    from torch.distributed.checkpoint.state_dict_saver import save

    save(cast(dict[str, Any], state), checkpoint_id=str(folder), no_dist=not _together())


def load_shards(folder: Path, policy: Policy, optimizer: MasterAdamW) -> None:
    """Read what `save_shards` wrote, of any number of ranks, into a policy and its optimiser. Raises TautError."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        state = cast(dict[str, Any], state_of(policy, optimizer))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that one process alone reads
            load(state, checkpoint_id=str(folder), no_dist=not _together())
    except (CheckpointException, RuntimeError, ValueError, KeyError, OSError) as error:
        line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise TautError(
            f"{folder}: not the shards of this model and optimiser ({line[0]}); remove the checkpoint, or start a new run"
        ) from error
    with torch.no_grad():
        for p, master in optimizer.pairs():
            p.copy_(master)


def read_whole(saved: dict[str, Any], policy: Policy, optimizer: MasterAdamW) -> None:
    """Take the state of an optimiser that was whole (`MasterAdamW.state_dict`): each rank its part. Raises KeyError, ValueError."""
    state = state_of(policy, optimizer)
    names = [name.removeprefix("exp_avg.") for name in state if name.startswith("exp_avg.")]
    if set(saved["state"]) not in ({*range(len(names))}, set()):
        raise ValueError(f"moments of {len(saved['state'])} parameters, the model has {len(names)}")
    with torch.no_grad():
        for i, moments in saved["state"].items():
            for moment in MOMENTS:
                fill(state[f"{moment}.{names[i]}"], moments[moment])
        for name, master in zip(names, saved["masters"] or [], strict=bool(saved["masters"])):
            fill(state[f"model.{name}"], master)


def fill(tensor: Tensor, values: Tensor) -> None:
    """Put values, whole on every rank, into a tensor that may be sharded. Raises ValueError for another shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if tensor.shape != values.shape:
        raise ValueError(f"{tuple(values.shape)} where the model has {tuple(tensor.shape)}")
    if isinstance(tensor, DTensor):
        values = values.to(tensor.to_local().device)
        values = distribute_tensor(values, tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(values)


def _together() -> bool:
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()
