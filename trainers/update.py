"""From judged rollouts to new weights: the policy pass before the reward where one is needed, and the optimiser's steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.base import Scores
from rewards.batch import Batch
from rollout.types import Rollout
from trainers.config import TrainConfig
from trainers.objectives.data import MiniBatch
from trainers.objectives.parts import Tally
from trainers.optim import MasterAdamW, lr_at
from trainers.policy import Policy, TokenPass
from trainers.share import Share

PHASES = ("all", "think", "answer")
TEMPERED = frozenset({"entropy_temperature", *(f"entropy_{phase}" for phase in PHASES)})
UNTEMPERED = frozenset(f"untempered_entropy_{phase}" for phase in PHASES)
MEASURED = TEMPERED | UNTEMPERED | {"mean_log_prob"}  # batch columns that only a policy pass can fill in


@dataclass(frozen=True)
class Scored:
    """A step's rollouts with what they earn. advantage: (N,) or (N, T). old: log-probs of the policy before this step's
    updates by rollout (T_i,); None where the update's own pass gives them."""

    rollouts: Sequence[Rollout]
    batch: Batch
    scores: Scores
    advantage: np.ndarray
    old: list[Tensor] | None


@dataclass
class Updater:
    """A policy, its optimiser and, for a KL term, a frozen reference. `think_end`: token id of `</think>`, if there is one.

    share: with other ranks, each of which has an updater of its own over the same sharded weights. All are called alike, with
    the whole step, and all return what the whole step gives.
    """

    policy: Policy
    optimizer: MasterAdamW
    config: TrainConfig
    reference: Policy | None = None
    think_end: int | None = None
    probe_ids: tuple[tuple[int, int], ...] = ()
    share: Share = field(default_factory=Share)
    done: int = 0  # micro-batches so far: what shows that it is alive

    def measure(self, rollouts: Sequence[Rollout], needs: frozenset[str]) -> tuple[dict[str, Any], list[Tensor] | None]:
        """What must be known of the policy before rewards are: (columns for the batch, old log-probs by rollout).

        The old log-probs are None where one pass, that of the update itself, gives the same numbers. The mean log-prob is over
        the tokens that the engine chose, entropies are over all; both given the prompt that is trained on.
        """
        objective = self.config.objective
        wanted = needs & MEASURED
        if not wanted and self.config.mini_batches == 1 and not objective.whole_groups:
            return {}, None
        rows = self._pass(
            self.policy, rollouts, entropy=bool(wanted & TEMPERED), entropy_untempered=bool(wanted & UNTEMPERED)
        )
        columns: dict[str, Any] = {}
        if "mean_log_prob" in wanted:
            chosen = [
                row["log_prob"][r.forced :] for r, row in zip(rollouts, rows, strict=True)
            ]  # as in DRPO's own loss
            columns["mean_log_prob"] = [float(x.mean()) if len(x) else 0.0 for x in chosen]
        for name, prefix in (("entropy", ""), ("entropy_untempered", "untempered_")):
            if wanted & (UNTEMPERED if prefix else TEMPERED):
                phases = [
                    _phases(r.token_ids, row[name], self.think_end) for r, row in zip(rollouts, rows, strict=True)
                ]
                columns |= {f"{prefix}entropy_{p}": [v[i] for v in phases] for i, p in enumerate(PHASES)}
        if wanted & TEMPERED:
            columns["entropy_temperature"] = [self.config.rollout.temperature] * len(rows)
        return columns, [r["log_prob"] for r in rows]

    def update(self, scored: Scored, step: int) -> dict[str, float]:
        """Take `mini_batches` optimiser steps over the kept rollouts, whole groups each; the step's diagnostics.

        A mini-batch of which nothing is kept is skipped, so that momentum alone never moves the weights.
        """
        config, batch, tally = self.config, scored.batch, Tally()
        lr = lr_at(step, config.optim, config.steps)
        losses, norms = [], []
        for groups in np.array_split(np.unique(batch.group), config.mini_batches):
            rows = np.flatnonzero(np.isin(batch.group, groups) & scored.scores.keep & (batch.length > 0))
            if len(rows):
                losses.append(self._backward(rows, scored, tally))
                norms.append(self.optimizer.update(lr, config.optim.grad_clip))  # not finite: nothing has moved
        means = {name: float(np.mean(v)) if v else 0.0 for name, v in (("loss", losses), ("grad_norm", norms))}
        return {"lr": lr, "updates": len(losses), **means, **Tally.of(self.share.all(tally.on_cpu())).means()}

    def _backward(self, rows: np.ndarray, scored: Scored, tally: Tally) -> float:
        """Add up the gradient of one mini-batch, the rollouts at `rows`; its loss."""
        objective, old = self.config.objective, scored.old
        chosen, part = [scored.rollouts[i] for i in rows], scored.batch.take(rows)
        current = self._pass(self.policy, chosen, probes=True) if objective.whole_groups else None
        reference = self._pass(self.reference, chosen) if self.reference else None
        data = MiniBatch.build(
            old_log_prob=[old[i] for i in rows] if old else [np.zeros(len(r.token_ids)) for r in chosen],
            advantage=scored.advantage[rows],
            group=part.group,
            verdict=part.verdict,
            keep=np.ones(len(rows), dtype=bool),
            max_length=float(scored.batch.max_tokens.max()),  # of the step: one scale, whatever is kept
            forced=[r.forced for r in chosen],
            mode=[r.mode for r in chosen],
            engine_log_prob=[r.log_probs for r in chosen],
            ref_log_prob=[r["log_prob"] for r in reference] if reference else None,
            log_prob=[r["log_prob"] for r in current] if current else None,
            probes=torch.stack([r["probes"] for r in current]) if current and self.probe_ids else None,
            temperature=self.config.rollout.temperature,
            device=self.policy.device,
        )
        plan, total = objective.plan(data), 0.0
        for micro_rows in self._split(chosen):
            wanted = "entropy" in objective.needs
            if not micro_rows:
                self._keep_company(self.policy, chosen, entropy=True, entropy_grad=wanted, grad=True)
                continue
            some = [chosen[i] for i in micro_rows]
            out = self._forward(self.policy, some, probes=True, entropy=True, entropy_grad=wanted, grad=True)
            micro = data.micro(micro_rows, out.log_prob, out.entropy, out.probes)
            if old is None:  # on-policy: the old policy is this one
                micro = dataclasses.replace(micro, old_log_prob=out.log_prob.detach())
            loss, diagnostics = objective.loss(micro, plan)
            loss.backward()
            tally.add(diagnostics)
            total += float(loss.detach())
        return sum(self.share.all(total))

    def _split(self, rollouts: Sequence[Rollout]) -> list[list[int]]:
        return self.share.split([len(r.prompt_ids) + len(r.token_ids) for r in rollouts], self.config.micro_tokens)

    def _keep_company(self, policy: Policy, rollouts: Sequence[Rollout], **options: bool) -> None:
        """Where other ranks have one more micro-batch: the same exchange of weights, and a gradient of nothing."""
        shortest = min(rollouts, key=lambda r: len(r.prompt_ids) + len(r.token_ids))
        out = self._forward(policy, [shortest], probes=False, **options)
        if options.get("grad"):
            (out.log_prob.sum() * 0.0).backward()

    def _forward(self, policy: Policy, rollouts: Sequence[Rollout], probes: bool, **options: bool) -> TokenPass:
        self.done += 1
        prompts, responses = [r.prompt_ids for r in rollouts], [r.token_ids for r in rollouts]
        named = self.probe_ids if probes else ()
        return policy.log_probs(prompts, responses, self.config.rollout.temperature, probes=named, **options)

    def _pass(
        self, policy: Policy, rollouts: Sequence[Rollout], probes: bool = False, **options: bool
    ) -> list[dict[str, Tensor]]:
        """A pass without gradient over all rollouts; per rollout log_prob and entropies (T_i,), probes (K,)."""
        rows: dict[int, dict[str, Tensor]] = {}
        for micro_rows in self._split(rollouts):
            if not micro_rows:
                self._keep_company(policy, rollouts, **options)
                continue
            rows |= {i: {} for i in micro_rows}
            out = self._forward(policy, [rollouts[i] for i in micro_rows], probes, **options)
            for name in ("log_prob", "entropy", "entropy_untempered"):
                if (values := getattr(out, name)) is not None:
                    for i, row in zip(micro_rows, out.rows(values), strict=True):
                        rows[i][name] = row.cpu()
            if out.probes is not None:
                for i, row in zip(micro_rows, out.probes, strict=True):
                    rows[i]["probes"] = row.cpu()
        everywhere = {i: row for part in self.share.all(rows) for i, row in part.items()}
        return [everywhere[i] for i in range(len(rollouts))]


def _phases(token_ids: Sequence[int], entropy: Tensor, think_end: int | None) -> tuple[float, float, float]:
    """Mean entropy of all tokens, of those before the first `</think>`, and of those after it; the tag itself in neither.

    No tag: everything is thinking. An empty phase has entropy 0 (PEAR, 2510.08026, eq. 5).
    """
    values = entropy.double().numpy()
    k = token_ids.index(think_end) if think_end is not None and think_end in token_ids else len(token_ids)
    means = [float(v.mean()) if len(v) else 0.0 for v in (values, values[:k], values[k + 1 :])]
    return means[0], means[1], means[2]
