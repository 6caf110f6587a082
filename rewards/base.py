"""What a reward is. Whole groups in, scores out; calling is pure, `observe` alone moves the state.

To add a method: one file in `rewards/terms/` with one class that fills in `compute`, and one line in `REWARDS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny

from rewards.batch import Batch, Bools, Floats
from rewards.bounds import Bounds
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.registry import Node, Registry

REWARDS = Registry(
    "reward",
    {
        "sum": "rewards.compose:Sum",
        "product": "rewards.compose:Product",
        "weight": "rewards.compose:Weight",
        "constant": "rewards.compose:Constant",
        "keep": "rewards.gates:Keep",
        "rollout_gate": "rewards.gates:RolloutGate",
        "group_gate": "rewards.gates:GroupGate",
        "normalise": "rewards.normalise:Normalise",
        "constrained": "rewards.constrained:Constrained",
        "correct": "rewards.terms.correct:Correct",
        "linear_length": "rewards.terms.linear_length:LinearLength",
        "truncation": "rewards.terms.truncation:Truncation",
        "laser": "rewards.terms.laser:Laser",
        "laser_d": "rewards.terms.laser_d:LaserD",
        "laser_de": "rewards.terms.laser_de:LaserDE",
        "arora_zanette": "rewards.terms.arora_zanette:AroraZanette",
        "kimi": "rewards.terms.kimi:Kimi",
        "mean_over_length": "rewards.terms.mean_over_length:MeanOverLength",
        "shorter_better": "rewards.terms.shorter_better:ShorterBetter",
        "hapo": "rewards.terms.hapo:Hapo",
        "repetition": "rewards.terms.repetition:Repetition",
        "l1_exact": "rewards.terms.l1:L1Exact",
        "l1_max": "rewards.terms.l1:L1Max",
        "cosine_length": "rewards.terms.cosine_length:CosineLength",
        "soft_overlong": "rewards.terms.soft_overlong:SoftOverlong",
        "alp": "rewards.terms.alp:Alp",
        "dast": "rewards.terms.dast:Dast",
        "o1_pruner": "rewards.terms.o1_pruner:O1Pruner",
        "pear": "rewards.terms.pear:Pear",
        "autothink": "rewards.terms.autothink:AutoThink",
        "adaptive_deep_reasoning": "rewards.terms.adaptive_deep_reasoning:AdaptiveDeepReasoning",
        "budget_curriculum": "rewards.terms.budget_curriculum:BudgetCurriculum",
        "adaptthink": "rewards.terms.adaptthink:AdaptThink",
    },
)

Scope = Literal["rollout", "group", "step", "dataset"]
Kind = Literal["whole", "term"]
SCOPES: tuple[Scope, ...] = ("rollout", "group", "step", "dataset")


@dataclass(frozen=True)
class Scores:
    """total (N,): the reward. terms {path: (N,)}: what each node of the tree paid, the total itself under the root's name.
    keep (N,): False where the rollout is left out of every statistic (unknown verdict, or filtered)."""

    total: Floats
    terms: dict[str, Floats]
    keep: Bools


@dataclass(frozen=True)
class Monitor:
    """What a reward asks the loop to sample beside training: `problems` fixed training problems, `samples` each, before
    step 0 and then every `every` steps; the batch comes to `observe` with origin "monitor"."""

    problems: int
    samples: int
    every: int


class Reward(Node):
    """What a rollout earns.

    Class attributes: `paper`: its number; `reads`: optional batch columns; `reads_modes`: the modes that it tells apart, by
    name; `own_scope`: how much it must see at once;
    `own_kind`: "whole" when it already contains correctness; `shorter_pays`: among correct rollouts of a group, all else
    equal, the shorter never earns less; `state_version`: 0 without state, else a number to raise when the state changes its
    meaning. Subclasses fill in `compute`, `bounds` where they can be known, and with state `_observe`, `_state`,
    `_load_state`. `name` replaces the type in the breakdown.
    """

    registry: ClassVar[Registry] = REWARDS
    reads: ClassVar[frozenset[str]] = frozenset()
    reads_modes: ClassVar[frozenset[str]] = frozenset()
    own_scope: ClassVar[Scope] = "rollout"
    own_kind: ClassVar[Kind] = "term"
    shorter_pays: ClassVar[bool] = False
    state_version: ClassVar[int] = 0

    name: str | None = Field(
        default=None, pattern=r"^[\w.\-]+$", description="name in the breakdown; default: the type"
    )

    def compute(self, batch: Batch, progress: Progress) -> Floats | Scores:
        """(N,) values, or Scores where the node has children. Every verdict in `batch` is known. Must be pure."""
        raise NotImplementedError

    def score(self, batch: Batch, progress: Progress | None = None) -> Scores:
        """Scores of the batch. Pure. Rollouts with an unknown verdict are taken as absent: total 0 and keep False.

        Raises TautError when the batch lacks a column in `needs`, or groups; and when a value is not finite.
        """
        progress = progress or Progress(max_length=int(batch.max_tokens.max(initial=1)))
        for column in sorted(self.needs):
            if getattr(batch, column) is None:
                who = [path for path, node in self.walk() if column in node.own_needs]
                raise TautError(
                    f"reward {' and '.join(who)}: needs the column {column!r}, which this batch lacks; "
                    f"give {column}=... when the batch is made, or use a reward without it"
                )
        if not batch.grouped and self.scope in ("group", "step"):
            who = [path for path, node in self.walk() if node.compares]
            raise TautError(
                f"reward {' and '.join(who)}: compares rollouts of one prompt, but this batch has no groups; "
                "give group=[...] when the batch is made"
            )
        known = batch.known
        if known.all():
            return self._finish(self.compute(batch, progress), batch)
        part = batch.take(known)
        inner = self._finish(self.compute(part, progress), part)

        def spread(x: Any) -> Any:
            out = np.zeros(len(batch), dtype=x.dtype)
            out[known] = x
            return out

        return Scores(spread(inner.total), {k: spread(v) for k, v in inner.terms.items()}, spread(inner.keep))

    def _finish(self, value: Floats | Scores, batch: Batch) -> Scores:
        if not isinstance(value, Scores):
            value = np.asarray(value, dtype=np.float64)
            value = Scores(value, {self.title: value}, np.ones(len(batch), dtype=bool))
        if not np.isfinite(value.total).all():
            i = int(np.flatnonzero(~np.isfinite(value.total))[0])
            raise TautError(
                f"reward {self.title!r} gave {value.total[i]} for problem {batch.problem_id[i]!r} "
                f"(length {batch.length[i]}); its settings are {self.model_dump(exclude_defaults=True)}"
            )
        return value

    def observe(self, batch: Batch, progress: Progress) -> None:
        """Move the state: called by its one owner, once a step, with the whole step. Unknown verdicts are left out."""
        self._observe(batch.take(batch.known) if not batch.known.all() else batch, progress)

    def _observe(self, batch: Batch, progress: Progress) -> None:
        for _, child in self.children():
            child._observe(batch, progress)

    def bounds(self, progress: Progress) -> Bounds | None:
        """What correct and wrong rollouts can earn at this step, over all inputs and reachable states (`rewards.bounds`);
        None: not known. Bounds may be wide, never wrong: tests hold every value against them."""
        return None

    def children(self) -> Iterator[tuple[str, Reward]]:
        """(path element, child), path elements unique among siblings."""
        seen: dict[str, int] = {}
        for key in type(self).model_fields:
            for child in _rewards_in(getattr(self, key)):
                seen[child.title] = seen.get(child.title, 0) + 1
                yield child.title + (f"-{seen[child.title]}" if seen[child.title] > 1 else ""), child

    def walk(self, path: str = "") -> Iterator[tuple[str, Reward]]:
        """(path, node) of this tree, parents first; paths as in the breakdown."""
        path = path or self.title
        yield path, self
        for element, child in self.children():
            yield from child.walk(f"{path}/{element}")

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, {} when there is none. Children's nest by path element, a node's own is under "(self)"."""
        out: dict[str, Any] = {key: state for key, child in self.children() if (state := child.state_dict())}
        if self.state_version:
            out["(self)"] = {"type": self.type, "version": self.state_version, **self._state()}
        return out

    def load_state_dict(self, state: dict[str, Any], path: str = "") -> None:
        """Take back what `state_dict` gave. Raises TautError naming the node for state that is missing, or another's."""
        path, children = path or self.title, dict(self.children())
        for key in state:
            if key not in children and not (key == "(self)" and self.state_version):
                whose = f"{path}/{key}" if key != "(self)" else f"a {state[key].get('type')!r} here"
                raise TautError(
                    f"reward {path}: the checkpoint holds state for {whose}, which this reward lacks; use the reward "
                    "that wrote it, or start a new run"
                )
        for key, child in children.items():
            child.load_state_dict(state.get(key, {}), f"{path}/{key}")
        if self.state_version:
            own = dict(state.get("(self)", {}))
            if (wrote := (own.pop("type", None), own.pop("version", None))) != (self.type, self.state_version):
                raise TautError(
                    f"reward {path}: needs the state of {self.type!r}, version {self.state_version}, but the checkpoint "
                    f"holds {'none' if wrote[0] is None else f'that of {wrote[0]!r}, version {wrote[1]}'}; use the "
                    "version of Taut that wrote it, or start a new run"
                )
            self._load_state(own)

    def _state(self) -> dict[str, Any]:
        """This node's own state, JSON-able."""
        return {}

    def _load_state(self, state: dict[str, Any]) -> None:
        """Take back what `_state` gave."""

    def monitor(self) -> Monitor | None:
        """The sampling that this reward needs beside training, if any."""
        wanted = {m for _, child in self.children() if (m := child.monitor())}
        if len(wanted) > 1:
            raise TautError(
                f"reward {self.title!r}: its parts ask for different monitors {sorted(map(str, wanted))}; make them equal"
            )
        return wanted.pop() if wanted else None

    @property
    def title(self) -> str:
        """The node's name in the breakdown."""
        return self.name or self.type.rpartition(":")[2]

    @property
    def own_needs(self) -> frozenset[str]:
        """Optional batch columns that this node itself reads; may depend on its settings."""
        return self.reads

    @property
    def needs(self) -> frozenset[str]:
        """Optional batch columns that this tree reads."""
        return self.own_needs.union(*(child.needs for _, child in self.children()))

    @property
    def scope(self) -> Scope:
        """How much the tree must see at once."""
        return max([self.own_scope, *(child.scope for _, child in self.children())], key=SCOPES.index)

    @property
    def compares(self) -> bool:
        """Whether this node itself compares rollouts of one prompt."""
        return self.own_scope in ("group", "step")

    @property
    def kind(self) -> Kind:
        """ "whole" when correctness is already inside."""
        return "whole" if self.own_kind == "whole" or any(c.kind == "whole" for _, c in self.children()) else "term"

    def __add__(self, other: Any) -> Reward:
        from rewards.compose import Sum

        terms = [
            t
            for side in (self, _reward(other))
            for t in (side.terms if isinstance(side, Sum) and not side.name else [side])
        ]
        return Sum(terms=terms)

    def __mul__(self, other: Any) -> Reward:
        from rewards.compose import Product, Weight

        if isinstance(other, Reward):
            return Product(factors=[self, other])
        return Weight(weight=other, term=self)

    __rmul__ = __mul__
    __radd__ = __add__

    def __neg__(self) -> Reward:
        return self * -1.0

    def __sub__(self, other: Any) -> Reward:
        return self + -_reward(other)


