"""The Ray cluster that rollout workers live on: joined or started, measured, and asked about its processes."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewards.errors import TautError
from rollout.actor import dump_stack, versions

JOIN_S = 20.0  # until the nodes of a cluster that was just started have come
KNOCK_S = 15.0  # a head that was just started may need some seconds to listen
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # of a gRPC client: preface and settings
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
        _join(places, cluster.address or os.environ.get("RAY_ADDRESS"))
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


def _join(places: int, address: str | None) -> None:
    """`ray.init`, with its errors in words."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves the workers on a shared machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its new default; silences a warning
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        knock(address)
        options["address"] = address
    else:
        cores = max(places, len(os.sched_getaffinity(0)))
        # "local": without it Ray joins whatever cluster somebody has started on this machine
        options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
    for attempts_left in (2, 1, 0):
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if address or isinstance(error, ConnectionError):  # "could not find any running Ray instance"
                raise refused(address, error) from error
            if not attempts_left:  # a bare Exception: its processes are not up within 30 s
                raise TautError(
                    f"{places} processes on Ray: it did not start ({_line(error)}); is the machine overloaded, or RAY_ADDRESS "
                    "stale? rollout.workers=0 and trainer.ranks=0 do without Ray"
                ) from error
    raise AssertionError("not reached")


def knock(address: str, setting: str = "cluster") -> None:
    """Before `ray.init` at an address, which `setting` says: show our token, and raise TautError where no head of a Ray cluster
    answers at HOST:PORT; Ray itself would try for ten minutes."""
    _show_token()
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # "auto", or a name that Ray knows
        return
    until = time.monotonic() + KNOCK_S
    while error := _unlike_grpc(host.strip("[]"), int(port)):
        if time.monotonic() > until:
            raise refused(address, error, setting) from error
        time.sleep(0.5)
    if "://" in address:
        return
    import ray._raylet

    head = getattr(ray._raylet, "GcsClient", None)
    try:
        if head is not None:  # in another Ray what `ray.init` says must do
            head(address=address)
    except Exception as error:  # some other service, or another port of Ray's
        raise refused(address, error, setting) from error


def _unlike_grpc(host: str, port: int) -> OSError | None:
    """Why what is there cannot be Ray: nobody listens, or whoever does has no word for a gRPC client."""
    try:
        with socket.create_connection((host, port), timeout=5) as line:
            if os.environ.get("RAY_USE_TLS") == "1":  # it would not answer before a handshake
                return None
            line.sendall(GREETING)
            head = line.recv(9)
    except OSError as error:
        return error
    return None if head[3:4] == b"\x04" else OSError("something else listens there: it does not speak gRPC")


def refused(address: str | None, error: BaseException, setting: str = "cluster") -> TautError:
    """Why there is no joining the cluster at the address that `setting` says."""
    said = " ".join(str(error).split())
    if "ersion mismatch" in said:
        return TautError(f"{setting}={address}: {said}; install the same versions on every node")
    return TautError(
        f"{setting}={address}: no Ray cluster answers there ({_line(error)}); start one with `ray start --head --port=PORT`, mend "
        "the address (RAY_ADDRESS where none is given), show the token that it asks for (RAY_AUTH_TOKEN, or the head's "
        "~/.ray/auth_token copied to here), or leave it out to start one on this machine"
    )


def _show_token() -> None:
    """Show the cluster our token, where there is one: `ray start` asks for it by default as soon as `~/.ray/auth_token` exists
    (Ray 2.60; a local cluster, such as a sweep's, makes it), while `ray.init` keeps it back unless RAY_AUTH_MODE says `token`."""
    try:
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    except ImportError:  # an older Ray, whose clusters ask for a token only where RAY_AUTH_MODE is set
        return
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


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

    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = {"PYTHONPATH": os.pathsep.join(paths)}
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
            text = f"no stack: {_line(error)}"
    return text or "no stack: the process does not answer signals (stopped, or gone)"


def of_death(error: BaseException) -> str:
    """Ray's own words for how an actor died, became unreachable or ran out of memory, in one line."""
    said = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip().startswith("The ")]
    return f"{type(error).__name__}: {'; '.join(said) or str(error).strip()}"


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
