"""What a step shows: its metrics, and the alarms that they raise."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from rewards.base import Scores
from rewards.batch import Batch, Verdict
from rewards.verifier import Counts, Verifier
from rewards.verifier.audit import Audit, Case, begin_audit
from rewards.verifier.process import Reply
from rollout.log import write_atomically
from rollout.types import Rollout
from trainers.config import AlarmConfig

BegunAudit = list[tuple[Case, Future[Reply]]]
START_STEPS = 3  # the alarms on length compare with the mean of the first so many steps
RECENT_STEPS = 3  # what they compare is a mean over so many, as for signs and signal: one step is too few to tell


def _mean(x: Any) -> float | None:
    return float(np.mean(x)) if len(x) else None


def zero_signal(batch: Batch) -> np.ndarray:
    """(P,) bool: groups whose known verdicts are all equal (decided on raw verdicts, never on shaped rewards)."""
    known = batch.group_sum(batch.known)
    right = batch.group_sum(batch.correct)
    return (right == 0) | (right == known)


def rollout_metrics(batch: Batch, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Accuracy, tokens, truncation and verdicts of a batch; None where nothing is known. Unknown verdicts are left out of
    accuracy and of the lengths by verdict, and counted."""
    known, right = batch.known, batch.correct
    return {
        "accuracy": _mean(right[known]),
        "tokens": _mean(batch.length),
        "tokens_correct": _mean(batch.length[right]),
        "tokens_wrong": _mean(batch.length[known & ~right]),
        "tokens_max": int(batch.length.max(initial=0)),
        "truncated": _mean(batch.truncated),
        "empty": _mean([not r.answer for r in rollouts]),
        "format_ok": _mean(batch.format_ok) if batch.format_ok is not None else None,
        "unknown": _mean(~known),
        "zero_signal": _mean(zero_signal(batch)),
        "groups": batch.num_groups,
        "rollouts": len(batch),
    }


