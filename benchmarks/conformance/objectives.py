"""Adapters: objectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance.judge import TOLERANCE, Adapter, Case, Pair
from trainers.objectives import MiniBatch, Objective, Tally, build_objective
from trainers.objectives.parts import Aggregation, aggregate, kl

VERL_NAMES: dict[str, Aggregation] = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-sum-norm": "token_sum_constant",
}
KL_NAMES = {"kl": "k1", "low_var_kl": "k3"}  # DRPO's; not cut off at 10 there


def mini_batch(mask: Any, old: Any, dtype: torch.dtype = torch.float64, **columns: Any) -> MiniBatch:
    """From padded rows, as the case files have them: rollouts of one group each, all correct, unless told otherwise."""
    n = len(mask)
    lengths = [sum(map(bool, row)) for row in mask]
    for name in {"log_prob", "ref_log_prob"} & columns.keys():
        columns[name] = [row[:length] for row, length in zip(columns[name], lengths, strict=True)]
    old = [row[:length] for row, length in zip(old, lengths, strict=True)]
    filled: dict[str, Any] = {
        "advantage": [0.0] * n,
        "group": range(n),
        "verdict": [1] * n,
        "keep": [True] * n,
    } | columns
    filled = {"max_length": len(mask[0])} | filled
    return MiniBatch.build(old_log_prob=old, dtype=dtype, **filled)


def run(objective: Objective, data: MiniBatch, log_prob: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """(loss, gradient by log_prob, diagnostics) of the whole mini-batch at once."""
    leaf = torch.tensor(log_prob, dtype=data.old_log_prob.dtype, requires_grad=True)
    loss, diagnostics = objective.loss(
        data.micro(range(len(data)), leaf[:, : data.mask.shape[1]]), objective.plan(data)
    )
    loss.backward()
    tally = Tally()
    tally.add(diagnostics)
    assert leaf.grad is not None
    return loss.detach(), leaf.grad, tally.means()


def loss_aggregation(case: Case) -> Iterator[Pair]:
    """verl's agg_loss."""
    values, params = torch.tensor(case["inputs"]["loss"], dtype=torch.float64), case["params"]
    data = mini_batch(case["inputs"]["mask"], case["inputs"]["loss"])
    mask = torch.tensor(case["inputs"]["mask"]).bool()
    how, constant = VERL_NAMES[params["mode"]], params["norm_constant"] or mask.shape[1]
    yield aggregate(values, mask, how, data.scale, data.scale.tokens, constant), case["expected"]["loss"]


def clipped_token(case: Case, dtype: torch.dtype, **settings: Any) -> Iterator[Pair]:
    """A clipped surrogate, the share that is clipped and the mean of log old / new."""
    given, want, settings = case["inputs"], case["expected"], {"type": "clipped_token"} | settings
    data = mini_batch(given["mask"], given["old_log_prob"], dtype, advantage=given["advantages"])
    loss, _, seen = run(build_objective(settings), data, given["log_prob"])
    new = torch.tensor(given["log_prob"], dtype=dtype)[:, : data.mask.shape[1]]
    drift = aggregate(kl(data.old_log_prob, new, "k1"), data.mask, "token_mean", data.scale, data.scale.tokens)
    yield loss, want["pg_loss"]
    yield sum(seen[name] for name in ("clip_low", "clip_high")), want["clipfrac"]
    yield drift, want["ppo_kl"]


def laser_policy_loss(case: Case) -> Iterator[Pair]:
    """LASER's loss and its KL; in float32, as the official code ran, whose rounding shows in numbers this small."""
    yield from clipped_token(case, torch.float32, **case["params"])
    pair = [torch.tensor(case["inputs"][name], dtype=torch.float32) for name in ("log_prob", "ref_log_prob")]
    # the difference of two numbers near 1: its rounding, two units of 1.2e-7, depends on how the processor takes exp
    shift = 2.5e-7 / TOLERANCE
    want = torch.tensor(case["expected"]["low_var_kl_per_token"])
    yield shift + kl(pair[0], pair[1], "low_var_kl"), shift + want


