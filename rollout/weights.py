"""Tensors as what Ray's object store shares between processes: numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Arrays = dict[str, tuple[np.ndarray, str]]


class Stored(dict[str, "torch.Tensor"]):
    """Weights that lie in Ray's object store already, as arrays under `ref`, and stay there as long as this does."""

    def __init__(self, ref: Any, arrays: Arrays) -> None:
        super().__init__(to_tensors(arrays))
        self.ref = ref


def stored(weights: Mapping[str, torch.Tensor]) -> Any:
    """The reference under which Ray's object store has these weights as arrays; put there once."""
    import ray

    return weights.ref if isinstance(weights, Stored) else ray.put(to_arrays(weights))


def to_arrays(weights: Mapping[str, torch.Tensor]) -> Arrays:
    """Tensors as numpy arrays with their torch dtype's name; numpy has no bfloat16, so that travels as int16."""
    import torch

    arrays: Arrays = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        arrays[name] = ((tensor.view(torch.int16) if dtype == "bfloat16" else tensor).numpy(), dtype)
    return arrays


def to_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """The inverse of `to_arrays`; the tensors share the object store's read-only memory."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that they are read-only
        return {name: torch.from_numpy(a).view(getattr(torch, dtype)) for name, (a, dtype) in arrays.items()}


def size_of(arrays: Arrays) -> int:
    """Bytes."""
    return sum(array.nbytes for array, _ in arrays.values())