def heldout_metrics(batch: Batch, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Of a held-out test, under heldout/: accuracy, tokens, truncation and unknown verdicts."""
    names = ("accuracy", "tokens", "tokens_correct", "tokens_wrong", "truncated", "unknown")
    metrics = rollout_metrics(batch, rollouts)
    return {f"heldout/{name}": metrics[name] for name in names}


def begin_step_audit(verifier: Verifier, rollouts: Sequence[Rollout], seed: int, step: int) -> BegunAudit:
    """Have math-verify decide, while the step goes on, some of what the fast path decided; drawn by step and sample ids."""
    cases = [
        Case(str(r.request.sample_id), r.request.problem.answer, r.answer, Verdict(r.verdict), r.reason)
        for r in rollouts
    ]
    return begin_audit(verifier, cases, f"{seed}:{step}")


def verify_metrics(rollouts: Sequence[Rollout], counts: Counts, audit: Audit) -> dict[str, Any]:
    """The share of each reason, what the audit found, and under time/ what depends on the machine and on where the run
    began: seconds of a verdict, and the share that the memo knew."""
    reasons = Counter(r.reason for r in rollouts)
    out: dict[str, Any] = {f"verify/{k.replace(' ', '_')}": n / len(rollouts) for k, n in sorted(reasons.items())}
    out |= {"verify/audited": audit.audited, "verify/audit_disagreement": audit.disagreement}
    verdicts = max(counts.verdicts, 1)
    return out | {
        "time/verdict_mean": round(counts.seconds / verdicts, 7),
        "time/verdict_slowest": round(counts.slowest, 7),
        "time/verdict_memo_hits": round(counts.memo_hits / verdicts, 4),
    }


def log_disagreements(path: Path, step: int, audit: Audit) -> None:
    """Add the audit's disagreements of a step to a file of JSON lines; later steps in it were undone by resuming the run."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < step]
    new = [
        json.dumps({"step": step, "sample_id": int(c.place), "gold": c.gold, "answer": c.answer, "reason": c.reason,
                    "verdict": c.verdict.name.lower(), "math_verify": reply.verdict, "math_verify_reason": reply.reason})
        for c, reply in audit.disagreements
    ]  # fmt: skip
    if lines != kept + new:
        text = "".join(f"{line}\n" for line in kept + new)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def score_metrics(batch: Batch, scores: Scores, advantage: np.ndarray) -> dict[str, Any]:
    """Each reward term's mean, kept share, how many correct rollouts are pushed down and wrong ones up, and the share of groups
    without any advantage."""
    kept = scores.keep
    per_rollout = advantage if advantage.ndim == 1 else advantage.sum(axis=1)
    out: dict[str, Any] = {f"reward/{name}": _mean(values[kept]) for name, values in scores.terms.items()}
    out["kept"] = _mean(kept)
    out["advantage_abs"] = _mean(np.abs(per_rollout))
    out["correct_pushed_down"] = _mean((per_rollout < 0)[kept & batch.correct])
    out["wrong_pushed_up"] = _mean((per_rollout > 0)[kept & ~batch.correct])
    out["silent_groups"] = _mean(batch.group_sum(np.abs(per_rollout) * kept) == 0)
    return out


def _recent(row: dict[str, Any], history: Sequence[dict[str, Any]], key: str) -> float | None:
    """The mean over the last RECENT_STEPS steps, None before there are so many or where one of them does not know."""
    values = [r.get(key) for r in (*history[max(len(history) - RECENT_STEPS + 1, 0) :], row)]
    return None if len(values) < RECENT_STEPS or None in values else float(np.mean(values))  # type: ignore[arg-type]


def alarms(row: dict[str, Any], history: Sequence[dict[str, Any]], config: AlarmConfig) -> list[str]:
    """What is wrong with this step, in words. `history`: the rows of the earlier steps."""
    out = []
    start = [r["tokens"] for r in history[:START_STEPS]]
    tokens = _recent(row, history, "tokens")
    if tokens is not None and len(start) == START_STEPS and (usual := float(np.mean(start))) > 0:
        share = tokens / usual
        if share < config.collapse:
            out.append(f"length collapse: {tokens:.0f} tokens, {share:.0%} of the start; weaken the length term")
        if share > config.explosion:
            out.append(f"length explosion: {tokens:.0f} tokens, {share:.1f} times the start")
    if (up := _recent(row, history, "wrong_pushed_up") or 0) > config.wrong_up:
        out.append(f"wrong answers pushed up: {up:.0%} of them; the reward pays for them: see `taut check`")
    if row["truncated"] > config.truncation:
        out.append(f"truncation: {row['truncated']:.0%} of the rollouts hit the cap; raise sampling.max_tokens")
    if row["empty"] > config.empty:
        out.append(f"empty answers: {row['empty']:.0%} of the rollouts give no answer")
    if (silent := _recent(row, history, "silent_groups") or 0) > config.no_signal:
        out.append(f"no signal: in {silent:.0%} of the groups no rollout has an advantage; choose other problems")
    if not math.isfinite(row.get("grad_norm", 0.0)):  # not every trainer tells it
        out.append("gradient not finite: this step's update was left out; lower optim.lr or look at the rewards")
    if saturated := [key for key, value in row.items() if key.endswith("/saturated") and value]:
        out.append(
            f"{saturated[0]}: the multipliers leave nothing for what is maximised; the constraints may not be feasible"
        )
    if row.get("verify/audit_disagreement"):
        out.append(
            f"audit: math-verify disagrees with {row['verify/audit_disagreement']:.0%} of {row['verify/audited']} audited "
            "verdicts; see verifier_audit.jsonl"
        )
    if row["unknown"] > config.unknown:
        out.append(f"unknown verdicts: {row['unknown']:.0%}; see verify/<reason> in metrics.jsonl")
    return out
