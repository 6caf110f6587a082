"""An engine made of N Ray actors: each wraps one engine on its own core or GPU. Workers may die; their work is redone.

Prompts are cut into chunks by their order alone, and a chunk's completions do not depend on the worker that makes them:
so neither the speed of a worker nor its death changes what is sampled. Nothing is waited for without a deadline.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.errors import TautError
from rollout.engine import EngineConfig, OnDone, check_request, make_engine
from rollout.types import Completion, Prompt

if TYPE_CHECKING:
    import torch

log = logging.getLogger("taut.rollout")

START_DEADLINE_S = 900.0  # an engine's first start on a busy machine: imports, kernels compiled, weights read
MAX_RESTARTS = 3  # of one worker within one call
Arrays = dict[str, tuple[np.ndarray, str]]


class Worker:
    """What runs in an actor: one engine, made on `start` so that a user's error arrives as itself."""

    def start(self, config: EngineConfig, model_path: str, stop_ids: Sequence[int], index: int) -> dict[str, Any]:
        """Make the engine, on the index-th of the cores this process may use; facts about it."""
        cores = sorted(os.sched_getaffinity(0))
        core = cores[index % len(cores)]
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(core)
        self.engine: Any = make_engine(config.model_copy(update={"workers": 0, "core": core}), model_path, stop_ids)
        facts = {"pid": os.getpid(), "core": core}
        return facts | {k: getattr(self.engine, k) for k in ("name", "canary_tolerance", "max_model_len", "vocab_size")}

    def generate(self, prompts: Sequence[Prompt], temperature: float) -> list[Completion]:
        return self.engine.generate(prompts, temperature)

    def load_weights(self, arrays: Arrays, version: int) -> None:
        self.engine.load_weights(_to_tensors(arrays), version)

    def score(self, ids: Sequence[int]) -> list[float]:
        return self.engine.score(ids)


@dataclass(frozen=True)
class _Job:
    """A call of `method` on one worker, or on any."""

    method: str
    args: tuple[Any, ...]
    worker: int | None = None


