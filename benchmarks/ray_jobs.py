"""Jobs on a Ray cluster, beside those of this machine in `places.py`: each stage is an actor with declared CPUs and GPUs.

The actor holds the command as a process of its own, so that a run is the same program here and there, and dies with its
actor. A cluster that is not there already is started on this machine, and ended with the sweep. A node that dies ends its
stages as a kill would. The nodes must see the folder of the sweep, and have the same code at the same place.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from benchmarks.places import LocalProcess, cores
from rewards.errors import TautError
from rollout.join import join, python_path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "ray.address"
LOOK_EVERY_S = 30.0  # while a stage waits for room: how often it is asked whether any node is large enough
NODE_DEADLINE_S = 120.0  # for a node's answer to what it sees; a worker's first start on a busy machine is slow
KILL_DEADLINE_S = 10.0
BEGUN_DEADLINE_S = 3.0  # for word that an interrupted stage had begun
OBJECT_STORE = 100 * 2**20  # bytes; nothing goes through it
CODE = "import json; from benchmarks.sweep_code import SOURCES, code; print(json.dumps({s: code(s)['code'] for s in SOURCES}))"


class Resources(BaseModel):
    """What a run takes of the cluster; with `rollout.workers`, what they take is part of it."""

    model_config = ConfigDict(extra="forbid")

    cpus: float = Field(default=1, gt=0, description="cores; threads are as many")
    gpus: float | None = Field(
        default=None, ge=0, description="None: 1 where the cluster has GPUs, else 0; 0.5: two runs share one"
    )

    @field_validator("cpus", "gpus")
    @classmethod
    def _whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError(f"{value}: above 1 it is a whole number")
        return value


class RayConfig(BaseModel):
    """Which cluster."""

    model_config = ConfigDict(extra="forbid")

    address: str | None = Field(
        default=None,
        description="HOST:PORT of its head, or `auto`; None: what RAY_ADDRESS names, else one is started here. A cluster "
        "with a token wants it in RAY_AUTH_TOKEN or ~/.ray/auth_token",
    )

    @field_validator("address")
    @classmethod
    def _no_client(cls, address: str | None) -> str | None:
        if address is not None and "://" in address:
            raise ValueError(
                f"{address!r}: start the sweep on a machine of the cluster, and give HOST:PORT of its head"
            )
        return address


@dataclass(frozen=True)
class Ground:
    """What a node must see: `mark` holds `word`, and commands are run in `folder`."""

    mark: Path
    word: str
    folder: Path

    def missing(self) -> str:
        """What is not seen here, and the remedy; "" when all is."""
        try:
            seen = self.mark.read_text() == self.word
        except OSError:
            seen = False
        if not seen:
            return f"does not see {self.mark.parent}: give an --out on a file system that all nodes share"
        for path, remedy in (
            (self.folder, "start the sweep from a folder that all nodes share"),
            (Path(sys.executable), "install Taut at the same place on all nodes, or on a file system that they share"),
        ):
            if not path.exists():
                return f"has no {path}: {remedy}"
        return ""


class Runner:
    """What runs in an actor: one command."""

    def start(self, command: Sequence[str], log: Path, ground: Ground, cpus: float, gpus: float) -> None:
        """Start it. Raises TautError where the node does not see what it must."""
        if missing := ground.missing():
            raise TautError(f"Ray node {_here()} {missing}")
        # Ray's own variables would tie a Ray that the run starts for its rollouts to this cluster, whose room it would wait for.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_ADDRESS": "local"}
        environment["OMP_NUM_THREADS"] = str(max(int(cpus), 1))
        if not gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        # SIGKILL: what goes on for a while after its actor would be in the way of the second attempt.
        self.process = LocalProcess(command, log, environment, folder=ground.folder, farewell=signal.SIGKILL)

    def poll(self) -> int | None:
        return self.process.poll()

    def interrupt(self) -> None:
        self.process.interrupt()

    def kill(self) -> None:
        self.process.kill()


class RayProcess:
    """See `places.Process`. An actor that dies with its command, or with its node, counts as killed; why stands in the log."""

    def __init__(self, actor: Any, command: Sequence[str], log: Path, place: RayPlace) -> None:
        self._actor, self._log, self._place = actor, log, place
        self._code: int | None = None
        self._started = False
        self._give_up = math.inf  # when an interrupted stage that has not begun is given up
        self._look = time.monotonic() + LOOK_EVERY_S
        self._call = actor.start.remote(list(command), log.absolute(), place.ground, place.cpus, place.gpus)

    def poll(self) -> int | None:
        """See `places.Process`. Raises TautError where the stage cannot be run on this cluster at all."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        if self._code is not None:
            return self._code
        if not ray.wait([self._call], timeout=0)[0]:
            if time.monotonic() > self._give_up and not self._started:
                return self._end(-signal.SIGINT)
            if not self._started and time.monotonic() > self._look:
                self._look += LOOK_EVERY_S
                room(self._place.cpus, self._place.gpus)
            return None
        try:
            code: Any = ray.get(self._call)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, TautError) else error) from None
        except RayError as error:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a") as file:
                file.write(f"{type(error).__name__}: {str(error).strip()}\n")
            code = -signal.SIGKILL
        if code is None:
            self._started, self._call = True, self._actor.poll.remote()
            return None
        return self._end(code)

    def interrupt(self) -> None:
        """See `places.Process`. A stage may have begun without our having heard of it: one that hears the interrupt in time ends
        by it, one that still waits for room is given up."""
        if self._code is None:
            self._actor.interrupt.remote()  # after `start`, whose order an actor keeps
            self._give_up = time.monotonic() + BEGUN_DEADLINE_S

    def kill(self) -> None:
        """See `places.Process`."""
        import ray
        from ray.exceptions import RayError

        if self._code is not None:
            return
        if self._started:
            try:
                ray.get(self._actor.kill.remote(), timeout=KILL_DEADLINE_S)
            except RayError:
                pass  # dead, and the command with it
        self._end(-signal.SIGKILL)

    def _end(self, code: int) -> int:
        """Give the actor's resources back."""
        import ray

        self._code = code
        ray.kill(self._actor)
        return code


