"""What an objective is. The loop knows this page only: it never branches on a method.

An optimiser step takes one mini-batch (N rollouts, whole groups) through several micro-batches (B rollouts of it):

    data = MiniBatch.build(...)                       # detached columns of all N rollouts, and the totals in `scale`
    plan = objective.plan(data)                       # once: what couples rollouts (DRPO's weights, a preferred mode)
    for rows in micro_batches(...):
        loss, diagnostics = objective.loss(data.micro(rows, log_prob, entropy), plan)
        loss.backward()                               # gradients of the micro-batches add up to the mini-batch's

Every mean divides by a mini-batch total from `scale`, never by something counted in the micro-batch; whatever couples
rollouts is settled in `plan`. So loss and gradient do not depend on the split, and diagnostics are (sum, count)
pairs. To add a method: one file with one class, one line in `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor

from rewards.registry import Node, Registry
from trainers.objectives.data import Micro, MiniBatch
from trainers.objectives.parts import Diagnostics

OBJECTIVES = Registry(
    "objective",
    {
        "clipped_token": "trainers.objectives.clipped_token:ClippedToken",
        "gspo": "trainers.objectives.gspo:Gspo",
        "drpo": "trainers.objectives.drpo:Drpo",
        "disco": "trainers.objectives.disco:Disco",
        "adaptthink": "trainers.objectives.adaptthink:AdaptThinkLoss",
        "mode_switch": "trainers.objectives.mode_switch:ModeSwitch",
    },
)

Need = Literal["entropy", "ref_log_prob", "engine_log_prob", "probes"]


class Objective(Node):
    """What is minimised. Fields are the settings; `loss` is the logic.

    needs: what the loop must measure besides log_prob and old_log_prob; may depend on the settings. whole_groups:
    `plan` reads the current policy's log-probs of the whole mini-batch (`MiniBatch.log_prob`, `probes`), so the loop
    makes one more pass without gradient before the micro-batches, and keeps groups whole in a mini-batch.
    reads_advantage: False when the loss looks at verdicts alone (DRPO); a shaped reward is then refused.
    probe_tokens: (position in the response, text of one token) pairs whose log-probs `probes` holds.
    """

    registry: ClassVar[Registry] = OBJECTIVES
    whole_groups: ClassVar[bool] = False
    reads_advantage: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        """Optional columns of Micro that this objective reads."""
        return frozenset()

    @property
    def reads_modes(self) -> frozenset[str]:
        """Names of the modes that it tells apart; a plan that never gives one of them is refused."""
        return frozenset()

    @property
    def probe_tokens(self) -> tuple[tuple[int, str], ...]:
        """The columns of `probes`, (K,)."""
        return ()

    def plan(self, data: MiniBatch) -> dict[str, Tensor]:
        """Quantities that couple rollouts, without gradient: once an optimiser mini-batch. (N,) values are read by
        `index`."""
        return {}

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        """(scalar share of the mini-batch's loss, diagnostics). Shares of all micro-batches add up to the loss."""
        raise NotImplementedError


def build_objective(value: Any) -> Objective:
    """An objective from a name, a mapping with `type`, or an objective. Raises ValueError naming the nearest known
    name."""
    objective = OBJECTIVES.build(value)
    if not isinstance(objective, Objective):
        raise ValueError(f"expected an objective, got {value!r}")
    return objective


AnyObjective = Annotated[SerializeAsAny[Objective], BeforeValidator(build_objective)]