def _reward(value: Any) -> Reward:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = {"type": "constant", "value": value}
    reward = REWARDS.build(value)
    if not isinstance(reward, Reward):
        raise ValueError(f"expected a reward, got {value!r}")
    return reward


AnyReward = Annotated[SerializeAsAny[Reward], BeforeValidator(_reward)]


def build_reward(value: Any) -> Reward:
    """A reward from a name, a mapping with `type`, or a reward. Raises ValueError or pydantic's ValidationError."""
    return _reward(value)


def _rewards_in(value: Any) -> Iterator[Reward]:
    """The rewards among a setting's values, also in lists and in plain models."""
    if isinstance(value, Reward):
        yield value
    elif isinstance(value, BaseModel) and not isinstance(value, Node):
        for key in type(value).model_fields:
            yield from _rewards_in(getattr(value, key))
    elif isinstance(value, list):
        for item in value:
            yield from _rewards_in(item)


@dataclass
class Breakdown:
    """Collects what children paid under one parent; used by the operators."""

    title: str
    terms: dict[str, Floats] = field(default_factory=dict)

    def add(self, element: str, child: Reward, scores: Scores) -> None:
        """File the child's paths under the parent, its root renamed to its path element among the siblings."""
        for path, values in scores.terms.items():
            tail = path[len(child.title) :]
            self.terms[f"{self.title}/{element}{tail}"] = values