@dataclass(frozen=True)
class RayPlace:
    """See `places.Place`: wherever the cluster has room."""

    cpus: float
    gpus: float
    ground: Ground

    def start(self, command: Sequence[str], log: Path) -> RayProcess:
        """See `places.Place`."""
        import ray

        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0, "max_task_retries": 0}
        return RayProcess(ray.remote(Runner).options(**options).remote(), command, log, self)


@contextmanager
def ray_places(config: RayConfig, resources: Resources, out: Path) -> Iterator[list[RayPlace]]:
    """As many places as the cluster has room for; at the end the cluster is ended, or left. Raises TautError where it cannot be
    had, is too small, or a node does not see `out` (an existing folder)."""
    import ray

    _connect(config.address)
    mark = out.absolute() / f".ray-{secrets.token_hex(4)}"
    try:
        have = ray.cluster_resources()
        gpus = resources.gpus if resources.gpus is not None else float(have.get("GPU", 0) > 0)
        places = room(resources.cpus, gpus)
        ground = Ground(mark, secrets.token_hex(8), Path.cwd())
        mark.write_text(ground.word)
        _check_nodes(ground, resources.cpus, gpus)
        print(
            f"Ray cluster of {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs: {places} runs side by side, "
            f"each with {resources.cpus:g} CPUs and {gpus:g} GPUs",
            flush=True,
        )
        yield [RayPlace(resources.cpus, gpus, ground)] * places
    finally:
        mark.unlink(missing_ok=True)
        ray.shutdown()


def room(cpus: float, gpus: float) -> int:
    """How many runs the nodes can hold at once, were they empty. Raises TautError for none."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = sum(_holds(node, cpus, gpus) for node in nodes)
    if not places:
        told = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes) or "none"
        raise TautError(
            f"resources: a run takes {cpus:g} CPUs and {gpus:g} GPUs, and no node of the Ray cluster has them (nodes: {told}); "
            "set resources.cpus= and resources.gpus= lower, or add a node; the same command goes on"
        )
    return places


def _holds(have: Mapping[str, float], cpus: float, gpus: float) -> int:
    fits = [have.get(kind, 0) / each for kind, each in (("CPU", cpus), ("GPU", gpus)) if each]
    return int(min(fits) + 1e-9)


def _connect(address: str | None) -> None:
    """Join the cluster at `address`, or start one on this machine."""
    failed = "--jobs ray", "--jobs N does without Ray"
    places = {"num_cpus": len(cores()), "object_store_memory": OBJECT_STORE}
    join(address, ADDRESS, failed, {"PYTHONPATH": python_path()}, **places)


def _check_nodes(ground: Ground, cpus: float, gpus: float) -> None:
    """Ask each node that runs may come to. Raises TautError that names those that do not see what they must."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    nodes = [n for n in ray.nodes() if n["Alive"] and _holds(n["Resources"], cpus, gpus)]
    here = _code() if any(n["NodeID"] != own for n in nodes) else ""
    ask = ray.remote(_unfit)
    calls = []
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": where}
        calls.append(ask.options(**options).remote(ground, here if node["NodeID"] != own else ""))
    wrong, until = [], time.monotonic() + NODE_DEADLINE_S
    for node, call in zip(nodes, calls, strict=True):
        try:
            answer = ray.get(call, timeout=max(until - time.monotonic(), 0.1))
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            answer = f"cannot run a task ({type(error).__name__}: {last}): install Taut there as here, at {ROOT}"
        if answer:
            wrong.append(f"Ray node {node['NodeManagerAddress']} {answer}")
    if wrong:
        raise TautError("\n".join(wrong))


def _unfit(ground: Ground, code: str) -> str:
    """Why this node cannot take part, and the remedy; "" when it can. code: what its code must be; "": not asked."""
    if missing := ground.missing():
        return missing
    if code and (found := _code()) != code:
        return f"has other code or packages (code {found}, here {code}): install the same at {ROOT}"
    return ""


def _code() -> str:
    """The digests of the stages' code, as the runs' interpreter finds it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return json.dumps(json.loads(done.stdout)) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def _here() -> str:
    import ray

    return ray.util.get_node_ip_address()
