"""What receives a broadcast in each process of a vLLM engine: a backend of vLLM's weight transfer. See `rollout.transfer`.

vLLM imports `Extension` by name in every process of an engine (`worker_extension_cls`), which registers the backend there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.transfer import enter, incoming


@dataclass
class Meeting(WeightTransferInitInfo):
    """Where the group meets, how many there are, and the rank of this engine's first process in it."""

    host: str
    port: int
    world: int
    gpu: bool
    offset: int


@dataclass
class Coming(WeightTransferUpdateInfo):
    """The tensors of one broadcast, in order."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


class Receiver(WeightTransferEngine[Meeting, Coming]):
    """Takes each tensor as it comes and loads it as from a checkpoint."""

    init_info_cls = Meeting
    update_info_cls = Coming
    group: Any = None

    def init_transfer_engine(self, init_info: Meeting) -> None:
        """Join the trainer's group, in place of one joined before."""
        self.group = None
        rank = init_info.offset + self.parallel_config.rank
        self.group = enter(init_info.host, init_info.port, init_info.world, rank, init_info.gpu)

    def start_weight_update(self) -> None:
        """Make the model ready to be loaded again, layer by layer."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive and load one broadcast. Where it breaks off, the model is left so that it can be loaded again."""
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except BaseException:
            self.finish_weight_update()
            raise
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def receive_weights(self, update_info: Coming) -> None:
        """Tensor by tensor: no more than one of them is held twice."""
        told = update_info.names, update_info.dtypes, update_info.shapes
        for name, tensor in incoming(self.group, *told, self.device):
            self.model.load_weights([(name, tensor)])  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        """Bring what was loaded into the form that the kernels read."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        self.group = None


class Extension:
    """Adds nothing to vLLM's worker: naming it has this file imported."""


WeightTransferEngineFactory.register_engine("taut", Receiver)
