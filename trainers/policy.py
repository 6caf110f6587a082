"""The model that is trained: log-probs and entropies of responses, never holding (tokens x vocabulary) of a batch.

Sequences are padded on the right: attention is causal, so no real token ever sees padding and no attention mask is
needed. The transformer body runs on the padded micro-batch; only response positions go through the head, `logit_chunk`
at a time, and each chunk is computed again in the backward pass instead of being kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewards.errors import TautError
from trainers.head import HeadPass
from trainers.lora import merged

# Elements of one float32 chunk of logits, which cap `logit_chunk` for large vocabularies: 512 MiB on a GPU, and 64 on a CPU,
# whose products are as fast with few rows.
MAX_LOGITS = {"cuda": 2**27, "cpu": 2**24}
Measure = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TokenPass:
    """What one pass says about B responses padded to the longest, T tokens.

    mask (B, T) bool: real response tokens. log_prob (B, T) nats, float32, of softmax(logits / temperature).
    entropy (B, T): full vocabulary, nats, at the temperature; entropy_untempered (B, T): at temperature 1.
    probes (B, K): log-probs of named tokens at named positions. Padding holds 0, an absent position NaN in `probes`.
    """

    log_prob: Tensor
    mask: Tensor
    entropy: Tensor | None = None
    entropy_untempered: Tensor | None = None
    probes: Tensor | None = None

    def rows(self, values: Tensor) -> list[Tensor]:
        """The (B, T) `values` as B tensors without padding."""
        return [row[: int(n)] for row, n in zip(values, self.mask.sum(1), strict=True)]


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Positions grouped so that each group, padded to its longest, holds at most `max_tokens` tokens.

    lengths: prompt plus response tokens per sequence. Sorted by length (position breaks ties), longest first, so that
    little is padding and memory runs out in the first group or never. A sequence longer than `max_tokens` gets a
    group of its own.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


class Policy:
    """A causal language model with its optimised weights. Dropout is never active: it would make the ratio noisy.

    model: a transformers model; tokens are ids of its own vocabulary. logit_chunk: most response tokens through the
    head at once (fewer for large vocabularies: MAX_LOGITS).
    """

    def __init__(self, model: Any, logit_chunk: int = 4096) -> None:
        self.model = model.eval()
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.logit_scale: float = getattr(config, "logit_scale", None) or 1.0
        self.logit_scale /= getattr(config, "logits_scaling", None) or 1.0
        self.compute: Callable[..., tuple[Tensor, ...]] = self._compute  # trainers.sharding puts its own around it
        self.chunk = max(1, min(logit_chunk, MAX_LOGITS.get(self.device.type, 2**24) // max(1, config.vocab_size)))
        self._check_head()

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: str = "auto",
        device: str = "auto",
        logit_chunk: int = 4096,
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> Policy:
        """The policy in a Hugging Face folder (or of a hub name).

        dtype: auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16. device: auto, cpu, cuda, cuda:1.
        attention: sdpa or eager, both deterministic on CPU. gradient_checkpointing: keep only layer inputs for the
        backward. Raises TautError for a folder without config.json or weights, and for a model whose logits are not
        its head's.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        folder = Path(path)
        if folder.exists() or len(folder.parts) != 2:
            if not (folder / "config.json").is_file():
                raise TautError(f"model {str(path)!r}: no config.json there; give a Hugging Face model folder")
            if not any(next(folder.glob(f"*{end}"), None) for end in (".safetensors", ".bin")):
                raise TautError(
                    f"model {str(path)!r}: config.json but no weights (*.safetensors); save the whole model there"
                )
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if dtype == "auto":
            dtype = "float32" if device.startswith("cpu") else "bfloat16"
        if dtype not in DTYPES:
            raise TautError(f"model dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}")
        try:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype], attn_implementation=attention)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise TautError(f"model {str(path)!r} cannot be loaded: {error}") from error
        model.to(torch.device(device))  # type: ignore[arg-type]
        policy = cls(model, logit_chunk)
        if gradient_checkpointing:
            policy.recompute_layers()
        return policy

    def recompute_layers(self) -> None:
        """Keep only the input of each layer for the backward pass, and compute the layer again there."""
        for module in self.model.modules():  # transformers checkpoints in training mode only
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                setattr(module, "attention_dropout", 0.0)  # noqa: B010 (a plain setattr is not typed)
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def log_probs(
        self,
        prompt_ids: Sequence[Sequence[int]],
        response_ids: Sequence[Sequence[int]],
        temperature: float = 1.0,
        *,
        entropy: bool = False,
        entropy_untempered: bool = False,
        grad: bool = False,
        entropy_grad: bool = True,
        probes: Sequence[tuple[int, int]] = (),
    ) -> TokenPass:
        """Log-probs of B responses given their prompts, (B, T) with T the longest response; see TokenPass.

        grad: keep the graph of `log_prob`, `probes` and, with entropy_grad, `entropy` (without: cheaper for large
        vocabularies). probes: K pairs (position in the response from 0, token id). Raises ValueError for an empty
        prompt: its first response token would have no context.
        """
        if any(len(p) == 0 for p in prompt_ids):
            raise ValueError("an empty prompt: the first response token needs at least one token before it")
        device = self.device
        starts = [len(p) for p in prompt_ids]
        lengths = [len(r) for r in response_ids]
        width = max((a + b for a, b in zip(starts, lengths, strict=True)), default=1)
        ids = torch.zeros((len(starts), width), dtype=torch.long)
        mask = torch.zeros((len(starts), max(lengths, default=0)), dtype=torch.bool)
        for i, (p, r) in enumerate(zip(prompt_ids, response_ids, strict=True)):
            ids[i, : len(p) + len(r)] = torch.as_tensor([*p, *r], dtype=torch.long)
            mask[i, : len(r)] = True
        row, column = mask.nonzero(as_tuple=True)
        position = torch.tensor(starts, dtype=torch.long)[row] + column
        target = ids[row, position].to(device)
        row, column, ids, mask = row.to(device), column.to(device), ids.to(device), mask.to(device)
        kinds = {"entropy": entropy, "untempered": entropy_untempered, "entropy_grad": entropy_grad}
        measure = partial(self._measure, temperature=temperature, **kinds)
        probe = partial(self._probes, starts=starts, lengths=lengths, probes=probes, temperature=temperature)

        with torch.set_grad_enabled(grad):
            flat = self.compute(ids, row, position.to(device) - 1, target, measure, probe)

            def spread(values: Tensor) -> Tensor:
                return values.new_zeros(mask.shape).index_put((row, column), values)

            return TokenPass(
                log_prob=spread(flat[0]),
                mask=mask,
                entropy=spread(flat[1]) if entropy else None,
                entropy_untempered=spread(flat[2]) if entropy_untempered else None,
                probes=flat[3] if probes else None,
            )

    def _compute(
        self, ids: Tensor, row: Tensor, position: Tensor, target: Tensor, measure: Measure, probe: Callable[..., Tensor]
    ) -> tuple[Tensor, ...]:
        """All that reads weights: log_prob, entropy and untempered entropy (n,) of the tokens `target` that follow the hidden
        states at (row, position) (n,), and the probes (B, K). Sharded weights are whole only while it runs."""
        hidden = self.body(input_ids=ids, use_cache=False)[0]
        flat = hidden[row, position]
        return (*measure(flat, target), probe(hidden))

    def score(self, ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """Log-probs (nats) of ids[1:], each given all before it; len(ids) - 1 numbers. For the canary after a weight
        sync."""
        return self.log_probs([ids[:1]], [ids[1:]], temperature).log_prob[0].tolist()

    def weights(self) -> dict[str, Tensor]:
        """Every weight under its Hugging Face name, tied ones once; detached views, not copies, but where LoRA adds to them."""
        return dict(merged(self.model))

    def save(self, path: str | Path, tokenizer: Any | None = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write a Hugging Face folder (config, generation_config, safetensors, tokenizer) that transformers and vLLM
        load. weights: in place of the model's own, where those are spread over ranks."""
        folder = Path(path)
        self.model.save_pretrained(folder, state_dict=dict(weights) if weights is not None else None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        _readable_by_older_versions(folder)

    def _logits(self, hidden: Tensor) -> Tensor:
        """(n, V) logits of n hidden states, float32 at least, as the model's own forward makes them."""
        logits = self.head(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.logit_scale != 1:
            logits = logits * self.logit_scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def _measure(self, hidden: Tensor, target: Tensor, **kinds: Any) -> tuple[Tensor, ...]:
        """(log_prob, entropy, untempered entropy) of n tokens, (n,) each; see HeadPass."""
        of = HeadPass(self._logits, chunk=self.chunk, scale=self.logit_scale, softcap=self.softcap, **kinds)
        return of(hidden, target, self.head.weight, self.head.bias)

    def _probes(
        self,
        hidden: Tensor,
        starts: list[int],
        lengths: list[int],
        probes: Sequence[tuple[int, int]],
        temperature: float,
    ) -> Tensor:
        """(B, K) log-probs of the probes; NaN where a response is too short to have the position."""
        if not probes:
            return hidden.new_zeros((len(starts), 0))
        start = torch.tensor(starts, device=hidden.device)[:, None]
        length = torch.tensor(lengths, device=hidden.device)[:, None]
        offset = torch.tensor([p for p, _ in probes], device=hidden.device)[None]
        token = torch.tensor([t for _, t in probes], dtype=torch.long, device=hidden.device)
        index = (start + offset - 1).clamp(max=hidden.shape[1] - 1)
        at = hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))
        log_p = torch.log_softmax(self._logits(at) / temperature, dim=-1)
        picked = log_p.gather(-1, token.expand(len(starts), -1)[:, :, None])[:, :, 0]
        return picked.masked_fill(offset >= length, float("nan"))

    @torch.no_grad()
    def _check_head(self) -> None:
        """Raise TautError if head(body(ids)) are not the model's logits: then a chunked pass would train something
        else."""
        ids = torch.arange(4, device=self.device)[None] % self.head.weight.shape[0]
        want = self.model(input_ids=ids, use_cache=False).logits[0]
        got = self._logits(self.body(input_ids=ids, use_cache=False)[0][0])
        if not torch.allclose(got, want.to(got.dtype), rtol=1e-2, atol=1e-2):
            name = type(self.model).__name__
            raise TautError(
                f"{name} changes its logits after the head in a way the chunked pass does not know; use another model"
            )


def _readable_by_older_versions(folder: Path) -> None:
    """transformers 5 nests rope_theta and names a tokenizer class of its own; readers of version 4 know neither."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None and "rope_theta" not in config:
        path.write_text(json.dumps({**config, "rope_theta": theta}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("tokenizer_class") == "TokenizersBackend":
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
