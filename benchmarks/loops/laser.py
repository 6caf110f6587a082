"""Plain loops: the LASER family and its relatives. LOOPS maps a name to (the method as configured, its loop)."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.loops import Columns, Loop, members
from rewards import AroraZanette, Laser
from rewards.progress import Progress


def laser(method: Laser, c: Columns, progress: Progress) -> list[float]:
    """LASER with a constant target."""
    out = []
    for length, verdict, well_formed in zip(c.length, c.verdict, c.format_ok, strict=True):
        if not well_formed:
            out.append(method.malformed)
        elif verdict == 1:
            out.append(1.0 + (method.alpha if length <= method.target else 0.0))
        else:
            out.append(method.wrong)
    return out


def arora_zanette(method: AroraZanette, c: Columns, progress: Progress) -> list[float]:
    """Arora and Zanette's sigmoid of the z-score among a group's correct rollouts."""
    out = [0.0] * len(c.length)
    for rows in members(c).values():
        right = [i for i in rows if c.verdict[i] == 1 and not c.truncated[i]]
        if not right:
            continue
        mean = sum(c.length[i] for i in right) / len(right)
        std = math.sqrt(sum((c.length[i] - mean) ** 2 for i in right) / len(right))
        for i in right:
            z = (c.length[i] - mean) / (std + method.eps)
            out[i] = 1.0 - method.alpha / (1.0 + math.exp(-z))
    return out


LOOPS: dict[str, tuple[Any, Loop]] = {
    "laser": (Laser(target=2048), laser),
    "arora_zanette": (AroraZanette(), arora_zanette),
}
