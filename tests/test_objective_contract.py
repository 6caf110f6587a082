"""The objective contract carries what is still to come: prototypes of GSPO, AdaptThink, DRPO and a mode-switch loss.

Each is a few lines against Micro, plan and scale, gives the official loss or gradient, and does not depend on the split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracle import cases, close
from tests.test_objectives import mini_batch, padded, random_batch, run
from trainers.objectives import Micro, MiniBatch, Objective
from trainers.objectives.data import in_mode
from trainers.objectives.parts import Diagnostics, kl


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


class Gspo(Objective):
    """Sequence ratio (2507.18071)."""

    clip_low: float = 0.2
    clip_high: float = 0.2

    def log_ratio(self, micro: Micro) -> Tensor:
        return token_mean(micro.log_prob - micro.old_log_prob, micro.mask)

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        ratio, advantage = self.log_ratio(micro).exp(), token_mean(micro.advantage, micro.mask)
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        return torch.maximum(-advantage * ratio, -advantage * clipped).sum() / micro.scale.sequences, {}


class AdaptThink(Gspo):
    """GSPO's form with the first token's old probability set by the sampling plan's modes (2505.13417)."""

    nothinking_ratio: float = 0.5

    def log_ratio(self, micro: Micro) -> Tensor:
        old = micro.old_log_prob.clone()
        forced = torch.full_like(old[:, 0], self.nothinking_ratio)
        old[:, 0] = torch.where(in_mode(micro, "nothinking"), forced, 1 - forced).log()
        return token_mean(micro.log_prob - old, micro.mask)


class Drpo(Objective):
    """Decoupled positives and negatives (2510.04474): the gradient; the coefficients couple whole groups."""

    whole_groups: ClassVar[bool] = True
    lam: float = 0.1
    tau: float = 10.0
    beta: float = 1000.0
    delta: float = 1e-4
    estimator: str = "kl"

    def plan(self, data: MiniBatch) -> dict[str, Tensor]:
        assert data.log_prob is not None
        score = token_mean(data.log_prob, data.mask)
        right, wrong = (data.verdict == 1) & data.keep, (data.verdict == 0) & data.keep
        coefficient = torch.zeros_like(score)
        for g in data.group.unique():
            p, n = right & (data.group == g), wrong & (data.group == g)
            if p.any() and n.any():
                coefficient[p] = -torch.softmax(-data.length[p] / data.scale.max_length / self.lam, 0).to(score)
                coefficient[n] = torch.softmax(score[n] / self.tau, 0)
        k = self.divergence(data.old_log_prob, data.log_prob)[data.mask].sum() / data.scale.tokens
        return {"coefficient": coefficient / data.scale.groups, "constraint": self.beta * (k - self.delta).clamp(min=0)}

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        return kl(old, new, "k1" if self.estimator == "kl" else "k3")

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        pull = (plan["coefficient"][micro.index] * token_mean(micro.log_prob, micro.mask)).sum()
        k = (self.divergence(micro.old_log_prob, micro.log_prob) * micro.mask).sum() / micro.scale.tokens
        return pull + plan["constraint"] * k, {}


class ModeSwitch(Objective):
    """Margin ranking of two mode tokens' logits, a mean over prompts, towards the mode that did better (2505.20101)."""

    whole_groups: ClassVar[bool] = True
    margin: float = 1.0

    @property
    def needs(self):
        return frozenset({"probes"})

    @property
    def probe_tokens(self) -> tuple[tuple[int, str], ...]:
        return ((0, "<long>"), (0, "<short>"))

    def plan(self, data: MiniBatch) -> dict[str, Tensor]:
        sign = torch.zeros(len(data), dtype=torch.float64)
        for g in data.group.unique():
            rows = (data.group == g) & data.keep
            halves = [data.verdict[rows & in_mode(data, m)] for m in ("long", "short")]
            rate = [(half == 1).double().mean().nan_to_num() for half in halves]
            if rows.any() and rate[0] != rate[1]:
                sign[rows] = (1.0 if rate[0] > rate[1] else -1.0) / rows.sum()
        return {"sign": sign}

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        assert micro.probes is not None
        sign = plan["sign"][micro.index]
        gap = (micro.probes[:, 0] - micro.probes[:, 1]) * sign.sign()  # of log-probs at T = 1: the gap of the logits
        hinge = (self.margin - gap).clamp(min=0) * sign.abs()
        return hinge.sum() / micro.scale.groups + micro.log_prob.sum() * 0, {}


