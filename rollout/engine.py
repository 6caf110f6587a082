"""What an engine is: token ids in, sampled token ids and their log-probs out; and how it is set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from rewards.errors import TautError
from rollout.types import Completion, Prompt

if TYPE_CHECKING:
    import torch

DIVERGED = "log-probs are not finite: the weights have diverged; go back to a checkpoint and lower the learning rate"
CANARY_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}  # nats, largest gap of one token
SEED_BITS = (1 << 63) - 1  # of a prompt's seed: what both engines' generators take
Done = Sequence[tuple[int, Completion]]  # positions of prompts that were asked for together, and what came of them
OnDone = Callable[[Done], None]
OnEnd = Callable[[int, Completion], None]  # of one
Refresh = Callable[[], "tuple[Mapping[str, torch.Tensor], int] | None"]
Feed = Callable[[bool], "Sequence[tuple[int, Prompt]] | None"]


class Enough(Exception):
    """Raised by `generate` when `Engine.enough` says so: what had ended by then was told to `on_done`, the rest is given up."""


class EngineConfig(BaseModel):
    """The section `rollout` of a run's config: which engine, how many, and how much room each gets."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    workers: int = Field(
        default=0, ge=0, description="0: in the trainer's process; N: N Ray actors, a core or GPU each"
    )
    tensor_parallel: int = Field(default=1, ge=1, description="vLLM: GPUs (or cores) of a worker that share one model")
    temperature: float = Field(default=1.0, gt=0)
    max_model_len: int | None = Field(default=None, gt=1, description="prompt plus response; None: the model's limit")
    gpu_memory_utilization: float = Field(default=0.5, gt=0, le=1, description="vLLM's share of a GPU")
    kv_cache_gib: int = Field(default=1, gt=0, description="vLLM's KV cache on a CPU")
    max_num_seqs: int = Field(default=256, gt=0, description="vLLM: rollouts generated side by side")
    batch_size: int = Field(default=128, gt=0, description="transformers: rollouts generated side by side")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    canary_tolerance: float | None = Field(default=None, gt=0, description="nats; None: 1e-4 in float32, 0.1 in bf16")
    feed: Literal["fixed", "free"] = Field(
        default="fixed", description="workers get pieces cut by order alone (same bits at any time), or share one queue"
    )
    weights: Literal["store", "broadcast"] = Field(
        default="store", description="how Ray workers get new ones: from Ray's object store, or (vLLM) by one broadcast"
    )
    sleep: bool = Field(
        default=False,
        description="vLLM, on a GPU that the trainer shares (mode=sync): give its memory up while that trains",
    )
    deadline_s: float = Field(default=300.0, gt=0, description="longest a Ray worker may be without any progress")
    core: int | None = Field(default=None, ge=0, description="run this process on one CPU core, one thread")


class Engine(Protocol):
    """Samples completions under one set of weights, in this process or on Ray workers.

    name: "vllm", "transformers", or those with " x N" for N workers. version: policy version of the current weights.
    temperature: what `generate` samples at unless told otherwise, and what `score` uses. canary_tolerance: the largest
    gap in nats between this engine's and the trainer's log-prob of a token that counts as rounding. max_model_len: the most
    tokens of prompt and response together; vocab_size: token ids are below it. on_done: when set,
    `generate` may call it with the positions and the completions of prompts as soon as they end, before it returns them all.
    refresh: when set, `generate` asks it now and then for weights newer than the engine's, with their version. They are loaded
    between two tokens: what is under way goes on under them as if it had been a prompt (no key or value of the old weights is
    read again), so that each token has one version, and the log-prob that this version gives it.
    enough: when set, `generate` asks it now and then whether what has ended will do, and if so raises Enough.
    borrows: when set, `load_weights` may keep the tensors that it gets instead of copying them: who gives them changes them only
    while the engine does nothing.
    """

    name: str
    version: int
    temperature: float
    canary_tolerance: float
    max_model_len: int
    vocab_size: int
    on_done: OnDone | None
    refresh: Refresh | None
    enough: Callable[[], bool] | None
    borrows: bool

    def generate(self, prompts: Sequence[Prompt], temperature: float | None = None) -> list[Completion]:
        """One completion a prompt, in the order asked.

        Every draw of a request is decided by `Prompt.seed` alone, not by its neighbours in the batch nor by the worker
        (up to rounding of the probabilities); log-probs are those of softmax(logits / temperature), no top-p, no top-k.
        Raises TautError for an empty prompt, or one that cannot fit into the context together with its max_tokens.
        """
        ...

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Replace all weights (Hugging Face names) and forget every cached prefix; of an engine in this process, also while it
        asks `stream`'s `more`."""
        ...

    def score(self, ids: Sequence[int]) -> list[float]:
        """Log-prob of each of ids[1:] given those before it, under the current weights, at `temperature`."""
        ...

    def score_all(self, ids: Sequence[int]) -> list[list[float]]:
        """`score` of every worker; of an in-process engine: one list."""
        ...

    def take_events(self) -> list[dict]:
        """What a log should hold since the last call (a worker restarted); in-process engines: nothing."""
        ...

    def stand_aside(self) -> None:
        """This process will work while the engine samples: keep it off the cores that are the engine's alone, if any are left,
        until `close`."""
        ...

    def rest(self) -> None:
        """Nothing will be asked of it until new weights come; with `EngineConfig.sleep` it gives a GPU's memory up until then (and
        takes it back by itself if something is asked after all)."""
        ...

    def close(self) -> None:
        """Give memory, processes and devices back. The engine cannot be used afterwards; a second call does nothing."""
        ...


