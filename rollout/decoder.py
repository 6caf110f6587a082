"""One decoding step of the plain decoder-only model (Llama, Mistral, Qwen2, Qwen3, SmolLM2) in as few operations as it takes.

For a small model, most of a step through transformers' modules is spent between the operations: masks made anew, hooks looked
up, rotations in five kernels. This does the same arithmetic on the same weights (none is copied) and the same cache. Whether a
model is such a one is not taken from its name: `Decoder.fits` computes a step both ways and declines where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}  # of the largest logit


class _Linear(NamedTuple):
    """weight (out, in) and bias (out,) or None, of the model itself: modules look their attributes up at every use."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _Norm(NamedTuple):
    """RMSNorm (1910.07467) in float32, its result in the type of x. eps: a float32 scalar."""

    weight: Tensor
    eps: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.add(self.eps, (wide * wide).sum(-1, keepdim=True), alpha=1 / x.shape[-1]).rsqrt_()
        return self.weight * (wide * scale).to(x.dtype)


class _Layer:
    """The weights of one layer. heads: of queries and of keys; norm: of both together (H_q + H_k, D), if there are any."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.after = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self.q, self.k, self.v = _linear(attention.q_proj), _linear(attention.k_proj), _linear(attention.v_proj)
        self.o, self.gate, self.up = _linear(attention.o_proj), _linear(mlp.gate_proj), _linear(mlp.up_proj)
        self.down = _linear(mlp.down_proj)
        self.queries, self.keys = (len(m.weight) // attention.head_dim for m in (self.q, self.k))
        self.norm = None
        if hasattr(attention, "q_norm"):
            q, k = _norm(attention.q_norm), _norm(attention.k_norm)
            self.norm = _Norm(torch.cat([q.weight.expand(self.queries, -1), k.weight.expand(self.keys, -1)]), q.eps)


class Decoder:
    """The next-token logits of a model after one more token a row, given a cache that the model's own prefill has filled.

    Made for one batch: it holds rotations for positions below `room`, and what it stacked of the weights as they are now.
    """

    def __init__(self, model: Any, room: int) -> None:
        body = model.model
        self.layers = [_Layer(layer) for layer in body.layers]
        self.embed, self.norm = body.embed_tokens.weight, _norm(body.norm)
        self.head = _linear(model.get_output_embeddings())
        attention = body.layers[0].self_attn
        self.size, self.scale = attention.head_dim, attention.scaling
        where = torch.arange(room, device=self.embed.device)[None]
        cos, sin = body.rotary_emb(self.embed, where)
        self.cos, self.sin = cos[0].clone(), sin[0].clone()
        self.sin[:, : self.size // 2].neg_()  # rotate_half's sign

    @classmethod
    @torch.inference_mode()
    def fits(cls, model: Any) -> bool:
        """Whether this computes what the model does: two rows of random tokens, one of them padded, logits compared."""
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        odd = [getattr(config, name, None) for name in ("logit_scale", "logits_scaling", "final_logit_softcapping")]
        if kinds != {"full_attention"} or getattr(config, "sliding_window", None) or any(odd):
            return False
        if "dynamic" in rotation or rotation == "longrope":  # depends on the longest row
            return False
        try:
            draw = torch.Generator().manual_seed(0)
            ids = torch.randint(0, config.vocab_size, (2, 6), generator=draw).to(model.device)
            mask = torch.ones_like(ids)
            mask[1, :2] = 0
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            want = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]
            first = model(
                input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=True
            )
            layers = first.past_key_values.layers
            got = cls(model, 6).step(ids[:, -1], positions[:, -1], layers, bias_of(mask.bool(), want.dtype))
        except (AttributeError, TypeError, RuntimeError, IndexError):
            return False
        gap = (got.float() - want.float()).abs().max() / want.float().abs().max().clamp(min=1e-6)
        return bool(gap < TOLERANCE.get(want.dtype, 0.0))

    def step(self, tokens: Tensor, positions: Tensor, cache: Sequence[Any], bias: Tensor | None) -> Tensor:
        """Logits (B, V) after `tokens` (B,) at `positions` (B,), whose keys and values go into the cache's layers.

        bias (B, 1, 1, L): added to the scores of all L positions including this one; None where no position is padding.
        """
        x = self.embed[tokens]
        half = self.size // 2
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        low, high = sin[..., :half], sin[..., half:]
        for layer, kept in zip(self.layers, cache, strict=True):
            queries, keys = layer.queries, layer.keys
            h = layer.before(x)
            qk = torch.cat([layer.q(h), layer.k(h)], -1).view(len(x), queries + keys, self.size)
            if layer.norm is not None:
                qk = layer.norm(qk)
            turned = qk * cos
            turned[..., :half].addcmul_(qk[..., half:], low)
            turned[..., half:].addcmul_(qk[..., :half], high)
            # One query a head: the heads that share keys become the query axis, and all of them see the same positions.
            query = turned[:, :queries].view(len(x), keys, queries // keys, self.size)
            k, v = kept.update(turned[:, queries:, None], layer.v(h).view(len(x), keys, 1, self.size))
            seen = scaled_dot_product_attention(query, k, v, attn_mask=bias, scale=self.scale)
            x = x + layer.o(seen.reshape(len(x), queries * self.size))
            h = layer.after(x)
            x = x + layer.down(silu(layer.gate(h)).mul_(layer.up(h)))
        return self.head(self.norm(x))


def bias_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, 1, L) to add to attention scores: 0 where the mask (B, L) is True, minus infinity elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))[:, None, None]


def _linear(module: Any) -> _Linear:
    return _Linear(module.weight, module.bias)


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight, torch.tensor(module.variance_epsilon, device=module.weight.device))