@pytest.mark.parametrize("case", cases("gspo_verl"))
def test_gspo(case: dict) -> None:
    given = case["inputs"]
    data = mini_batch(given["mask"], given["old_logprobs"], given["advantages"])
    loss, grad, _ = run(Gspo(**case["params"]), data, padded(given["logprobs"], data.mask.shape[1]))
    assert close(loss, case["expected"]["loss"])
    assert close(grad, [row[: grad.shape[1]] for row in case["expected"]["grad_logprobs"]])


@pytest.mark.parametrize("case", cases("adaptthink_loss"))
def test_adaptthink(case: dict) -> None:
    given, params = case["inputs"], dict(case["params"])
    params.pop("mask_mean_eps")
    mode = ["nothinking" if n else "thinking" for n in given["nothinking"]]
    data = mini_batch(given["mask"], given["old_logprobs"], given["advantages"], mode=mode)
    loss, _, _ = run(AdaptThink(**params), data, padded(given["logprobs"], data.mask.shape[1]))
    assert close(loss, case["expected"]["loss"])


@pytest.mark.parametrize("case", cases("drpo_loss"))
def test_drpo(case: dict) -> None:
    given, params = case["inputs"], dict(case["params"])
    objective = Drpo(
        lam=float(params["lambda"]),
        tau=params["tau"],
        beta=params["beta"],
        delta=params["delta"],
        estimator=params["kl_type"],
    )
    data = mini_batch(
        given["mask"],
        given["old_log_prob"],
        np.zeros(len(given["mask"])),
        log_prob=given["log_prob"],
        group=given["group_ids"],
        verdict=np.array(given["correct"], int),
        max_length=params["max_length_C"],
    )
    _, grad, _ = run(objective, data, padded(given["log_prob"], data.mask.shape[1]))
    assert close(grad, [row[: grad.shape[1]] for row in case["expected"]["grad_log_prob"]])


@pytest.mark.parametrize(
    "objective", [Gspo(), AdaptThink(), Drpo(delta=0.0), ModeSwitch()], ids=lambda o: type(o).__name__
)
def test_split_does_not_matter(objective: Objective) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        more: dict[str, Any] = {"mode": [["long", "short"][i] for i in rng.integers(0, 2, 9)]}
        data, log_prob, _ = random_batch(seed, **more)
        rows = [log_prob[i, : data.length[i]] for i in range(9)]
        probes = torch.tensor(rng.normal(size=(9, 2)))
        data, _, _ = random_batch(seed, log_prob=rows, probes=probes, **more)
        order = rng.permutation(9).tolist()
        splits = [order[:4], order[4:5], order[5:]]
        whole, split = (
            run(objective, data, log_prob, None, None, probes),
            run(objective, data, log_prob, splits, None, probes),
        )
        assert whole[0] == pytest.approx(split[0], rel=1e-12, abs=1e-12)
        assert torch.allclose(whole[1], split[1], rtol=1e-12, atol=1e-14)


def test_mode_switch_by_hand() -> None:
    data = mini_batch(
        [[1], [1]], [[-1.0], [-1.0]], [0.0, 0.0], group=[0, 0], verdict=[0, 1], mode=["long", "short"], max_length=1
    )
    probes = torch.log_softmax(torch.tensor([[1.5, 2.0], [1.5, 2.0]], dtype=torch.float64), -1)
    loss, _, _ = run(ModeSwitch(), data, torch.full((2, 1), -1.0, dtype=torch.float64), None, None, probes)
    assert loss == pytest.approx(0.5), "short is preferred, z_short 2, z_long 1.5, margin 1"
