"""Plain loops: modes, entropies and budgets. LOOPS maps a name to (the method as configured, its loop)."""

from __future__ import annotations

import math
import statistics
from typing import Any

from benchmarks.loops import Columns, Loop, members
from rewards.progress import Progress
from rewards.terms.adaptive_deep_reasoning import AdaptiveDeepReasoning
from rewards.terms.adaptthink import AdaptThink
from rewards.terms.autothink import AutoThink
from rewards.terms.budget_curriculum import BudgetCurriculum
from rewards.terms.pear import Pear


def pear(method: Pear, c: Columns, progress: Progress) -> list[float]:
    """PEAR without its options."""
    out = []
    for i, verdict in enumerate(c.verdict):
        gap = c.untempered_entropy_think[i] - method.alpha * c.untempered_entropy_answer[i]
        out.append(min(1.0, method.right - max(0.0, gap)) if verdict == 1 else method.wrong)
    return out


def autothink(method: AutoThink, c: Columns, progress: Progress) -> list[float]:
    """AutoThink's third stage, with a batch balance of 0.6 so that all three parts are at work."""
    out, right = [], []
    for verdict, mode, formed in zip(c.verdict, c.mode, c.format_ok, strict=True):
        right.append(verdict == 1 and formed)
        if not formed:
            out.append(0.0)
        elif mode == "no_think":
            out.append(2.0 if verdict == 1 else -1.0)
        else:
            out.append(1.0 if verdict == 1 else 0.0)
    for rows in members(c).values():
        for side, sign, weight in ((True, 1.0, 0.05), (False, -1.0, 0.05)):
            some = [i for i in rows if right[i] == side]
            if len(some) < 2:
                continue
            lengths = [float(c.length[i]) for i in some]
            mean, std = sum(lengths) / len(lengths), max(statistics.stdev(lengths), 1e-6)
            for i in some:
                out[i] += sign * (math.exp(-weight * (c.length[i] - mean) / std) - 1.0)
    share = sum(mode != "no_think" for mode in c.mode) / len(c.mode)
    pull_think = min(max(2.0 * (share - 0.6), 0.0), 1.0)
    pull_no_think = min(max(2.0 * (1.0 - share - 0.6), 0.0), 1.0)
    for i, mode in enumerate(c.mode):
        if mode == "no_think":
            out[i] = (1 - pull_no_think) * out[i] + pull_no_think * (1.0 if right[i] else -2.0)
        else:
            out[i] = (1 - pull_think) * out[i] + pull_think * (0.0 if right[i] else -1.0)
    return out


def adaptive_deep_reasoning(method: AdaptiveDeepReasoning, c: Columns, progress: Progress) -> list[float]:
    """Adaptive Deep Reasoning, as reconstructed."""
    out = [method.other if verdict == 1 else method.wrong for verdict in c.verdict]
    for rows in members(c).values():
        long = [i for i in rows if c.mode[i] == "long"]
        short = [i for i in rows if c.mode[i] == "short"]
        if long and short:
            of_long = sum(c.verdict[i] == 1 for i in long) / len(long)
            of_short = sum(c.verdict[i] == 1 for i in short) / len(short)
            simple = of_short >= method.theta and of_short >= of_long
            for i in short if simple else long:
                if c.verdict[i] == 1:
                    out[i] = method.preferred
        for i in long:
            cache = method.overlong * c.max_tokens[i]
            if c.length[i] > c.max_tokens[i] - cache:
                out[i] -= min((c.length[i] - (c.max_tokens[i] - cache)) / cache, 1.0)
    return out


def budget_curriculum(method: BudgetCurriculum, c: Columns, progress: Progress) -> list[float]:
    """The triangular reward of Train Long, Think Short."""
    out = []
    for length, budget, verdict, tags in zip(c.length, c.budget, c.verdict, c.tags, strict=True):
        budget = max(1, int(budget))
        reward: Any = method.correctness if verdict == 1 else 0.0
        if length <= budget:
            reward += method.length * length / budget
        elif length <= 2 * budget:
            reward += method.length * (1 - (length - budget) / budget)
        for name in ("think", "answer"):
            if name in tags:
                reward += method.format * 0.5
        out.append(reward)
    return out


def adaptthink(method: AdaptThink, c: Columns, progress: Progress) -> list[float]:
    """AdaptThink's advantage."""
    out = []
    for verdict, reference, mode in zip(c.verdict, c.reference_accuracy, c.mode, strict=True):
        advantage = (1.0 if verdict == 1 else 0.0) - reference
        if mode == "no_think":
            advantage += method.delta
        out.append(advantage)
    return out


LOOPS: dict[str, tuple[Any, Loop]] = {
    "pear": (Pear(), pear),
    "autothink": (AutoThink(stage=3, balance=0.6), autothink),
    "adaptive_deep_reasoning": (AdaptiveDeepReasoning(), adaptive_deep_reasoning),
    "budget_curriculum": (BudgetCurriculum(), budget_curriculum),
    "adaptthink": (AdaptThink(), adaptthink),
}
