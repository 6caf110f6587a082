"""A CPU as one of verl's platforms. verl asks for it by VERL_PLATFORM=cpu, and imports it by VERL_USE_EXTERNAL_MODULES."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
import torch.distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class _Device(types.ModuleType):
    """`torch.cpu` with the calls of `torch.cuda` that verl makes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def mem_get_info(*_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    @staticmethod
    def memory_allocated(*_: Any) -> int:
        return psutil.Process().memory_info().rss

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated

    @staticmethod
    def nothing(*_: Any, **__: Any) -> None:
        return None

    empty_cache = set_device = synchronize = reset_peak_memory_stats = set_per_process_memory_fraction = nothing
    manual_seed = manual_seed_all = nothing

    @staticmethod
    def get_rng_state(*_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def get_device_name(*_: Any) -> str:
        return "cpu"


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """One CPU, to verl and to Ray a GPU: Ray is started with `+ray_kwargs.ray_init.num_gpus=1`."""

    device_name = "cpu"  # type: ignore[assignment]
    vendor_name = "cpu"  # type: ignore[assignment]
    device_module = _Device("taut_cpu_device")  # type: ignore[assignment]

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"  # tensors are moved `.to(...)` it; there is no index 0

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def cudart(self) -> Any:
        return None


def _one_backend(inner: Any) -> Any:
    """verl asks for "cpu:gloo,cpu:gloo", which torch refuses as naming a device twice."""

    def init_process_group(backend: str | None = None, *args: Any, **more: Any) -> Any:
        return inner("gloo" if backend and backend.startswith("cpu:gloo,cpu:") else backend, *args, **more)

    return init_process_group


if os.environ.get("VERL_PLATFORM", "").lower() == "cpu":
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")  # verl's FSDP engine is registered for no other name, and fits
    torch.distributed.init_process_group = _one_backend(torch.distributed.init_process_group)
    setattr(torch.Tensor, "pin_memory", lambda self, *_: self)  # noqa: B010 (verl pins the reference model, for a GPU)
