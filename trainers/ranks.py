"""A learner made of N Ray actors: ranks of one `torch.distributed` group (NCCL on GPUs, gloo on CPUs), each with a shard.

Every call goes to all ranks at once; rank 0 answers. A rank that dies, or ranks that make no progress for `trainer.deadline_s`,
end all of them: `RankLost` is raised, and `trainers.train` goes on from the run's last checkpoint with new ones. Checkpoints
are written by all ranks, so the run folder must be at the same place on every node of theirs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor

from rewards.errors import TautError
from rollout import cluster
from rollout.actor import Actor
from rollout.transfer import choose_interface, tcp_store
from rollout.types import Rollout
from rollout.weights import Stored, to_arrays
from trainers.learner import LocalLearner, Measured, Start
from trainers.share import RankLost, Share
from trainers.update import Scored

START_S = 600.0  # until all ranks have imported torch, met, and read the model, on a busy machine
LOOK_S = 0.5  # between two looks whether ranks that are at work still make progress
ANSWER_S = 20.0  # until a rank says how far it is


class Rank(Actor):
    """The Ray actor: one thread of it computes, the others answer `progress`."""

    def __init__(self) -> None:
        super().__init__()
        self.learner: LocalLearner | None = None
        self._calls = 0

    def open(self, world: int) -> tuple[str, int]:
        """As rank 0: where the ranks meet, (host, port); the port is one that was free."""
        import ray

        host = ray.util.get_node_ip_address()
        self._store: Any = tcp_store(host, 0, world, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def start(self, rank: int, world: int, place: tuple[str, int], start: Start, gpu: bool) -> dict[str, Any]:
        """Meet the others and read the model; facts about it."""
        import torch
        from torch import distributed
        from torch.distributed.device_mesh import init_device_mesh

        if not gpu:
            torch.set_num_threads(1)
        choose_interface(*place)
        store = self._store if rank == 0 else tcp_store(*place, world, is_master=False)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=start.config.trainer.deadline_s),
        )
        mesh = init_device_mesh("cuda" if gpu else "cpu", (world,))
        self.learner = LocalLearner(start, Share(rank, world), mesh, "cuda" if gpu else "cpu")
        names = ("model_config", "generation_config", "parameters")
        return {name: getattr(self.learner, name) for name in names} | {"dtype": str(self.learner.dtype)}

    def do(self, method: str, *args: Any) -> Any:
        """Call the learner; what rank 0 gets of it."""
        assert self.learner is not None, "started first"
        result = getattr(self.learner, method)(*args)
        self._calls += 1
        if self.learner.share.rank:
            return None
        return to_arrays(result) if method == "weights" else result

    def progress(self) -> int:
        """Grows with every micro-batch and every call."""
        return self._calls + (self.learner.updater.done if self.learner else 0)


class RankedLearner:
    """See `trainers.learner.Learner`. facts: what each rank said of itself (pid, node, host)."""

    def __init__(self, start: Start) -> None:
        self.start, self.world = start, start.config.trainer.ranks
        self.facts: list[dict[str, Any]] = []
        self._ranks: list[Any] = []
        self._group: Any = None
        workers = start.config.rollout
        self._owns_ray = cluster.connect(self.world + workers.workers * workers.tensor_parallel, start.config.cluster)
        try:
            gpus = cluster.gpus_each(self.world, what="trainer.ranks")
            self._group = cluster.reserve(self.world, gpus)
            self._ranks = [cluster.spawn(Rank, self._group, i, gpus) for i in range(self.world)]
            self.facts = self._hello(gpus)
            place = self._wait([self._ranks[0].open.remote(self.world)], START_S)[0]
            begun = [actor.start.remote(i, self.world, place, start, bool(gpus)) for i, actor in enumerate(self._ranks)]
            said = self._wait(begun, START_S)[0]
        except BaseException:
            self.close()
            raise
        self.model_config, self.generation_config = said["model_config"], said["generation_config"]
        self.parameters = said["parameters"]

    def measure(self, rollouts: Sequence[Rollout], needs: frozenset[str]) -> Measured:
        return self._all("measure", rollouts, needs)

    def update(self, scored: Scored, step: int) -> dict[str, float]:
        return self._all("update", scored, step)

    def weights(self) -> Mapping[str, Tensor]:
        """See Learner; in Ray's object store, from where the engines' workers take them without a copy in this process."""
        calls = self._call("weights")
        return Stored(calls[0], self._wait(calls, self.start.config.trainer.deadline_s)[0])

    def score(self, ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        return self._all("score", list(ids), temperature)

    def save(self, folder: Path, tokenizer: Any) -> None:
        self._all("save", folder.absolute(), tokenizer)

    def restore(self, folder: Path) -> None:
        self._all("restore", folder.absolute())

    def export(self, folder: Path, tokenizer: Any) -> None:
        self._all("export", folder.absolute(), tokenizer)

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            for actor in self._ranks:
                ray.kill(actor)
            if self._group is not None:
                cluster.release(self._group)
            if self._owns_ray:
                ray.shutdown()
        self._ranks, self._group, self._owns_ray = [], None, False

    def _hello(self, gpus: int) -> list[dict[str, Any]]:
        """Who the ranks are. Raises TautError where there is no room for them, or a node has other versions."""
        import ray

        calls, until = [actor.hello.remote() for actor in self._ranks], time.monotonic() + START_S
        while len(ray.wait(calls, num_returns=len(calls), timeout=cluster.PLACE_S)[1]):
            if lacking := cluster.no_room(self._group, self.world, gpus, what="trainer.ranks"):
                raise TautError(lacking)
            if time.monotonic() > until:
                raise RankLost(f"its process was not there after {START_S:g} s")
        facts = self._wait(calls, START_S)
        for fact in facts:
            cluster.check_versions(fact["host"], fact["versions"])
        return facts

    def _all(self, method: str, *args: Any) -> Any:
        """Rank 0's result of a call that all take part in."""
        return self._wait(self._call(method, *args), self.start.config.trainer.deadline_s)[0]

    def _call(self, method: str, *args: Any) -> list[Any]:
        import ray

        shared = [ray.put(arg) for arg in args]  # once, however many ranks read it
        return [actor.do.remote(method, *shared) for actor in self._ranks]

    def _wait(self, calls: list[Any], patience: float) -> list[Any]:
        """The results of calls. Raises what a rank raised; RankLost where one died, or none got on for `patience` seconds."""
        import ray

        results: dict[Any, Any] = {}
        waiting, far, since = list(calls), -1, time.monotonic()
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=LOOK_S)
            results |= {call: self._result(call) for call in ready}
            if not waiting:
                break
            now = self._progress()
            if now != far:
                far, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                stacks = [cluster.stack_of(f["node"], f["pid"], f["stack"]) for f in self.facts]
                told = "\n".join(f"rank {i}:\n{stack}" for i, stack in enumerate(stacks))
                raise RankLost(f"no progress of the ranks in {patience:g} s", told)
        return [results[call] for call in calls]

    def _result(self, call: Any) -> Any:
        """The result of a call that has ended; raises what it ended with, if that was not well."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, TautError):
                raise error.cause from None
            self._progress()  # a rank that died is the cause of what the others complain of
            raise
        except RayError as error:
            raise RankLost(cluster.of_death(error)) from error

    def _progress(self) -> int:
        """How far all ranks are together. Raises RankLost where one is dead."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            return sum(ray.get([actor.progress.remote() for actor in self._ranks], timeout=ANSWER_S))
        except GetTimeoutError:  # a process that holds Python's lock; its deadline goes on
            return -1
        except RayError as error:
            raise RankLost(cluster.of_death(error)) from error
