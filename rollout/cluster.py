"""The Ray cluster that rollout workers live on: measured, divided into places, and asked about its processes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewards.errors import TautError
from rollout.actor import dump_stack, versions
from rollout.join import first_line, join, python_path

JOIN_S = 20.0  # until the nodes of a cluster that was just started have come
PLACE_S = 60.0  # until a worker's process should be there; after that it is looked whether there is any room for it


class Gpus(BaseModel):
    """What one side of a run takes of a cluster."""

    model_config = ConfigDict(extra="forbid")

    gpus: int | None = Field(
        default=None, ge=1, description="GPUs that it must get; None: one a process where there are any"
    )


class ClusterConfig(BaseModel):
    """The section `cluster` of a run's config: which Ray cluster, and who gets how many of its GPUs. `cluster: auto` alone is its
    address. rollout.gpus stands for as many workers as rollout.tensor_parallel makes of them, trainer.gpus for as many ranks."""

    model_config = ConfigDict(extra="forbid")

    address: str | None = Field(
        default=None, description="auto, or HOST:PORT; None: RAY_ADDRESS, or one started on this machine"
    )
    rollout: Gpus = Gpus()
    trainer: Gpus = Gpus()

    @model_validator(mode="before")
    @classmethod
    def _address_alone(cls, value: Any) -> Any:
        return {"address": value} if value is None or isinstance(value, str) else value

    @property
    def asked(self) -> dict[str, int]:
        """GPUs that must be there, by setting."""
        sides = {"cluster.rollout.gpus": self.rollout.gpus, "cluster.trainer.gpus": self.trainer.gpus}
        return {name: gpus for name, gpus in sides.items() if gpus}


def connect(places: int, cluster: ClusterConfig | None = None) -> bool:
    """Join a cluster, or start one on this machine with a core for each of `places` processes; whether that was done here.

    Raises TautError where there is none, or it lacks GPUs that were asked for.
    """
    import ray

    cluster = cluster or ClusterConfig()
    joined = False
    if not ray.is_initialized():
        failed = f"{places} processes on Ray", "rollout.workers=0 and trainer.ranks=0 do without Ray"
        join(cluster.address, "cluster", failed, num_cpus=max(places, len(os.sched_getaffinity(0))))
        joined = True
    if wanted := sum(cluster.asked.values()):
        until = time.monotonic() + JOIN_S
        while (have := ray.cluster_resources()).get("GPU", 0) < wanted:
            if time.monotonic() > until:
                nodes = sum(node["Alive"] for node in ray.nodes())
                if joined:
                    ray.shutdown()
                said = ", ".join(f"{name}={gpus}" for name, gpus in cluster.asked.items())
                raise TautError(
                    f"{said}: the Ray cluster has {have.get('GPU', 0):g} GPUs and {have.get('CPU', 0):g} cores on "
                    f"{nodes} nodes; start Ray on machines with GPUs "
                    "(cluster.address says where it is), ask for fewer, or say rollout.workers=N and trainer.ranks=N to take cores"
                )
            time.sleep(0.5)
    return joined


def gpus_each(workers: int, tensor_parallel: int = 1, what: str = "rollout.workers") -> int:
    """GPUs of a worker (or of what the setting `what` counts): `tensor_parallel` when the cluster has as many for each, 0 when
    it has none and cores must do.

    Raises TautError for a cluster too small: what was asked, what there is.
    """
    import ray

    have = ray.cluster_resources()
    cpus, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
    cores = workers if gpus else workers * tensor_parallel
    if cpus < cores or 0 < gpus < workers * tensor_parallel:
        each = "a core" if tensor_parallel == 1 else f"{tensor_parallel} cores" if not gpus else "a core"
        more = f" and {tensor_parallel} GPU{'s' * (tensor_parallel > 1)}" if gpus else ""
        most = min(cpus, gpus // tensor_parallel) if gpus else cpus // tensor_parallel
        raise TautError(
            f"{what}={workers}: each takes {each}{more}, but the Ray cluster has {cpus} cores and {gpus} GPUs; set {what}={most} "
            "or less"
        )
    return tensor_parallel if gpus else 0


def reserve(workers: int, gpus: int, cores: int = 1) -> Any:
    """A placement group with `cores` cores, and `gpus` GPUs of one node, for each worker; Ray gives a bundle whose node dies
    another place as soon as there is one."""
    from ray.util import placement_group

    bundle = {"CPU": float(cores)} | ({"GPU": float(gpus)} if gpus else {})
    return placement_group([dict(bundle) for _ in range(workers)], strategy="PACK")


def release(group: Any) -> None:
    """Give the places back."""
    from ray.util import remove_placement_group

    remove_placement_group(group)


def spawn(worker: type, group: Any, index: int, gpus: int, cores: int = 1) -> Any:
    """A new actor in the index-th place of a group; it imports our packages from wherever the driver did."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    env = {"PYTHONPATH": python_path()}
    if not gpus:
        env["OMP_NUM_THREADS"] = "1"
    options = ray.remote(worker).options(
        num_cpus=cores,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=4,
        runtime_env={"env_vars": env},
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
    )
    return options.remote()


def no_room(group: Any, workers: int, gpus: int, what: str = "rollout.workers") -> str:
    """Why a worker's process has no place now, in words; "" where it has one and is only slow."""
    import ray
    from ray.util import placement_group_table

    if placement_group_table(group)["state"] == "CREATED":
        return ""
    have, free = ray.cluster_resources(), ray.available_resources()
    asked = "1 core" + (f" and {gpus} GPUs on one node" if gpus else "")
    return (
        f"{what}={workers}: no room for one of them in {PLACE_S:g} s: it takes {asked}, but of the cluster's "
        f"{have.get('CPU', 0):g} cores and {have.get('GPU', 0):g} GPUs only {free.get('CPU', 0):g} and {free.get('GPU', 0):g} "
        f"are free; did a node go, or does another job hold them? Set {what} lower, or wait for them"
    )


def check_versions(host: str, theirs: Mapping[str, str]) -> None:
    """Raises TautError where a node's versions are not the driver's, naming all that differ."""
    ours = versions()
    if apart := [
        f"{name} {theirs[name]} (here {ours[name]})" for name in ours if name in theirs and theirs[name] != ours[name]
    ]:
        raise TautError(
            f"node {host}: {', '.join(apart)}: the driver and its workers must run the same; install it alike on every node"
        )


def stack_of(node: str, pid: int, file: int) -> str:
    """The stacks of a worker's threads, wherever it runs; a line that says why where there are none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node == ray.get_runtime_context().get_node_id():
        text = dump_stack(pid, file)
    else:
        there = ray.remote(dump_stack).options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        )
        try:
            text = ray.get(there.remote(pid, file), timeout=20)
        except Exception as error:  # the node is gone with it
            text = f"no stack: {first_line(error)}"
    return text or "no stack: the process does not answer signals (stopped, or gone)"


def of_death(error: BaseException) -> str:
    """Ray's own words for how an actor died, became unreachable or ran out of memory, in one line."""
    said = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip().startswith("The ")]
    return f"{type(error).__name__}: {'; '.join(said) or str(error).strip()}"
