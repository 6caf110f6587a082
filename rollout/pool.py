"""An engine made of N Ray actors: each wraps one engine on its own core or GPU. Workers may die; their work is redone.

`rollout.schedule` decides who does what, `rollout.crew` has the actors do it, and this hands it out. Rollouts arrive one by one
as they end. With `feed=fixed` what is sampled does not depend on the speed of a worker or on its death; with `feed=free`
its last bits may.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.errors import TautError
from rollout import cores
from rollout.crew import Command, Crew
from rollout.engine import Done, EngineConfig, Enough, OnDone, Refresh, check_request
from rollout.schedule import Schedule
from rollout.transfer import Broadcast
from rollout.types import Completion, Prompt
from rollout.weights import stored
from rollout.worker import pack

if TYPE_CHECKING:
    import torch

    from rollout.cluster import ClusterConfig


class RayPool:
    """See `rollout.engine.Engine`. `facts`: what each worker said of itself when it started (pid, node, cores, ...)."""

    def __init__(
        self, config: EngineConfig, model_path: str, stop_ids: Sequence[int], place: ClusterConfig | None = None
    ) -> None:
        self.config = config
        self.version = 0
        self.temperature = config.temperature
        self.on_done: OnDone | None = None
        self.refresh: Refresh | None = None
        self.borrows = False
        self.enough: Callable[[], bool] | None = None
        self._latest: Mapping[str, torch.Tensor] | None = None  # the latest weights
        self._weights: Any = None  # they, in Ray's object store, once they were asked for there
        self._broadcast: Broadcast | None = None
        self._canary: tuple[Sequence[int], list[float]] | None = None  # what a healthy worker scored since then
        self._schedule: Schedule | None = None
        self._take: OnDone = lambda done: None
        self._step_back: Callable[[], None] = lambda: None  # undoes `stand_aside`
        self._crew = Crew(self, config, model_path, stop_ids, place)
        self.facts = self._crew.facts
        if config.weights == "broadcast":
            self._broadcast = self._open_broadcast()
        first = self.facts[0]
        self.name = f"{first['name']} x {config.workers}"
        self.canary_tolerance: float = first["canary_tolerance"]
        self.max_model_len: int = first["max_model_len"]
        self.vocab_size: int = first["vocab_size"]
        self._room = config.batch_size if first["name"] == "transformers" else config.max_num_seqs

    def generate(self, prompts: Sequence[Prompt], temperature: float | None = None) -> list[Completion]:
        """One completion a prompt, in the order asked; prompts go to whichever worker has room."""
        temperature = self.temperature if temperature is None else temperature
        check_request(prompts, temperature, self.max_model_len, self.vocab_size)
        fixed = self.config.feed == "fixed"
        size = self._room * (4 if fixed and not self.facts[0]["name"].startswith("transformers") else 1)
        schedule = Schedule(self.config.workers, len(prompts), self.config.feed, size)
        completions: list[Completion | None] = [None] * len(prompts)

        def take(done: Done) -> None:
            for item, completion in done:
                completions[item] = completion
            if self.on_done is not None:
                self.on_done(done)

        def give() -> None:
            if self.enough is not None and self.enough():
                raise Enough
            if self.refresh is not None and (newer := self.refresh()) is not None:
                self._swap(*newer)
            for worker, items in schedule.assign():
                member, work = self._crew.members[worker], pack([(i, prompts[i]) for i in items])
                if member.command is None:
                    self._crew.send(worker, Command("generate", (work, temperature, fixed)))
                else:
                    member.actor.feed.remote(member.number, work, False)

        self._schedule, self._take = schedule, take
        for worker, member in enumerate(self._crew.members):
            if member.idle:
                schedule.ready(worker)
        try:
            self._crew.pump(lambda: not schedule.done, give)
            if not fixed:
                self._crew.each(lambda member: member.actor.feed.remote(member.number, pack([]), True))
            self._schedule = None
            self._crew.finish()
        finally:
            self._schedule = None
        return [c for c in completions if c is not None]

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Broadcast the weights, or put them into the object store once, from where every worker loads them."""
        self._take_up(weights, version)
        if self._broadcast is not None:
            self._crew.finish()  # a worker that is being restarted is waited for, and nobody waits for it in a group
            if self._broadcast.send(weights, version, self._ask):
                return
        self._all("load_weights", self._in_store(), version)

    def _swap(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Have every worker take up new weights between two tokens; nothing is waited for."""
        self._take_up(weights, version)
        reference = self._in_store()
        self._crew.each(lambda member: member.actor.swap.remote(reference, version))

    def _take_up(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        self._latest, self._weights, self.version, self._canary = weights, None, version, None

    def _in_store(self) -> Any:
        """Where Ray's object store has the latest weights; put there when first asked for."""
        if self._weights is None and self._latest is not None:
            self._weights = stored(self._latest)
        return self._weights

    def _open_broadcast(self) -> Broadcast:
        if any(facts["name"] != "vllm" for facts in self.facts):
            self.close()
            raise TautError(
                f"rollout.weights=broadcast: only vLLM's engines can receive one, and these are {self.facts[0]['name']}; set "
                "rollout.engine=vllm, or rollout.weights=store"
            )
        return Broadcast(self.config.workers, self.config.tensor_parallel, self._crew.gpus > 0)

    def score(self, ids: Sequence[int]) -> list[float]:
        return self._crew.ask("score", [(list(ids),)], [0])[0]

    def score_all(self, ids: Sequence[int]) -> list[list[float]]:
        """The scores of each worker; a worker restarted later must agree with the first of them."""
        scores = self._all("score", list(ids))
        self._canary = (list(ids), scores[0])
        return scores

    def take_events(self) -> list[dict]:
        """Restarts since the last call: {"kind": "worker_restarted", "worker", "seconds", "reason", "stack"}."""
        events, self._crew.events = self._crew.events, []
        return events

    def rest(self) -> None:
        if self.config.sleep:
            self._all("rest")

    def stand_aside(self) -> None:
        if not self._crew.gpus:
            here = socket.gethostname()
            taken = {core for facts in self.facts if facts["host"] == here for core in facts["cores"]}
            self._step_back = cores.leave(taken)

    def close(self) -> None:
        self._crew.close()
        self._step_back()
        self._step_back = lambda: None
        self._latest = self._weights = None

    # ---- what the crew tells ---------------------------------------------------------------------------------------

    def ended(self, worker: int, done: Done) -> None:
        """See `rollout.crew.Owner`, as of the next three."""
        if (schedule := self._schedule) is not None:
            self._take([(item, completion) for item, completion in done if schedule.ended(worker, item)])

    def ready(self, worker: int) -> None:
        """The worker may be given prompts."""
        if self._schedule is not None:
            self._schedule.ready(worker)

    def lost(self, worker: int) -> None:
        """The worker has died: its prompts go to others, and the broadcast's group is left."""
        if self._broadcast is not None:
            self._broadcast.leave()
        if self._schedule is not None:
            self._schedule.lost(worker)

    def setup(self, worker: int, asked: Sequence[Command]) -> list[Command]:
        """The latest weights; and a new worker must agree with the others on the canary."""
        commands = []
        if self._latest is not None and not any(c.method == "load_weights" for c in asked):
            commands.append(Command("load_weights", (self._in_store(), self.version), setup=True))
        if self._canary is not None:
            told = lambda scores: self._agrees(worker, scores)  # noqa: E731
            commands.append(Command("score", (self._canary[0],), told, setup=True))
        return commands

    def _agrees(self, worker: int, scores: Sequence[float]) -> None:
        if self._canary is None:  # there have been newer weights since it was asked
            return
        gap = float(np.max(np.abs(np.subtract(scores, self._canary[1])), initial=0.0))
        if not gap <= self.canary_tolerance:
            self._crew.replace(worker, f"its canary is {gap:.3g} nats from the others' after the restart")

    def _all(self, method: str, *args: Any) -> list[Any]:
        """The result of a method on each worker."""
        return self._ask(method, [args] * self.config.workers)

    def _ask(self, method: str, args: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The result of a method on each worker, of arguments of its own."""
        return self._crew.ask(method, args, range(self.config.workers))
