"""Plain loops: advantages, and the rewards that are made like one. LOOPS maps a name to (the method as configured, its loop)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.loops import Columns, Loop, members
from rewards.base import Reward
from rewards.constrained import Constrained
from rewards.normalise import Normalise
from rewards.progress import Progress
from rewards.terms.correct import Correct
from rewards.terms.linear_length import LinearLength
from trainers.advantages.batch_std import BatchStd
from trainers.advantages.canon import Canon
from trainers.advantages.dr_grpo import DrGrpo
from trainers.advantages.drpo import DrpoAdvantage
from trainers.advantages.grpo import Grpo
from trainers.advantages.length_rank import LengthRank
from trainers.advantages.raw import Raw
from trainers.advantages.rloo import Rloo


def mean_std(values: Sequence[float], ddof: int) -> tuple[float, float]:
    """Mean and standard deviation; 0 and 1 where there are too few, as reward managers do."""
    if len(values) <= ddof:
        return 0.0, 1.0
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - ddof))


def grpo(method: Grpo | LengthRank, c: Columns, progress: Progress) -> list[float]:
    """Standardised in the group; a lone rollout gets 0."""
    out = [0.0] * len(c.reward)
    for rows in members(c).values():
        if len(rows) > 1:
            mean, std = mean_std([c.reward[i] for i in rows], method.ddof)
            for i in rows:
                out[i] = (c.reward[i] - mean) / (std + method.eps)
    return out


def dr_grpo(method: DrGrpo | BatchStd, c: Columns, progress: Progress) -> list[float]:
    """Group mean subtracted."""
    out = [0.0] * len(c.reward)
    for rows in members(c).values():
        mean = sum(c.reward[i] for i in rows) / len(rows)
        for i in rows:
            out[i] = c.reward[i] - mean
    return out


def rloo(method: Rloo, c: Columns, progress: Progress) -> list[float]:
    """Against the mean of the others."""
    out = [0.0] * len(c.reward)
    for rows in members(c).values():
        total = sum(c.reward[i] for i in rows)
        for i in rows:
            if len(rows) > 1:
                out[i] = c.reward[i] - (total - c.reward[i]) / (len(rows) - 1)
    return out


def batch_std(method: BatchStd, c: Columns, progress: Progress) -> list[float]:
    """Centred in the group, divided by one std."""
    centred = dr_grpo(method, c, progress)
    _, std = mean_std(centred if method.std_of == "centred" else c.reward, method.ddof)
    return [a / (std + method.eps) for a in centred]


def length_rank(method: LengthRank, c: Columns, progress: Progress) -> list[float]:
    """Standardised among rollouts of equal length rank, mixed with GRPO."""
    plain, ranks, groups = grpo(method, c, progress), {}, members(c)
    for rows in groups.values():
        for rank, i in enumerate(sorted(rows, key=lambda i: (c.length[i], c.sample_id[i]))):
            ranks.setdefault(rank, []).append(i)
    assert isinstance(method.weight, float)
    out = [(1 - method.weight) * a for a in plain]
    for rows in ranks.values():
        if len(rows) > 1:
            mean, std = mean_std([c.reward[i] for i in rows], method.ddof)
            for i in rows:
                out[i] += method.weight * (c.reward[i] - mean) / (std + method.eps)
    for rows in groups.values():
        if len(rows) == 1:
            out[rows[0]] = 0.0
    return out


def canon(method: Canon, c: Columns, progress: Progress) -> list[float]:
    """Against the other half and the own one; alpha on the longer half."""
    mu, alpha, beta = method.mu, method.alpha, method.beta
    assert isinstance(mu, float) and isinstance(alpha, float) and isinstance(beta, float)
    out = [0.0] * len(c.reward)
    for rows in members(c).values():
        if len(rows) == 1:
            continue
        rows = sorted(rows, key=lambda i: (c.length[i], c.sample_id[i]))
        short, long = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        r_short = sum(c.reward[i] for i in short) / len(short)
        r_long = sum(c.reward[i] for i in long) / len(long)
        for i in long:
            out[i] = mu * (alpha * c.reward[i] - r_short + beta) + (1 - mu) * (c.reward[i] - r_long)
        for i in short:
            out[i] = mu * (c.reward[i] - alpha * r_long - beta) + (1 - mu) * (c.reward[i] - r_short)
    return [a / method.divisor for a in out]


def drpo(method: DrpoAdvantage, c: Columns, progress: Progress) -> list[float]:
    """Softmax weights of the correct ones by length, of the wrong ones by log-prob."""
    out, groups = [0.0] * len(c.length), members(c)
    cap = method.max_length or max(c.max_tokens)
    for rows in groups.values():
        right = [i for i in rows if c.verdict[i] == 1 and c.length[i] > 0]
        wrong = [i for i in rows if c.verdict[i] == 0 and c.length[i] > 0]
        if not right or not wrong:
            continue
        gain = [math.exp((1 - c.length[i] / cap) / method.lam) for i in right]
        loss = [math.exp(c.mean_log_prob[i] / method.tau) for i in wrong]
        for i, g in zip(right, gain, strict=True):
            out[i] = len(c.length) / len(groups) * g / sum(gain)
        for i, v in zip(wrong, loss, strict=True):
            out[i] = -len(c.length) / len(groups) * v / sum(loss)
    return out


def raw(method: Raw, c: Columns, progress: Progress) -> list[float]:
    """The reward."""
    return [float(r) for r in c.reward]


def part(term: Reward, c: Columns) -> list[float]:
    """The two terms that the rewards below are configured with."""
    if isinstance(term, Correct):
        return [1.0 if v == 1 else 0.0 for v in c.verdict]
    assert isinstance(term, LinearLength) and term.scale is None
    return [length / max(cap, 1) for length, cap in zip(c.length, c.max_tokens, strict=True)]


def normalise(method: Normalise, c: Columns, progress: Progress) -> list[float]:
    """A term standardised in its group."""
    values, out = part(method.term, c), [0.0] * len(c.length)
    for rows in members(c).values():
        if len(rows) > 1:
            mean, std = mean_std([values[i] for i in rows], method.ddof)
            for i in rows:
                out[i] = (values[i] - mean) / (std + method.eps)
    return out


def constrained(method: Constrained, c: Columns, progress: Progress) -> list[float]:
    """Every part standardised over the step, mixed by the multipliers."""
    weights = list(method.multipliers.values)
    out = [0.0] * len(c.length)
    for weight, term in zip(
        [len(weights) - sum(weights), *weights], [method.maximise, *(s.term for s in method.subject_to)], strict=True
    ):
        values = part(term, c)
        mean, std = mean_std(values, method.ddof)
        for i, value in enumerate(values):
            out[i] += weight * (value - mean) / (std + method.eps) if len(values) > method.ddof and std > 0 else 0.0
    return out


LOOPS: dict[str, tuple[Any, Loop]] = {
    "grpo": (Grpo(), grpo),
    "dr_grpo": (DrGrpo(), dr_grpo),
    "rloo": (Rloo(), rloo),
    "batch_std": (BatchStd(), batch_std),
    "length_rank": (LengthRank(), length_rank),
    "canon": (Canon(mu=0.5, alpha=0.96), canon),
    "drpo": (DrpoAdvantage(), drpo),
    "raw": (Raw(), raw),
    "normalise": (Normalise(term=LinearLength()), normalise),
    "constrained": (Constrained.example(), constrained),
}
