"""An engine on any Hugging Face causal model: its own sampling loop, one process, bit-reproducible on one thread.

A batch is prefilled once per distinct prompt (left-padded), then decoded token by token. Finished rows are dropped
from the batch and the KV cache, so a long tail is cheap. Each draw is an inverse-CDF look-up with one uniform number
from the request's own Philox generator: neither neighbours nor the order of the batch change a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rewards.errors import TautError
from rollout.cache import growing_cache
from rollout.choose import has_gpu, resolve_dtype
from rollout.decoder import Decoder, bias_of
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
from rollout.types import Completion, Prompt

SAMPLE_ELEMENTS = 1 << 24  # logits turned into probabilities at once: 128 MiB of float64


class TransformersEngine:
    """See `rollout.engine.Engine`. float32 on a CPU, bfloat16 on a GPU unless told otherwise."""

    def __init__(self, config: EngineConfig, model_path: str, stop_ids: Sequence[int]) -> None:
        self.name = "transformers"
        self.version = 0
        self.temperature = config.temperature
        self.batch_size = config.batch_size
        self.on_done: OnDone | None = None
        self.refresh: Refresh | None = None
        self.borrows = False
        self.enough: Callable[[], bool] | None = None
        dtype = resolve_dtype(config)
        self.canary_tolerance = config.canary_tolerance or CANARY_TOLERANCE[dtype]
        self.device = torch.device("cuda" if has_gpu() else "cpu")
        try:
            model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise TautError(f"model={model_path}: cannot be loaded as a causal language model: {error}") from error
        self.model: Any = model.eval()
        self.model.to(self.device)
        self.plain = Decoder.fits(self.model)
        text_config = model.config.get_text_config()
        own_limit = getattr(text_config, "max_position_embeddings", None) or 1 << 30
        if config.max_model_len is not None and config.max_model_len > own_limit:
            raise TautError(f"rollout.max_model_len={config.max_model_len}: the model's own limit is {own_limit}")
        self.max_model_len = config.max_model_len or own_limit
        self.vocab_size = text_config.vocab_size
        self.stop_ids = frozenset(stop_ids)

    def generate(self, prompts: Sequence[Prompt], temperature: float | None = None) -> list[Completion]:
        """One completion a prompt, in the order asked; batches are formed of prompts of like length."""
        temperature = self.temperature if temperature is None else temperature
        check_request(prompts, temperature, self.max_model_len, self.vocab_size)
        return generate_by_stream(self, prompts, temperature)

    @torch.inference_mode()
    def stream(self, more: Feed, ended: OnEnd, temperature: float) -> None:
        """Complete what `more` gives, in batches: what comes while one is decoded waits for the next."""
        waiting: list[tuple[int, Prompt]] = []
        closed = False

        def look(idle: bool = False) -> None:
            nonlocal closed
            given = more(idle)
            closed = given is None
            waiting.extend(given or ())

        while not closed or waiting:
            look(not waiting)
            waiting.sort(key=lambda asked: (len(asked[1].ids), asked[0]))
            batch, waiting[:] = waiting[: self.batch_size], waiting[self.batch_size :]
            if batch:
                self._generate_batch(batch, temperature, look, ended)

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Take all weights, by copy or, where it borrows, as they are. Raises TautError naming what is missing, unknown or of
        another shape."""
        state = dict(self.model.named_parameters(remove_duplicate=False)) | dict(self.model.named_buffers())
        state = {name: state[name] for name in self.model.state_dict()}
        given = {state[name].data_ptr() for name in weights if name in state}  # tied weights may come under either name
        missing = [name for name, tensor in state.items() if tensor.data_ptr() not in given]
        unknown = [name for name in weights if name not in state]
        if missing or unknown:
            raise TautError(
                f"weights of version {version} do not fit the engine's model: {len(missing)} missing {missing[:3]}, "
                f"{len(unknown)} unknown {unknown[:3]}; trainer and engine must load the same architecture"
            )
        with torch.no_grad():
            for name, tensor in weights.items():
                if tensor.shape != state[name].shape:
                    shapes = f"{tuple(tensor.shape)}, the engine's is {tuple(state[name].shape)}"
                    raise TautError(f"weights of version {version}: {name} has shape {shapes}")
                mine = state[name]
                if self.borrows and (tensor.dtype, tensor.device) == (mine.dtype, mine.device):
                    mine.data = tensor.detach()
                else:
                    mine.copy_(tensor)
        self.version = version

    @torch.inference_mode()
    def score(self, ids: Sequence[int]) -> list[float]:
        """Log-prob of each of ids[1:], from one forward pass without a cache."""
        row = torch.tensor([list(ids)], device=self.device)
        logits = self.model(input_ids=row, use_cache=False).logits[0, :-1].float() / self.temperature
        return torch.log_softmax(logits, -1).gather(-1, row[0, 1:, None]).squeeze(-1).tolist()

    def score_all(self, ids: Sequence[int]) -> list[list[float]]:
        return [self.score(ids)]

    def take_events(self) -> list[dict]:
        return []

    def stand_aside(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self.__dict__.pop("model", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _generate_batch(
        self, batch: Sequence[tuple[int, Prompt]], temperature: float, look: Callable[[], None], ended: OnEnd
    ) -> None:
        """Decode up to `batch_size` prompts side by side; `look` at the world before each token."""
        numbers, prompts = [i for i, _ in batch], [p for _, p in batch]
        tokens: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        versions: list[list[int]] = [[] for _ in prompts]
        longest = max(p.max_tokens for p in prompts)
        uniforms = torch.zeros(longest, len(prompts), dtype=torch.float64)
        for row, p in enumerate(prompts):
            draws = np.random.Generator(np.random.Philox(key=p.seed & SEED_BITS)).random(p.max_tokens)
            uniforms[: p.max_tokens, row] = torch.from_numpy(draws)
        uniforms = uniforms.to(self.device)

        rows = list(range(len(prompts)))  # which prompt sits in which row of the batch
        live = set(rows)
        index = torch.arange(len(prompts), device=self.device)
        version, begun = self.version, 0  # of the weights that filled the cache, and the step at which they did
        logits, cache, mask, lengths, width = self._prefill([p.ids for p in prompts], longest)
        decoder = self._decoder(width + longest)
        for step in range(longest):
            look()
            if self.version != version:  # nothing that the old weights computed is of use
                version, begun, rows = self.version, step, [row for row in rows if row in live]
                index = torch.tensor(rows, device=self.device)
                so_far = [(*prompts[row].ids, *tokens[row]) for row in rows]
                logits, cache, mask, lengths, width = self._prefill(so_far, longest - step)
                decoder = self._decoder(width + longest - step)
            chosen, chosen_log_probs = sample(logits, temperature, uniforms[step, index])
            for row, token, log_prob in zip(rows, chosen.tolist(), chosen_log_probs.tolist(), strict=True):
                if row in live:
                    tokens[row].append(token)
                    log_probs[row].append(log_prob)
                    versions[row].append(version)
                    stopped = token in self.stop_ids
                    if stopped or step + 1 == prompts[row].max_tokens:
                        live.discard(row)
                        reason = "stop" if stopped else "length"
                        said = Completion(tuple(tokens[row]), tuple(log_probs[row]), reason, tuple(versions[row]))
                        ended(numbers[row], said)
            if not live:
                break
            if len(live) <= 0.8 * len(rows):  # copying the cache for every finished row would cost more than it saves
                keep = torch.tensor([i for i, row in enumerate(rows) if row in live], device=self.device)
                rows = [row for row in rows if row in live]
                cache.batch_select_indices(keep)
                chosen, lengths, index = chosen[keep], lengths[keep], index[keep]
                mask = None if mask is None else mask[keep]
            since = step - begun
            positions = (lengths + since).clamp(max=self.max_model_len - 1)  # finished rows may run past the end
            seen = None if mask is None else mask[..., : width + since + 1]
            if decoder is not None:
                logits = decoder.step(chosen, positions, cache.layers, seen)
                continue
            logits = self.model(
                input_ids=chosen[:, None],
                attention_mask=seen,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]

    def _decoder(self, room: int) -> Decoder | None:
        """Takes over after the prefill where the model is of the plain kind; `room`: positions that a row may have."""
        return Decoder(self.model, min(room, self.max_model_len)) if self.plain else None

    def _prefill(self, prompts: Sequence[tuple[int, ...]], room: int) -> tuple[Tensor, Any, Tensor | None, Tensor, int]:
        """(next-token logits (B, V), KV cache, mask or None when nothing is padded, prompt lengths (B,), L).

        The mask is (B, L + room); for a Decoder what to add to its scores, (B, 1, 1, L + room).
        """
        distinct = list(dict.fromkeys(prompts))  # the samples of a group share their prompt
        width = max(len(ids) for ids in distinct)
        ids = torch.zeros(len(distinct), width, dtype=torch.long)
        mask = torch.zeros(len(distinct), width, dtype=torch.bool)
        for row, prompt in enumerate(distinct):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = True
        ids, mask = ids.to(self.device), mask.to(self.device)
        padded = not bool(mask.all())
        cache = growing_cache(self.model.config)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=(mask.long().cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        where = {prompt: row for row, prompt in enumerate(distinct)}
        index = torch.tensor([where[ids] for ids in prompts], device=self.device)
        if len(distinct) < len(prompts):
            cache.batch_select_indices(index)
        lengths = mask.sum(1)[index]
        wide = torch.cat([mask[index], mask.new_ones(len(prompts), room)], dim=1) if padded else None
        if self.plain and wide is not None:
            wide = bias_of(wide, logits.dtype)
        return logits[index], cache, wide, lengths, width


def sample(logits: Tensor, temperature: float, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens (B,), their log-probs (B,)): the inverse CDF of softmax(logits (B, V) / temperature) at uniforms (B,).

    A token of probability zero is never drawn. Raises TautError when logits are not finite.
    """
    rows = max(SAMPLE_ELEMENTS // logits.shape[1], 1)
    if len(logits) > rows:
        parts = [sample(x, temperature, u) for x, u in zip(logits.split(rows), uniforms.split(rows), strict=True)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    log_probs = torch.log_softmax(logits.float() if temperature == 1 else logits.float() / temperature, dim=-1)
    cdf = torch.cumsum(log_probs.exp(), dim=-1, dtype=torch.float64)
    # The first token whose CDF exceeds the threshold has probability above zero; uniform < 1 keeps it below the total.
    tokens = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)
    tokens = tokens.clamp(max=logits.shape[1] - 1)
    chosen = log_probs.gather(-1, tokens).squeeze(-1)
    if not bool(torch.isfinite(chosen).all()):
        raise TautError(f"engine transformers: {DIVERGED}")
    return tokens.squeeze(-1), chosen
