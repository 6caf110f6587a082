"""Plain loops: the LASER family and its relatives. LOOPS maps a name to (the method as configured, its loop)."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.loops import Columns, Loop, members
from rewards import AroraZanette, Correct, Laser, LinearLength
from rewards.progress import Progress
from rewards.schedule import at
from rewards.terms.kimi import Kimi
from rewards.terms.laser_d import AdaptiveTarget, LaserD
from rewards.terms.laser_de import LaserDE
from rewards.terms.mean_over_length import MeanOverLength
from rewards.terms.shorter_better import ShorterBetter
from rewards.terms.truncation import Truncation


def laser(method: Laser, c: Columns, progress: Progress) -> list[float]:
    """LASER with a constant target."""
    limit = at(method.target, progress)
    alpha = at(method.alpha, progress)
    out = []
    for length, verdict, well_formed in zip(c.length, c.verdict, c.format_ok, strict=True):
        if not well_formed:
            out.append(method.malformed)
        elif verdict == 1:
            out.append(1.0 + (alpha if length <= limit else 0.0))
        else:
            out.append(method.wrong)
    return out


def _shortest_enough(table: dict[str, Any], band: str, least: int, context: int) -> int:
    for length, covered in zip(table["lengths"], table["coverage"][band], strict=True):
        if length < context and covered * least >= 1.0:
            return length
    return context


def _targets(method: AdaptiveTarget, c: Columns, progress: Progress) -> list[int]:
    """Each rollout's target: its group's accuracy names the band, the table that band's length."""
    table, out, known = method.state_dict()["(self)"], [0] * len(c.length), {}
    for rows in members(c).values():
        size, right = len(rows), sum(c.verdict[i] == 1 for i in rows)
        if right / size >= 2 / 3:
            band, least = "easy", math.ceil(2 * size / 3)
        elif right / size >= 1 / 3:
            band, least = "medium", math.ceil(size / 3)
        else:
            band, least = "hard", 1
        if (band, least) not in known:
            known[band, least] = _shortest_enough(table, band, least, progress.max_length)
        for i in rows:
            out[i] = known[band, least]
    return out


def laser_d(method: LaserD, c: Columns, progress: Progress) -> list[float]:
    """LASER-D from a monitored table."""
    alpha = at(method.alpha, progress)
    out = []
    for i, target in enumerate(_targets(method, c, progress)):
        if not c.format_ok[i]:
            out.append(method.malformed)
        elif c.verdict[i] == 1:
            out.append(1.0 + (alpha if c.length[i] <= target else 0.0))
        else:
            out.append(method.wrong)
    return out


def laser_de(method: LaserDE, c: Columns, progress: Progress) -> list[float]:
    """LASER-DE from a monitored table, without the search for repetitions."""
    alpha = at(method.alpha, progress)
    out = []
    for i, target in enumerate(_targets(method, c, progress)):
        short = c.length[i] <= target
        if not c.format_ok[i]:
            out.append(method.malformed)
        elif c.verdict[i] == 1:
            out.append(1.0 + (alpha if short else 0.0))
        else:
            out.append(method.wrong + (0.0 if short else alpha))
    return out


def truncation(method: Truncation, c: Columns, progress: Progress) -> list[float]:
    """Correctness of what is finished within a constant target."""
    over = at(method.over, progress)
    limit = progress.max_length if method.target is None else at(method.target, progress)
    out = []
    for length, verdict, cut in zip(c.length, c.verdict, c.truncated, strict=True):
        if cut or length > limit:
            out.append(over)
        else:
            out.append(1.0 if verdict == 1 else method.wrong)
    return out


def kimi(method: Kimi, c: Columns, progress: Progress) -> list[float]:
    """Kimi k1.5's length reward."""
    out = [0.0] * len(c.length)
    for rows in members(c).values():
        lengths = [c.length[i] for i in rows]
        shortest, longest = min(lengths), max(lengths)
        if shortest == longest:
            continue
        for i in rows:
            value = 0.5 - (c.length[i] - shortest) / (longest - shortest)
            out[i] = value if c.verdict[i] == 1 else min(0.0, value)
    return out


def arora_zanette(method: AroraZanette, c: Columns, progress: Progress) -> list[float]:
    """Arora and Zanette's sigmoid of the z-score among a group's correct rollouts."""
    alpha = at(method.alpha, progress)
    out = [0.0] * len(c.length)
    for rows in members(c).values():
        right = [i for i in rows if c.verdict[i] == 1 and not c.truncated[i]]
        if not right:
            continue
        mean = sum(c.length[i] for i in right) / len(right)
        std = math.sqrt(sum((c.length[i] - mean) ** 2 for i in right) / len(right))
        for i in right:
            z = (c.length[i] - mean) / (std + method.eps)
            out[i] = 1.0 - alpha / (1.0 + math.exp(-z))
    return out


def mean_over_length(method: MeanOverLength, c: Columns, progress: Progress) -> list[float]:
    """CANON's "Length Reward +"."""
    coefficient = at(method.coefficient, progress)
    out = [0.0] * len(c.length)
    for rows in members(c).values():
        lengths = [max(c.length[i], 1) for i in rows]
        mean = sum(lengths) / len(lengths)
        for i, length in zip(rows, lengths, strict=True):
            out[i] = float(c.verdict[i] == 1) + coefficient * (mean / length - 1.0)
    return out


def shorter_better(method: ShorterBetter, c: Columns, progress: Progress) -> list[float]:
    """ShorterBetter's distance to the shortest correct response."""
    beta = at(method.beta, progress)
    alpha = at(method.alpha, progress)
    out = [0.0] * len(c.length)
    for rows in members(c).values():
        right = [c.length[i] for i in rows if c.verdict[i] == 1]
        target = min(right) if right else sum(c.length[i] for i in rows) / len(rows)
        for i in rows:
            out[i] = alpha * (c.verdict[i] == 1) - beta * abs(c.length[i] - target)
    return out


def correct(method: Correct, c: Columns, progress: Progress) -> list[float]:
    """The verdict alone."""
    return [method.right if verdict == 1 else method.wrong for verdict in c.verdict]


def linear_length(method: LinearLength, c: Columns, progress: Progress) -> list[float]:
    """Length as a share of the cap."""
    return [length / max(cap, 1) for length, cap in zip(c.length, c.max_tokens, strict=True)]


LOOPS: dict[str, tuple[Any, Loop]] = {
    "correct": (Correct(), correct),
    "linear_length": (LinearLength(), linear_length),
    "laser": (Laser(target=2048), laser),
    "laser_d": (LaserD(target=256, interval=256), laser_d),
    "laser_de": (LaserDE(target=256, interval=256), laser_de),
    "truncation": (Truncation(target=2048), truncation),
    "kimi": (Kimi(), kimi),
    "arora_zanette": (AroraZanette(), arora_zanette),
    "mean_over_length": (MeanOverLength(), mean_over_length),
    "shorter_better": (ShorterBetter(), shorter_better),
}
