"""Responses for verl by Taut's transformers engine, in one Ray actor: `actor_rollout_ref.rollout.name=taut_cpu`.

For machines without a GPU and small models. Sampling is by temperature alone (top_p 1, top_k -1); requests that come together are
answered together.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from rewards.errors import TautError
from rollout.weights import to_arrays, to_tensors

NAME = "taut_cpu"
GATHER_S = 0.05  # after a request others may come in for so long


class Server:
    """A model that answers verl's requests, all that are there at once."""

    def __init__(self, model: str, response_length: int, seed: int) -> None:
        from rollout.engine import EngineConfig
        from rollout.prompts import load_tokenizer, model_configs, stop_ids
        from rollout.transformers_engine import TransformersEngine

        stops, _ = stop_ids(load_tokenizer(model), *model_configs(model))
        config = EngineConfig(engine="transformers", dtype="float32")
        self.engine, self.response_length = TransformersEngine(config, model, stops), response_length
        self.draws, self.version = itertools.count(seed * 1_000_003), 0
        self.waiting: list[tuple[Any, float, asyncio.Future[Any]]] = []
        self.busy = asyncio.Lock()

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """One response; verl's sampling parameters of it."""
        from rollout.types import Prompt

        if sampling_params.get("top_p", 1) not in (1, None) or sampling_params.get("top_k", -1) not in (-1, 0, None):
            raise TautError("rollout.name=taut_cpu: samples by temperature alone; set top_p=1 and top_k=-1")
        cap = sampling_params.get("max_tokens") or sampling_params.get("max_new_tokens") or self.response_length
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        prompt = Prompt(tuple(prompt_ids), int(cap), next(self.draws))
        self.waiting.append((prompt, float(sampling_params.get("temperature", 1.0)), done))
        await asyncio.sleep(GATHER_S)
        async with self.busy:
            await self._answer()
        completion = await done
        return TokenOutput(
            token_ids=list(completion.token_ids),
            log_probs=list(completion.log_probs),
            stop_reason="completed" if completion.finish_reason == "stop" else "length",
            extra_fields={"global_steps": self.version},
        )

    async def _answer(self) -> None:
        """All that wait, by temperature."""
        while self.waiting:
            temperature = self.waiting[0][1]
            now = [request for request in self.waiting if request[1] == temperature]
            self.waiting = [request for request in self.waiting if request[1] != temperature]
            try:
                prompts = [prompt for prompt, _, _ in now]
                completions = await asyncio.to_thread(self.engine.generate, prompts, temperature)
            except Exception as error:
                for _, _, done in now:
                    done.set_exception(error)
                continue
            for (_, _, done), completion in zip(now, completions, strict=True):
                done.set_result(completion)

    async def load(self, arrays: Any, version: int) -> None:
        """New weights, once what is under way is done."""
        async with self.busy:
            self.version = version
            await asyncio.to_thread(self.engine.load_weights, to_tensors(arrays), version)

    async def nothing(self, *_: Any, **__: Any) -> None:
        """What a GPU would do here."""

    sleep = wake_up = clear_kv_cache = release_kv_cache = resume_kv_cache = abort_all_requests = nothing
    resume_generation = start_profile = stop_profile = nothing


class Replica(RolloutReplica):
    """One server on the node of its worker."""

    async def launch_servers(self) -> None:
        """See verl."""
        worker: Any = self.workers[0]
        node = await worker.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id())
        place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        options = {"scheduling_strategy": place, "name": f"{NAME}_{self.replica_rank}", "max_concurrency": 1000}
        path, length = str(self.model_config.path), int(self.config.response_length)
        server: Any = ray.remote(Server).options(**options).remote(path, length, self.replica_rank)
        self.servers = [server]
        self._server_handle, self._server_address = server, f"{NAME}_{self.replica_rank}"
        await server.nothing.remote()


class Adapter(base.BaseRollout):
    """The worker's side: it sends its weights to the server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = 0, **_: Any) -> None:
        super().__init__(config, model_config, device_mesh)
        self.name = f"{NAME}_{max(replica_rank, 0)}"

    async def resume(self, tags: list[str]) -> None:
        """See verl."""

    async def release(self) -> None:
        """See verl."""

    async def update_weights(
        self, weights: Generator[tuple[str, Tensor], None, None], global_steps: int | None = None, **_: Any
    ) -> None:
        """See verl."""
        arrays = to_arrays(dict(weights))
        server: Any = ray.get_actor(self.name)
        await server.load.remote(ray.put(arrays), global_steps or 0)


base._ROLLOUT_REGISTRY[(NAME, "async")] = f"{__name__}.Adapter"
RolloutReplicaRegistry.register(NAME, lambda: Replica)