class RayPool:
    """See `rollout.engine.Engine`. `facts`: what each worker said of itself when it started (pid, core, ...)."""

    def __init__(self, config: EngineConfig, model_path: str, stop_ids: Sequence[int]) -> None:
        self.config = config
        self.version = 0
        self.temperature = config.temperature
        self.on_done: OnDone | None = None
        self.facts: list[dict[str, Any]] = [{} for _ in range(config.workers)]
        self._make = (config, model_path, tuple(stop_ids))
        self._actors: list[Any] = [None] * config.workers
        self._events: list[dict[str, Any]] = []
        self._weights: Any = None  # the latest, in Ray's object store
        self._canary: tuple[Sequence[int], list[float]] | None = None  # what a healthy worker scored since then
        self._owns_ray = _connect(config.workers)
        try:
            self._gpus = _gpus_each(config.workers)
            self._run([_Job("start", (), i) for i in range(config.workers)])
        except BaseException:
            self.close()
            raise
        first = self.facts[0]
        self.name = f"{first['name']} x {config.workers}"
        self.canary_tolerance: float = first["canary_tolerance"]
        self.max_model_len: int = first["max_model_len"]
        self.vocab_size: int = first["vocab_size"]
        self._chunk = config.batch_size if first["name"] == "transformers" else 4 * config.max_num_seqs

    def generate(self, prompts: Sequence[Prompt], temperature: float | None = None) -> list[Completion]:
        """One completion a prompt, in the order asked; chunks go to whichever worker is free."""
        temperature = self.temperature if temperature is None else temperature
        check_request(prompts, temperature, self.max_model_len, self.vocab_size)
        size = max(min(-(-len(prompts) // self.config.workers), self._chunk), 1)
        chunks = [list(prompts[i : i + size]) for i in range(0, len(prompts), size)]

        def tell(job: int, part: list[Completion]) -> None:
            for i, completion in enumerate(part, job * size):
                if self.on_done is not None:
                    self.on_done(i, completion)

        parts = self._run([_Job("generate", (chunk, temperature)) for chunk in chunks], tell)
        return [completion for part in parts for completion in part]

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Put the weights into the object store once; every worker loads them from there."""
        import ray

        self._weights, self.version, self._canary = ray.put(_to_arrays(weights)), version, None
        self._run([_Job("load_weights", (self._weights, version), i) for i in range(self.config.workers)])

    def score(self, ids: Sequence[int]) -> list[float]:
        return self._run([_Job("score", (list(ids),))])[0]

    def score_all(self, ids: Sequence[int]) -> list[list[float]]:
        """The scores of each worker; a worker restarted later must agree with the first of them."""
        scores = self._run([_Job("score", (list(ids),), i) for i in range(self.config.workers)])
        self._canary = (list(ids), scores[0])
        return scores

    def take_events(self) -> list[dict]:
        """Restarts since the last call: {"kind": "worker_restarted", "worker", "seconds", "reason"}."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            for actor in self._actors:
                if actor is not None:
                    ray.kill(actor)
            self._weights = None
            if self._owns_ray:
                ray.shutdown()
        self._actors, self._owns_ray = [], False

    def _run(self, jobs: Sequence[_Job], tell: Callable[[int, Any], None] | None = None) -> list[Any]:
        """The result of each job, told as it comes. A worker that dies or misses its deadline is restarted and its job done
        again."""
        import ray

        results: list[Any] = [None] * len(jobs)
        todo, busy = deque(range(len(jobs))), dict[Any, tuple[int, int, float]]()  # call -> worker, job, deadline
        failures: Counter[int] = Counter()
        while todo or busy:
            working = {worker for worker, _, _ in busy.values()}
            for worker in [w for w in range(self.config.workers) if w not in working]:
                mine = next((j for j in todo if jobs[j].worker in (None, worker)), None)
                if mine is not None:
                    todo.remove(mine)
                    busy[self._submit(worker, jobs[mine])] = (worker, mine, time.monotonic() + self._limit(jobs[mine]))
            patience = min(deadline for _, _, deadline in busy.values()) - time.monotonic()
            ready, _ = ray.wait(list(busy), timeout=max(patience, 0.0))
            for call in ready or [c for c, (_, _, deadline) in busy.items() if deadline <= time.monotonic()]:
                worker, job, _ = busy.pop(call)
                reason = f"no answer to {jobs[job].method} in {self._limit(jobs[job]):g} s"
                if ready:
                    results[job], reason = _result(call)
                if reason is None:
                    if jobs[job].method == "start":
                        self.facts[worker] = results[job]
                    if tell is not None:
                        tell(job, results[job])
                    continue
                todo.appendleft(job)
                while reason is not None:  # a restart may fail too
                    failures[worker] += 1
                    if failures[worker] > MAX_RESTARTS:
                        raise TautError(
                            f"rollout worker {worker} (of {self.config.workers}) failed {failures[worker]} times in one "
                            f"call; the last time: {reason}. Is there memory enough for rollout.workers="
                            f"{self.config.workers}? Try fewer, or a longer rollout.deadline_s"
                        )
                    reason = self._restart(worker, reason, bare=jobs[job].method == "start")
        return results

    def _limit(self, job: _Job) -> float:
        return START_DEADLINE_S if job.method == "start" else self.config.deadline_s

    def _submit(self, worker: int, job: _Job) -> Any:
        """The future of a call."""
        if job.method == "start":
            self._actors[worker] = self._spawn()
            return self._actors[worker].start.remote(*self._make, worker)
        return getattr(self._actors[worker], job.method).remote(*job.args)

    def _spawn(self) -> Any:
        import ray

        root = str(Path(__file__).resolve().parents[1])  # workers import our packages from wherever the driver did
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        env = {"PYTHONPATH": os.pathsep.join(paths)}
        if not self._gpus:
            env["OMP_NUM_THREADS"] = "1"
        actor = ray.remote(Worker).options(
            num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0, runtime_env={"env_vars": env}
        )
        return actor.remote()

    def _restart(self, worker: int, reason: str, bare: bool) -> str | None:
        """A new actor with the latest weights (none of it when `bare`); None when it is ready, else why it is not."""
        import ray

        start = time.monotonic()
        log.warning("rollout worker %d: %s; restarting it", worker, reason)
        ray.kill(self._actors[worker])
        failed = None
        if not bare:
            steps = [_Job("start", ())]
            steps += [_Job("load_weights", (self._weights, self.version))] if self._weights is not None else []
            steps += [_Job("score", (self._canary[0],))] if self._canary is not None else []
            for step in steps:
                call = self._submit(worker, step)
                if not ray.wait([call], timeout=self._limit(step))[0]:
                    failed = f"no answer to {step.method} in {self._limit(step):g} s"
                    break
                result, failed = _result(call)
                if failed is not None:
                    break
                if step.method == "start":
                    self.facts[worker] = result
                if step.method == "score" and self._canary is not None:
                    gap = float(np.max(np.abs(np.subtract(result, self._canary[1])), initial=0.0))
                    if not gap <= self.canary_tolerance:
                        failed = f"its canary is {gap:.3g} nats from the others' after the restart"
        seconds = round(time.monotonic() - start, 3)
        event = {"kind": "worker_restarted", "worker": worker, "seconds": seconds, "reason": reason}
        self._events.append(event)
        return failed


def _result(call: Any) -> tuple[Any, str | None]:
    """(result, None), or (None, why the worker must be restarted). A TautError in the worker is raised as itself."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(call), None
    except RayTaskError as error:
        if isinstance(error.cause, TautError):
            raise error.cause from None
        return None, f"{type(error.cause).__name__}: {error.cause}"
    except RayError as error:  # died, unreachable, out of memory
        return None, f"{type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')}"


def _connect(workers: int) -> bool:
    """Join the cluster that is there, or start one on this machine; whether it was started (or joined) here."""
    import ray

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves the workers on a shared machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its new default; silences a warning
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"num_cpus": max(workers, len(os.sched_getaffinity(0))), "include_dashboard": False}
    else:
        show_token()
    for attempts_left in (2, 1, 0):
        try:
            ray.init(**options)
            break
        except Exception as error:  # Ray raises a bare Exception when its processes are not up within 30 s
            ray.shutdown()
            if not attempts_left:
                raise TautError(
                    f"rollout.workers={workers}: Ray did not start ({error}); is the machine overloaded, or RAY_ADDRESS "
                    "stale? rollout.workers=0 does without Ray"
                ) from error
    return True


def show_token() -> None:
    """Show the cluster our token, where there is one: `ray start` asks for it by default as soon as `~/.ray/auth_token` exists
    (Ray 2.60; a local cluster, such as a sweep's, makes it), while `ray.init` keeps it back unless RAY_AUTH_MODE says `token`."""
    try:
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    except ImportError:  # an older Ray, whose clusters ask for a token only where RAY_AUTH_MODE is set
        return
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _gpus_each(workers: int) -> int:
    """1 when the cluster has a GPU for each worker, 0 when it has none. Raises TautError for a cluster too small."""
    import ray

    have = ray.cluster_resources()
    cpus, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
    if cpus < workers or 0 < gpus < workers:
        raise TautError(
            f"rollout.workers={workers}: each takes a core, and a GPU where there are any, but the Ray cluster has {cpus} "
            f"cores and {gpus} GPUs; set rollout.workers={min(cpus, gpus or cpus)} or less"
        )
    return 1 if gpus else 0


def _to_arrays(weights: Mapping[str, torch.Tensor]) -> Arrays:
    """Tensors as numpy arrays with their torch dtype's name; numpy has no bfloat16, so that travels as int16."""
    import torch

    arrays: Arrays = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        arrays[name] = ((tensor.view(torch.int16) if dtype == "bfloat16" else tensor).numpy(), dtype)
    return arrays


def _to_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """The inverse of `_to_arrays`; the tensors share the object store's read-only memory."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that they are read-only
        return {name: torch.from_numpy(a).view(getattr(torch, dtype)) for name, (a, dtype) in arrays.items()}
