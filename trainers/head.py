"""From hidden states to log-probs and entropies of tokens, a chunk of logits at a time, in both directions.

Kept between the passes are hidden states alone; the backward pass makes each chunk's logits again, turns them into their
gradient in place, and adds what they say of the head's weight into one buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadPass:
    """How logits become log-probs. logits: (n, D) hidden states to (n, V), float32 at least, scaled and capped as the model does.

    scale, softcap: what `logits` did, for its gradient. chunk: most hidden states at once. entropy, untempered: what to compute
    beside log-probs; entropy_grad: whether the entropy has a gradient (the untempered one never has).
    """

    logits: Callable[[Tensor], Tensor]
    temperature: float
    chunk: int
    scale: float = 1.0
    softcap: float | None = None
    entropy: bool = False
    untempered: bool = False
    entropy_grad: bool = True

    def __call__(self, hidden: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        """(log_prob, entropy, untempered entropy) of the tokens `target` (n,), each (n,); what was not asked for means nothing."""
        return _Chunked.apply(hidden, weight, bias, target, self)  # type: ignore[return-value]

    def forward(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk."""
        logits = self.logits(hidden)
        log_p = self.log_p(logits)
        of_token = log_p.gather(-1, target[:, None])[:, 0]
        h = h1 = torch.zeros_like(of_token)
        if self.untempered and self.temperature != 1:
            h1 = entropy(torch.log_softmax(logits, dim=-1))
        del logits
        if self.entropy or (self.untempered and self.temperature == 1):
            h = entropy(log_p)
        return of_token, h, h if self.temperature == 1 else h1

    def log_p(self, logits: Tensor) -> Tensor:
        """(n, V) at the temperature."""
        return torch.log_softmax(logits if self.temperature == 1 else logits / self.temperature, dim=-1)

    def backward(
        self, hidden: Tensor, target: Tensor, of_token: Tensor, of_entropy: Tensor | None, h: Tensor
    ) -> Tensor:
        """(n, V) gradient of one chunk's logits before scale and cap, given those of its log-probs and entropies (n,)."""
        logits = self.logits(hidden)
        log_p = self.log_p(logits)
        capped = logits if self.softcap else None
        del logits
        if of_entropy is None:
            grad = log_p.exp_().mul_(-of_token[:, None])
        else:  # dH/dz = -p (log p + H)
            p = log_p.exp()
            grad = log_p.add_(h[:, None]).mul_(-of_entropy[:, None]).sub_(of_token[:, None]).mul_(p)
        grad.scatter_add_(-1, target[:, None], of_token[:, None])
        if capped is not None and self.softcap:
            grad.mul_(1 - (capped / self.softcap).square_())
        factor = self.scale / self.temperature
        return grad.mul_(factor) if factor != 1 else grad


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, of: HeadPass
    ) -> tuple[Tensor, ...]:
        pairs = zip(hidden.split(of.chunk), target.split(of.chunk), strict=True)
        log_prob, h, h1 = (torch.cat(column) for column in zip(*(of.forward(*pair) for pair in pairs), strict=True))
        ctx.of, ctx.entropy_grad = of, of.entropy and of.entropy_grad
        ctx.save_for_backward(hidden, weight, bias, target, h)
        ctx.mark_non_differentiable(*([h1] if ctx.entropy_grad else [h, h1]))
        ctx.set_materialize_grads(False)
        return log_prob, h, h1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, h = ctx.saved_tensors
        of: HeadPass = ctx.of
        of_token = grads[0] if grads[0] is not None else torch.zeros_like(h)
        of_entropy = grads[1] if ctx.entropy_grad else None
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = of_bias = None
        for start in range(0, len(hidden), of.chunk):
            part = slice(start, start + of.chunk)
            some = of_entropy[part] if of_entropy is not None else None
            grad = of.backward(hidden[part], target[part], of_token[part], some, h[part]).to(hidden.dtype)
            if of_hidden is not None:
                torch.mm(grad, weight, out=of_hidden[part])
            if ctx.needs_input_grad[1]:
                of_weight = _add_product(of_weight, grad, hidden[part])
            if bias is not None and ctx.needs_input_grad[2]:
                of_bias = grad.sum(0) if of_bias is None else of_bias + grad.sum(0)
        of_weight = of_weight.to(weight.dtype) if of_weight is not None else None
        return of_hidden, of_weight, of_bias, None, None


def _add_product(total: Tensor | None, grad: Tensor, hidden: Tensor) -> Tensor:
    """total + gradᵀ hidden, in float32 at least; into `total`."""
    if total is None:
        product = grad.T @ hidden
        return product.to(torch.promote_types(product.dtype, torch.float32))
    return total.addmm_(grad.T, hidden) if total.dtype == grad.dtype else total.add_(grad.T @ hidden)


def entropy(log_p: Tensor) -> Tensor:
    """Of distributions (n, V), in nats, (n,)."""
    return -log_p.exp().mul_(log_p).sum(-1)
