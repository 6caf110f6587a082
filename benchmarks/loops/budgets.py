"""Plain loops: budgets, histories and caps. LOOPS maps a name to (the method as configured, its loop)."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.loops import Columns, Loop, members
from rewards.progress import Progress
from rewards.schedule import at
from rewards.terms.alp import Alp
from rewards.terms.cosine_length import CosineLength
from rewards.terms.dast import Dast
from rewards.terms.hapo import Hapo
from rewards.terms.l1 import L1Exact, L1Max
from rewards.terms.o1_pruner import O1Pruner
from rewards.terms.repetition import Repetition
from rewards.terms.soft_overlong import SoftOverlong


def hapo(method: Hapo, c: Columns, progress: Progress) -> list[float]:
    """HAPO, both shapes; the histories are looked up once a rollout, as in the official code."""
    w, least, late_from, out = at(method.w, progress), at(method.floor, progress), 1.0 + method.tolerance, []
    for problem, length, verdict, truncated in zip(c.problem_id, c.length, c.verdict, c.truncated, strict=True):
        correct = verdict == 1 and not truncated
        h = method.known_length(problem)
        rho = 0.0
        if h is not None:
            h = max(h or 1.0, least)
            if method.shape == "cosine":
                rho = math.cos(0.5 * math.pi * length / h) if length < 2 * h else -1.0
                rho = max(rho, method.clip) if correct else min(rho, 0.0)
            elif correct and length < h:
                rho = 1.0 - length / h
            elif length >= late_from * h:
                rho = max(method.clip if correct else -1.0, -(length - late_from * h) / h)
        out.append((method.right if correct else 0.0) + w * rho)
    return out


def _repeated(tokens: Any, n: int) -> list[int]:
    seen: set[tuple[int, ...]] = set()
    starts = []
    for start, ngram in enumerate(zip(*(tokens[i:] for i in range(n)), strict=False)):
        if ngram in seen:
            starts.append(start)
        seen.add(ngram)
    return starts


def repetition(method: Repetition, c: Columns, progress: Progress) -> list[float]:
    """The n-gram penalty, both forms."""
    n, out = method.ngram, []
    for tokens in c.tokens:
        starts = _repeated(list(tokens), n)
        if not starts:
            out.append(0.0)
        elif method.form == "distinct":
            out.append(method.max_penalty * len(starts) / (len(tokens) - n + 1))
        else:
            marked, end = [False] * len(tokens), -1
            for start in starts:
                if not method.only_start or start > end:
                    marked[start : start + n] = [True] * n
                end = start + n - 1
            out.append(method.max_penalty * sum(marked) / len(tokens))
    return out


def l1_exact(method: L1Exact, c: Columns, progress: Progress) -> list[float]:
    """L1-Exact, both shapes."""
    alpha, out = at(method.alpha, progress), []
    for i, (length, verdict) in enumerate(zip(c.length, c.verdict, strict=True)):
        target = c.budget[i] if method.target is None else at(method.target, progress)
        missed = alpha * abs(target - length)
        out.append(
            (1.0 if verdict == 1 else 0.0) + (1.0 / (1.0 + math.exp(-missed)) if method.shape == "sigmoid" else -missed)
        )
    return out


def l1_max(method: L1Max, c: Columns, progress: Progress) -> list[float]:
    """L1-Max: every shape, slope and combination."""
    alpha, out = at(method.alpha, progress), []
    for i, (length, verdict) in enumerate(zip(c.length, c.verdict, strict=True)):
        target = c.budget[i] if method.target is None else at(method.target, progress)
        left = alpha * (target - length)
        if method.shape == "sigmoid":
            term = min(1.0, 1.0 / (1.0 + math.exp(-left)) + (0.1 if length <= target else 0.0))
        else:
            term = min(max((left if method.slope == "full" else left / 2) + 0.5, 0.0), 1.0)
        correct = 1.0 if verdict == 1 else 0.0
        out.append(correct + term if method.combine == "add" else correct * term)
    return out


def cosine_length(method: CosineLength, c: Columns, progress: Progress) -> list[float]:
    """The cosine, with its repetition penalty."""
    right = at(method.correct_short, progress), at(method.correct_long, progress)
    wrong = at(method.wrong_short, progress), at(method.wrong_long, progress)
    exceed, out = at(method.exceed, progress), []
    for i, (length, verdict) in enumerate(zip(c.length, c.verdict, strict=True)):
        cap = c.max_tokens[i] if method.max_length is None else at(method.max_length, progress)
        if length + method.margin >= cap:
            out.append(exceed)
            continue
        short, long = right if verdict == 1 else wrong
        paid = long + 0.5 * (short - long) * (1.0 + math.cos(math.pi * length / cap))
        if verdict != 1 and method.repetition and length >= method.ngram:
            ngrams = length - method.ngram + 1
            paid += method.repetition * len(_repeated(list(c.tokens[i]), method.ngram)) / ngrams
        out.append(paid)
    return out


def soft_overlong(method: SoftOverlong, c: Columns, progress: Progress) -> list[float]:
    """DAPO's punishment near the cap."""
    factor, buffer, out = at(method.factor, progress), at(method.cache, progress), []
    for length, cap in zip(c.length, c.max_tokens, strict=True):
        most = cap if method.max_length is None else at(method.max_length, progress)
        cache = min(buffer, most)
        exceed = length - (most - cache)
        if exceed <= 0:
            out.append(0.0)
        elif method.floored and exceed >= cache:
            out.append(-factor)
        else:
            out.append(-exceed / cache * factor)
    return out