def canon_repo_policy_loss(case: Case) -> Iterator[Pair]:
    """Dual clip. The official clipfrac_lower compares the loss after the bound with the bound: always 0, not compared."""
    settings = dict(case["params"])
    settings |= {
        "dual_clip": settings.pop("clip_ratio_c"),
        "aggregation": VERL_NAMES[settings.pop("loss_agg_mode")],
    }
    yield from clipped_token(case, torch.float64, **settings)


def gspo(case: Case) -> Iterator[Pair]:
    """verl's GSPO loss and gradient."""
    given, want = case["inputs"], case["expected"]
    data = mini_batch(given["mask"], given["old_logprobs"], advantage=given["advantages"])
    loss, grad, _ = run(build_objective({"type": "gspo", **case["params"]}), data, given["logprobs"])
    yield loss, want["loss"]
    yield grad, want["grad_logprobs"]


def adaptthink(case: Case) -> Iterator[Pair]:
    """AdaptThink's loss with the first token's probability adjusted."""
    given, settings = case["inputs"], {"type": "adaptthink", **case["params"]}
    settings.pop("mask_mean_eps")
    mode = ["no_think" if no_thinking else "think" for no_thinking in given["nothinking"]]
    data = mini_batch(given["mask"], given["old_logprobs"], advantage=given["advantages"], mode=mode)
    yield run(build_objective(settings), data, given["logprobs"])[0], case["expected"]["loss"]


def discriminative(case: Case, verdict: list[int], mask: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss, gradient and diagnostics of DRPO or, without a finite lambda, of DisCO."""
    given, params = case["inputs"], case["params"]
    settings = {name: params[name] for name in ("tau", "beta", "delta")}
    settings |= {"type": "disco", "kl_estimator": KL_NAMES[params["kl_type"]]}
    if (temperature := float(params.get("lambda", "inf"))) < float("inf"):
        settings |= {"type": "drpo", "length_temperature": temperature}
    columns = {"group": given["group_ids"], "verdict": verdict, "max_length": params["max_length_C"]}
    data = mini_batch(mask, given["old_log_prob"], log_prob=given["log_prob"], **columns)
    return run(build_objective(settings), data, given["log_prob"])


def _constraint(seen: Mapping[str, float], want: Mapping[str, Any]) -> Iterator[Pair]:
    yield seen["constraint_kl"], want.get("kl")
    yield seen["constraint_active"], want.get("constraint_active")


def drpo_loss(case: Case) -> Iterator[Pair]:
    """DRPO's and DisCO's surrogate, its gradient and the constraint."""
    verdict = [int(correct) for correct in case["inputs"]["correct"]]
    loss, grad, seen = discriminative(case, verdict, case["inputs"]["mask"])
    yield loss, case["expected"]["loss"]
    yield grad, case["expected"]["grad_log_prob"]
    yield from _constraint(seen, case["expected"])


def drpo_edge_cases(case: Case) -> Iterator[Pair]:
    """Rewards other than 0 and 1 are in neither set; where the official code gave NaN or raised, ours must be finite."""
    given, want = (
        case["inputs"],
        case["expected"] if isinstance(case["expected"], dict) else {},
    )  # it raised: a word, or null
    width = len(given["old_log_prob"][0])
    mask = [[position < length for position in range(width)] for length in given["lengths"]]
    loss, grad, seen = discriminative(case, [{1.0: 1, 0.0: 0}.get(r, -1) for r in given["rewards"]], mask)
    broken = want.get("grad_has_nan", True)
    yield loss, None if broken else want["loss"]
    yield grad.abs().sum(), None if broken else want["grad_abs_sum"]
    yield from _constraint(seen, {} if broken else want)


ADAPTERS: dict[str, Adapter] = {
    "loss_aggregation_verl": loss_aggregation,
    "laser_policy_loss": laser_policy_loss,
    "canon_repo_policy_loss": canon_repo_policy_loss,
    "gspo_verl": gspo,
    "drpo_loss": drpo_loss,
    "drpo_edge_cases": drpo_edge_cases,
    "disco_logl_loss": drpo_loss,
    "adaptthink_loss": adaptthink,
}
