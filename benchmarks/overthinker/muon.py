"""Muon for the checkpoint's training: momentum whose update is orthogonalised (Keller Jordan, 2024), in float32.

torch.optim.Muon iterates in bfloat16, which is slow on most CPUs; matrices of one shape go through together here.
"""

from __future__ import annotations

import torch


def orthogonalise(update: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Roughly the nearest orthogonal matrix of each (B, m, n) slice, by the quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = update.shape[-2] > update.shape[-1]
    x = update.mT if tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Nesterov momentum, orthogonalised and scaled by sqrt(max(1, rows / columns)), on 2-D weights."""

    def __init__(self, weights: list[torch.nn.Parameter], momentum: float) -> None:
        self.momentum = momentum
        shapes = sorted({tuple(weight.shape) for weight in weights})
        self.groups = [[weight for weight in weights if tuple(weight.shape) == shape] for shape in shapes]
        self.buffers = [torch.zeros(len(group), *group[0].shape) for group in self.groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the weights' gradients."""
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradient = torch.stack([weight.grad for weight in group if weight.grad is not None])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(buffer, self.momentum))
            scale = max(1.0, buffer.shape[-2] / buffer.shape[-1]) ** 0.5
            for weight, change in zip(group, update, strict=True):
                weight.sub_(change, alpha=lr * scale)
