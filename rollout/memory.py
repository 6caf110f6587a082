"""Does a model fit? Asked before anything is read, so that the answer is a number and not a process that was killed.

What is counted is what cannot be done without: the weights and, for training, gradients and optimiser; activations come on top.
"""

from __future__ import annotations

import json
import os
import struct
from math import prod
from pathlib import Path

from rewards.errors import TautError

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def parameters(folder: str | Path) -> int | None:
    """Numbers in the weights of a Hugging Face folder, from the headers of its safetensors; None where there are none."""
    total = 0
    for file in Path(folder).glob("*.safetensors"):
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total or None


def free(gpu: bool) -> int:
    """Bytes that this process could still take: of its GPU, or of the machine and the control group that it runs in."""
    if gpu:
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    found = [psutil.virtual_memory().available]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            room = [Path("/sys/fs/cgroup", name).read_text() for name in (limit, used)]
            found.append(int(room[0]) - int(room[1]))
        except (OSError, ValueError):  # another kind of control group, or no limit
            continue
    return min(found)


def refuse_without_room(place: str, folder: str | Path, parts: dict[str, int], gpu: bool, remedy: str) -> None:
    """Raises TautError where `parts`, bytes by what needs them, are more than there is; says how much, and of what."""
    need, there = sum(parts.values()), free(gpu)
    if need > there:
        listed = " + ".join(f"{size / GIB:.1f} GiB {name}" for name, size in parts.items())
        raise TautError(
            f"{place}: {folder} needs {need / GIB:.1f} GiB ({listed}), of which {'the GPU' if gpu else os.uname().nodename} has "
            f"{there / GIB:.1f} GiB free; {remedy}"
        )