class LocalEngine(Engine, Protocol):
    """An engine in this process: one that takes up prompts while it is at work on others."""

    def stream(self, more: Feed, ended: OnEnd, temperature: float) -> None:
        """Complete what `more` gives, and tell `ended` of each as it comes.

        more(idle) is asked between any two steps: further (number, prompt)s to be taken up beside those under way, an empty list
        where there are none now (with idle=True there is nothing else to do), None once no more will come; it is asked on, for
        it also tells the world that the engine works, and brings it new weights. What it raises ends the call and gives up what
        is under way. What is given at once, first, and alone is computed alike at any time.
        """
        ...


def generate_by_stream(engine: LocalEngine, prompts: Sequence[Prompt], temperature: float) -> list[Completion]:
    """`Engine.generate` of an engine in this process, by its `stream`."""
    asked: list[list[tuple[int, Prompt]]] = [list(enumerate(prompts))]
    done: dict[int, Completion] = {}

    def ended(i: int, completion: Completion) -> None:
        done[i] = completion
        if engine.on_done is not None:
            engine.on_done([(i, completion)])

    def more(idle: bool) -> list[tuple[int, Prompt]] | None:
        if engine.enough is not None and engine.enough():
            raise Enough
        if engine.refresh is not None and (newer := engine.refresh()) is not None:
            engine.load_weights(*newer)
        return asked.pop() if asked else None

    engine.stream(more, ended, temperature)
    return [done[i] for i in range(len(prompts))]


def check_request(prompts: Sequence[Prompt], temperature: float, limit: int, vocab_size: int) -> None:
    """Raise TautError, naming the prompt's position, for a request that no engine can answer."""
    if not temperature > 0:
        raise TautError(f"temperature={temperature}: sampling needs a temperature above 0")
    known: set[int] = set()  # ids of a prompt that comes again are looked at once
    for i, prompt in enumerate(prompts):
        where, size, new = f"prompt {i} of {len(prompts)}", len(prompt.ids), prompt.max_tokens
        if size == 0:
            raise TautError(f"{where} is empty: give at least one token, such as the beginning of sequence")
        if new < 1:
            raise TautError(f"{where}: max_tokens={new}, but a response has at least 1 token")
        if size >= limit:
            raise TautError(f"{where}: its {size} tokens fill the context of {limit}; use a shorter prompt")
        if size + new > limit:
            raise TautError(
                f"{where}: {size} tokens and max_tokens={new} exceed the context of {limit}; "
                f"set max_tokens to {limit - size} or less, or use a shorter prompt"
            )
        if id(prompt.ids) in known:
            continue
        known.add(id(prompt.ids))
        if max(prompt.ids) >= vocab_size or min(prompt.ids) < 0:
            raise TautError(
                f"{where}: token id {max(prompt.ids)} is outside the model's vocabulary of {vocab_size}; "
                "is the tokenizer the model's own?"
            )
