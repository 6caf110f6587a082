"""How fast new weights reach an engine: bytes a second of the transport alone, beside this machine's memcpy, and what follows it.

    python -m benchmarks.weight_sync                    # 120 M parameters; a minute on two cores
    python -m benchmarks.weight_sync --millions 120 500

A real Ray actor, by the pool's own path: the trainer puts the weights into the object store (`rollout.weights`), the worker gets
them as tensors and reads every byte once. Broadcast: the same by `rollout.weights=broadcast` (`rollout.transfer`, here gloo),
from the trainer's tensors to tensors of the worker's own. Clone: the copy that `mode=overlap` takes of the weights, so that the
optimiser can go on. `mode=sync` with the transformers engine in the trainer's process copies nothing: it samples from the
trainer's own tensors. After the transport: what the transformers engine does with them in a worker (it uses the store's memory
as it is) and, with `--vllm MODEL`, what vLLM does (it repacks each layer). Medians of several repeats; one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import publish
from benchmarks.timing import seconds
from rewards.errors import TautError
from rollout.transfer import Broadcast, enter, incoming
from rollout.weights import stored, to_tensors


def shapes(millions: int) -> dict[str, tuple[int, ...]]:
    """Matrices of a transformer of so many million parameters."""
    width, out = 768, {"embed": (16_384, 768)}
    layer = {"qkv": (3 * width, width), "o": (width, width), "up": (8 * width, width), "down": (width, 4 * width)}
    size = sum(a * b for a, b in layer.values())
    layers = max(round((millions * 1e6 - 16_384 * width) / size), 1)
    return out | {f"{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}


def measure(millions: int, repeats: int) -> dict[str, float]:
    """Bytes and bytes a second of: memcpy, a clone, the object store and a broadcast; and the load in a worker in seconds."""
    import ray

    weights = {name: torch.randn(shape) for name, shape in shapes(millions).items()}
    size = sum(tensor.nbytes for tensor in weights.values())
    twin = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}

    def memcpy() -> None:
        for name, tensor in weights.items():
            twin[name].copy_(tensor)

    class Reader:
        def __init__(self) -> None:
            torch.set_num_threads(1)

        def read(self, arrays: Any) -> tuple[float, float]:
            """When it had the tensors, and when it had read them all."""
            tensors = to_tensors(arrays)
            had = time.time()
            sum(float(t.view(torch.int64).sum()) if t.numel() % 2 == 0 else float(t.sum()) for t in tensors.values())
            return had, time.time()

        def join(self, meeting: dict[str, Any]) -> bool:
            self.group = enter(meeting["host"], meeting["port"], meeting["world"], meeting["offset"], meeting["gpu"])
            return True

        def receive(self, told: dict[str, Any], version: int) -> bool:
            self.held = dict(incoming(self.group, told["names"], told["dtypes"], told["shapes"], "cpu"))
            return True

    reader: Any = ray.remote(num_cpus=1)(Reader).remote()
    got, read = [], []

    def there() -> None:
        start = time.time()
        had, done = ray.get(reader.read.remote(stored(weights)))
        got.append(had - start)
        read.append(done - had)

    found = {
        "memcpy": size / seconds(memcpy, repeats),
        "clone": size / seconds(lambda: {n: t.clone() for n, t in weights.items()}, repeats),
    }
    seconds(there, repeats)
    broadcast = Broadcast(1, 1, False)

    def cast() -> None:
        if not broadcast.send(weights, 0, lambda method, args: ray.get([getattr(reader, method).remote(*args[0])])):
            raise TautError("the broadcast did not arrive; what went wrong is in the lines above")

    cast()  # the group is made now
    found["broadcast"] = size / seconds(cast, repeats)
    ray.kill(reader)
    found |= {"store": size / statistics.median(got[1:]), "read": size / statistics.median(read[1:]), "bytes": size}
    return found


def loading(model: Path, engine: str, repeats: int) -> tuple[float, int]:
    """Seconds of an engine's own `load_weights`, and the bytes."""
    import transformers

    from rollout.choose import make_engine
    from rollout.engine import EngineConfig

    made = make_engine(EngineConfig(engine=engine, max_model_len=256), str(model), [0])  # type: ignore[arg-type]
    made.borrows = True
    weights = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    took = seconds(lambda: made.load_weights(weights, 1), repeats)
    made.close()
    return took, sum(tensor.nbytes for tensor in {t.data_ptr(): t for t in weights.values()}.values())


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.weight_sync", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--millions", type=int, nargs="+", default=[120])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--model", type=Path, help="a model folder: what the transformers engine does after the transport"
    )
    parser.add_argument("--vllm", type=Path, help="a model folder: what vLLM does after the transport")
    parser.add_argument("--out", type=Path, help="put the tables there, below the text before the mark")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=6 << 30)
    heads = [
        "parameters",
        "MiB",
        "memcpy, GB/s",
        "object store, trainer to worker",
        "of memcpy",
        "broadcast",
        "of memcpy",
        "read by the worker",
        "clone",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * len(heads)]
    for millions in given.millions:
        found = measure(millions, given.repeats)
        cells = [f"{found['bytes'] / 4e6:.0f} M", f"{found['bytes'] / 2**20:,.0f}", f"{found['memcpy'] / 1e9:.2f}"]
        for way in ("store", "broadcast"):
            cells += [f"{found[way] / 1e9:.2f}", f"{found[way] / found['memcpy']:.2f}"]
        cells += [f"{found['read'] / 1e9:.2f}", f"{found['clone'] / 1e9:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    ray.shutdown()
    engines = {"transformers": given.model, "vllm": given.vllm}
    for engine, model in engines.items():
        if model is not None:
            took, size = loading(model, engine, given.repeats)
            lines += ["", f"After it, {engine} with {model.name} ({size / 2**20:,.0f} MiB): {took * 1e3:,.1f} ms."]
    text = "\n".join(lines) + "\n"
    publish(text, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