def alp(method: Alp, c: Columns, progress: Progress) -> list[float]:
    """ALP."""
    beta, out = at(method.beta, progress), [0.0] * len(c.length)
    for rows in members(c).values():
        solved = sum(1 for i in rows if c.verdict[i] == 1) / len(rows)
        price = max(solved, 1.0 / len(rows))
        for i in rows:
            length = c.length[i] / c.max_tokens[i] if method.per_cap else c.length[i]
            out[i] = (1.0 if c.verdict[i] == 1 else 0.0) - beta * length * price
    return out


def dast(method: Dast, c: Columns, progress: Progress) -> list[float]:
    """DAST's budget reward."""
    out = [0.0] * len(c.length)
    for rows in members(c).values():
        right = [c.length[i] for i in rows if c.verdict[i] == 1]
        for i in rows:
            if method.difficulty == "group":
                p, mean = len(right) / len(rows), sum(right) / len(right) if right else 0.0
            else:
                p, mean = c.reference_accuracy[i], c.reference_length[i]
            cap = c.max_tokens[i] if method.max_length is None else at(method.max_length, progress)
            budget = max(p * mean + (1.0 - p) * cap, 1.0)
            excess = (c.length[i] - budget) / budget
            out[i] = max(0.5 - 0.5 * excess, 0.1) if c.verdict[i] == 1 else min(0.9 * excess - 0.1, -0.1)
    return out


def o1_pruner(method: O1Pruner, c: Columns, progress: Progress) -> list[float]:
    """O1-Pruner's weights, standardised over all rollouts where it is asked for."""
    alpha, out = at(method.alpha, progress), []
    for i, (length, verdict) in enumerate(zip(c.length, c.verdict, strict=True)):
        gained = c.reference_length[i] / max(length, 1) - 1.0
        weight = gained + alpha * ((1.0 if verdict == 1 else 0.0) - c.reference_accuracy[i])
        out.append(min(max(weight, method.clip_low), method.clip_high))
    if not method.standardise:
        return out
    mean = sum(out) / len(out)
    std = math.sqrt(sum((w - mean) ** 2 for w in out) / len(out))
    return [(w - mean) / std for w in out] if min(out) < max(out) else [0.0] * len(out)


LOOPS: dict[str, tuple[Any, Loop]] = {
    "hapo": (Hapo(), hapo),
    "repetition": (Repetition(), repetition),
    "l1_exact": (L1Exact(), l1_exact),
    "l1_max": (L1Max(), l1_max),
    "cosine_length": (CosineLength(), cosine_length),
    "soft_overlong": (SoftOverlong(), soft_overlong),
    "alp": (Alp(), alp),
    "dast": (Dast(), dast),
    "o1_pruner": (O1Pruner(), o1_pruner),
}
