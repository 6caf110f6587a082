"""What an objective sees: the rollouts of one optimiser step (MiniBatch), and the few in the model at once (Micro)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """Totals of a whole mini-batch over kept rollouts. tokens: response tokens; chosen: those the engine chose (not
    forced); sequences: rollouts with at least one token; groups: distinct groups; max_length: the request cap in
    tokens; temperature: at which log_prob and probes are taken."""

    tokens: float
    chosen: float
    sequences: float
    groups: float
    max_length: float
    temperature: float = 1.0


@dataclass(frozen=True)
class Micro:
    """B rollouts of a mini-batch, padded to T tokens; padding holds 0 and mask False. Floats are float32, log-probs
    in nats.

    log_prob (B, T): current policy, with gradient. old_log_prob: the policy before this step's updates.
    engine_log_prob, ref_log_prob, entropy (with gradient), probes (B, K, with gradient): None unless given. mask (B,
    T) bool: response tokens of kept rollouts. forced (B, T) bool: tokens of a forced prefix, which no policy sampled.
    advantage (B, T). group (B,): numbered 0..P-1 in the mini-batch. verdict (B,): 1, 0, -1 unknown. length (B,):
    response tokens. mode (B,): index into `modes`, -1 for none. index (B,): positions in the mini-batch, to look
    values of the plan up.
    """

    log_prob: Tensor
    old_log_prob: Tensor
    mask: Tensor
    forced: Tensor
    advantage: Tensor
    group: Tensor
    verdict: Tensor
    length: Tensor
    mode: Tensor
    index: Tensor
    scale: Scale
    engine_log_prob: Tensor | None = None
    ref_log_prob: Tensor | None = None
    entropy: Tensor | None = None
    probes: Tensor | None = None
    modes: tuple[str, ...] = ()

    @property
    def chosen(self) -> Tensor:
        """(B, T) bool: kept tokens that the engine sampled. A forced token has no sampling probability, hence no
        ratio."""
        return self.mask & ~self.forced


@dataclass(frozen=True)
class MiniBatch:
    """The N rollouts of one optimiser step as detached tensors on one device; columns as in Micro, (N, T) and (N,).

    log_prob and probes: the current policy's, only where the objective has `whole_groups`. keep (N,) bool. modes:
    names.
    """

    old_log_prob: Tensor
    mask: Tensor
    forced: Tensor
    advantage: Tensor
    group: Tensor
    verdict: Tensor
    length: Tensor
    mode: Tensor
    keep: Tensor
    scale: Scale
    engine_log_prob: Tensor | None = None
    ref_log_prob: Tensor | None = None
    log_prob: Tensor | None = None
    probes: Tensor | None = None
    modes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        *,
        old_log_prob: Sequence[Any],
        advantage: Any,
        group: Any,
        verdict: Any,
        keep: Any,
        max_length: float,
        forced: Any = None,
        mode: Sequence[str | None] | None = None,
        engine_log_prob: Sequence[Any] | None = None,
        ref_log_prob: Sequence[Any] | None = None,
        log_prob: Sequence[Any] | None = None,
        probes: Tensor | None = None,
        temperature: float = 1.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> MiniBatch:
        """From ragged rows: N sequences of per-token numbers each (tuples, arrays or tensors).

        advantage: (N,), spread over the tokens, or (N, T). forced (N,): tokens of the forced prefix (default 0). keep
        (N,): False takes a rollout out of the loss and of every total. max_length: the request cap in tokens.
        Raises ValueError naming the column for rows of unequal length, and for a log-prob that is not finite at a
        token that the engine chose (forced tokens may hold NaN).
        """
        lengths = np.array([len(row) for row in old_log_prob], dtype=np.int64)
        n, width = len(lengths), int(lengths.max(initial=0))
        at, length = torch.arange(width)[None], torch.as_tensor(lengths)
        kept = torch.as_tensor(np.asarray(keep), dtype=torch.bool)
        mask = (at < length[:, None]) & kept[:, None]
        is_forced = (at < torch.as_tensor(np.zeros(n) if forced is None else np.asarray(forced))[:, None]) & mask

        def ragged(name: str, rows: Sequence[Any]) -> Tensor:
            if [len(row) for row in rows] != lengths.tolist():
                raise ValueError(f"MiniBatch.{name}: rows of other lengths than old_log_prob; give one number a token")
            values = pad(rows, width, dtype)
            bad = (~values.isfinite() & mask & ~is_forced).nonzero().tolist()
            if bad:
                raise ValueError(f"MiniBatch.{name}: {values[*bad[0]]} at rollout {bad[0][0]}, token {bad[0][1]}")
            return values.nan_to_num(0.0).to(device)

        def optional(name: str, rows: Sequence[Any] | None) -> Tensor | None:
            return None if rows is None else ragged(name, rows)

        def column(values: Any) -> Tensor:
            return torch.as_tensor(np.asarray(values), dtype=torch.long).to(device)

        advantage = torch.as_tensor(np.asarray(advantage), dtype=dtype)
        if advantage.ndim == 1:
            advantage = advantage[:, None].expand(-1, width)
        if advantage.shape[0] != n or advantage.shape[1] < width:
            raise ValueError(f"MiniBatch.advantage: shape {tuple(advantage.shape)} for {n} rollouts, {width} tokens")
        group_index = np.unique(np.asarray(group), return_inverse=True)[1].reshape(n)
        modes = tuple(sorted({m for m in mode or () if m is not None}))
        return cls(
            old_log_prob=ragged("old_log_prob", old_log_prob),
            mask=mask.to(device),
            forced=is_forced.to(device),
            advantage=(advantage[:, :width] * mask).to(device),
            group=column(group_index),
            verdict=column(verdict),
            length=length.to(device),
            mode=column([-1 if m is None else modes.index(m) for m in mode or [None] * n]),
            keep=kept.to(device),
            scale=Scale(
                tokens=float(mask.sum()),
                chosen=float((mask & ~is_forced).sum()),
                sequences=float(mask.any(1).sum()),
                groups=float(len(set(group_index[kept.numpy()].tolist()))),
                max_length=float(max_length),
                temperature=float(temperature),
            ),
            engine_log_prob=optional("engine_log_prob", engine_log_prob),
            ref_log_prob=optional("ref_log_prob", ref_log_prob),
            log_prob=optional("log_prob", log_prob),
            probes=None if probes is None else probes.detach().to(device),
            modes=modes,
        )

    def __len__(self) -> int:
        return len(self.keep)

    @property
    def chosen(self) -> Tensor:
        """(N, T) bool: see Micro."""
        return self.mask & ~self.forced

    def micro(
        self, rows: Sequence[int], log_prob: Tensor, entropy: Tensor | None = None, probes: Tensor | None = None
    ) -> Micro:
        """The rollouts at `rows`, cut to the width of `log_prob` (B, T'), which the policy has just computed."""
        index = torch.as_tensor(list(rows), dtype=torch.long, device=self.mask.device)
        width = log_prob.shape[1]

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index, :width]

        return Micro(
            log_prob=log_prob,
            old_log_prob=self.old_log_prob[index, :width],
            mask=self.mask[index, :width],
            forced=self.forced[index, :width],
            advantage=self.advantage[index, :width],
            group=self.group[index],
            verdict=self.verdict[index],
            length=self.length[index],
            mode=self.mode[index],
            index=index,
            scale=self.scale,
            engine_log_prob=cut(self.engine_log_prob),
            ref_log_prob=cut(self.ref_log_prob),
            entropy=entropy,
            probes=probes,
            modes=self.modes,
        )


def in_mode(data: Micro | MiniBatch, name: str) -> Tensor:
    """(B,) bool: the rollouts whose request had this mode."""
    return data.mode == (data.modes.index(name) if name in data.modes else -2)


def pad(rows: Sequence[Any], width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, width) of N ragged rows, 0 where a row has ended."""
    out = torch.zeros((len(rows), width), dtype=dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.as_tensor(row, dtype=dtype).detach().cpu()
    return out
