"""New weights to all of a pool's vLLM engines in one broadcast from the trainer (`rollout.weights=broadcast`).

Trainer and engines form a torch process group of their own: NCCL where the engines have GPUs, gloo on cores. The trainer is its
rank 0, every process of every engine another; in those `rollout.receiver` is vLLM's weight-transfer engine. After a death
the group is left: who has not received has the weights from Ray's object store, and the next go out in a new group.

Run on cores, with vLLM's CPU build; not on GPUs yet. What NCCL does where a GPU's process dies within a broadcast was not seen
either: it may take the trainer with it, whose run then goes on by `taut train resume=RUN`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rewards.errors import TautError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("taut.rollout")

MEET_S = 60.0  # until all are in a group, and longest that one tensor may take
Ask = Callable[[str, Sequence[tuple[Any, ...]]], list[Any]]  # a method of every worker, with its own arguments


class Broadcast:
    """The trainer's side, for `engines` of `each` processes. Raises TautError where they have GPUs and this process has none."""

    def __init__(self, engines: int, each: int, gpu: bool) -> None:
        import torch

        if gpu and not torch.cuda.is_available():
            raise TautError(
                "rollout.weights=broadcast: the engines have GPUs, but the trainer's process sees none; leave it one "
                "(CUDA_VISIBLE_DEVICES), or set rollout.weights=store"
            )
        self.engines, self.each, self.gpu = engines, each, gpu
        self.sent = 0  # broadcasts that reached every engine
        self._group: Any = None

    def leave(self) -> None:
        """Somebody has gone: the next weights go out in a new group."""
        self._group = None

    def send(self, weights: Mapping[str, torch.Tensor], version: int, ask: Ask) -> bool:
        """Whether all engines have the weights now; if not, all must be given them in another way before anything else.

        ask: has each worker `join` a group, or `receive` weights; the answers say whether it did.
        """
        if self._group is None and not self._meet(ask):
            return False
        names, shapes = list(weights), [list(tensor.shape) for tensor in weights.values()]
        dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()]
        told = {"names": names, "dtypes": dtypes, "shapes": shapes}
        received, failed = self._beside(
            lambda: self._send(list(weights.values())), lambda: ask("receive", [(told, version)] * self.engines)
        )
        if failed is not None or not all(received):
            log.warning("weights of version %d did not reach every engine by broadcast (%s)", version, failed)
            self.leave()
        self.sent += all(received)
        return all(received)

    def _meet(self, ask: Ask) -> bool:
        import ray

        host, world = ray.util.get_node_ip_address(), 1 + self.engines * self.each
        store = tcp_store(host, 0, world, is_master=True, wait_for_workers=False)
        place = {"host": host, "port": store.port, "world": world, "gpu": self.gpu}

        def enter() -> None:
            self._group = group_of(store, host, 0, world, self.gpu)

        joined, failed = self._beside(
            enter, lambda: ask("join", [(place | {"offset": 1 + i * self.each},) for i in range(self.engines)])
        )
        if failed is not None or not all(joined):
            log.warning("the engines did not meet for a broadcast (%s); weights go through the object store", failed)
            self.leave()
        return self._group is not None

    def _send(self, tensors: Sequence[torch.Tensor]) -> None:
        group = self._group  # whoever leaves it meanwhile
        try:
            for tensor in tensors:
                flat = as_bytes(tensor.detach().to("cuda" if self.gpu else "cpu"))
                group.broadcast(flat, 0).wait()
        except RuntimeError:
            self.leave()
            group.abort()  # else the survivors would wait for what does not come any more
            raise

    @staticmethod
    def _beside(ours: Callable[[], None], theirs: Callable[[], list[Any]]) -> tuple[list[Any], BaseException | None]:
        """(their results, what ours raised): both at once, since each waits for the other."""
        with ThreadPoolExecutor(1) as thread:
            future: Future[None] = thread.submit(ours)
            return theirs(), future.exception()


def enter(host: str, port: int, world: int, rank: int, gpu: bool) -> Any:
    """The group that the trainer opens there, for who receives as its `rank`."""
    store = tcp_store(host, port, world, is_master=False, timeout=timedelta(seconds=MEET_S))
    return group_of(store, host, rank, world, gpu)


def incoming(
    group: Any, names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]], device: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of one broadcast, each as it comes."""
    import torch

    for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
        tensor = torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=device)
        group.broadcast(as_bytes(tensor), 0).wait()
        yield name, tensor


def group_of(store: Any, host: str, rank: int, world: int, gpu: bool) -> Any:
    """A process group beside torch's global one; `host` is where its ranks meet. Its `broadcast(tensor, root)` has a deadline."""
    import torch
    from torch import distributed

    if gpu:
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # else a deadline ends the process and raises nothing
        backend = getattr(distributed, "ProcessGroupNCCL")  # noqa: B009 - only builds with CUDA have it
        options = backend.Options()
        options._timeout = timedelta(seconds=MEET_S)
        group = backend(store, rank, world, options)
    else:
        choose_interface(host, store.port)
        backend = getattr(distributed, "ProcessGroupGloo")  # noqa: B009 - torch does not declare it
        group = backend(store, rank, world, timedelta(seconds=MEET_S))
    group.broadcast(torch.zeros(1, device="cuda" if gpu else "cpu"), 0).wait()  # so that all are known to be there
    return group


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes, in order: what any backend can carry, whatever the dtype."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def tcp_store(*args: Any, **options: Any) -> Any:
    """torch's TCPStore."""
    from torch import distributed

    return getattr(distributed, "TCPStore")(*args, **options)  # noqa: B009 - torch does not declare it


def choose_interface(host: str, port: int) -> None:
    """Have gloo use the network interface by which this machine reaches that place, unless the user has chosen one: by itself it
    takes the one that the host's name stands for, which may be the loopback."""
    import psutil

    try:
        with socket.create_connection((host, port), timeout=MEET_S) as reached:
            own = reached.getsockname()[0]
    except OSError:
        return
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == own for a in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
