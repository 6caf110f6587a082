"""What a reward is. Whole groups in, scores out; calling is pure, `observe` alone moves the state.

To add a method: one file in `rewards/terms/` with one class that fills in `compute`, and one line in `REWARDS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny

from rewards.batch import Batch, Bools, Floats
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
        "correct": "rewards.terms.correct:Correct",
        "linear_length": "rewards.terms.linear_length:LinearLength",
        "laser": "rewards.terms.laser:Laser",
        "arora_zanette": "rewards.terms.arora_zanette:AroraZanette",
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

    Class attributes: `reads`: optional batch columns; `own_scope`: how much it must see at once; `own_kind`: "whole" when
    it already contains correctness. Subclasses fill in `compute`, and `_observe`, `state_dict`, `load_state_dict` when
    they have state. `name` replaces the type in the breakdown.
    """

    registry: ClassVar[Registry] = REWARDS
    reads: ClassVar[frozenset[str]] = frozenset()
    own_scope: ClassVar[Scope] = "rollout"
    own_kind: ClassVar[Kind] = "term"

    name: str | None = Field(
        default=None, pattern=r"^[\w.\-]+$", description="name in the breakdown; default: the type"
    )

    def compute(self, batch: Batch, progress: Progress) -> Floats | Scores:
        """(N,) values, or Scores where the node has children. Every verdict in `batch` is known. Must be pure."""
        raise NotImplementedError

    def score(self, batch: Batch, progress: Progress | None = None) -> Scores:
        """Scores of the batch. Pure. Rollouts with an unknown verdict are taken as absent: total 0 and keep False.

        Raises TautError when the batch lacks a column in `needs`, or when a value is not finite.
        """
        progress = progress or Progress(max_length=int(batch.max_tokens.max(initial=1)))
        lacking = [column for column in sorted(self.needs) if getattr(batch, column) is None]
        if lacking:
            raise TautError(f"reward {self.title!r} needs the column(s) {', '.join(lacking)}, which this batch lacks")
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

    def children(self) -> Iterator[tuple[str, Reward]]:
        """(path element, child), path elements unique among siblings."""
        seen: dict[str, int] = {}
        for key in type(self).model_fields:
            value = getattr(self, key)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, Reward):
                    seen[child.title] = seen.get(child.title, 0) + 1
                    yield child.title + (f"-{seen[child.title]}" if seen[child.title] > 1 else ""), child

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, {} when there is none. Composites nest their children's by path element."""
        return {key: state for key, child in self.children() if (state := child.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises TautError for state that no node here claims."""
        children = dict(self.children())
        for key in state:
            if key not in children:
                raise TautError(
                    f"reward {self.title!r}: the checkpoint holds state for {key!r}, which this reward lacks"
                )
        for key, child in children.items():
            child.load_state_dict(state.get(key, {}))

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
    def needs(self) -> frozenset[str]:
        """Optional batch columns that this tree reads."""
        return self.reads.union(*(child.needs for _, child in self.children()))

    @property
    def scope(self) -> Scope:
        """How much the tree must see at once."""
        return max([self.own_scope, *(child.scope for _, child in self.children())], key=SCOPES.index)

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


def dump(node: Node) -> dict[str, Any]:
    """The node as a plain mapping with nothing but what differs from the defaults; `build` gives the same tree back."""
    out: dict[str, Any] = {"type": node.type}
    for key, setting in type(node).model_fields.items():
        value = getattr(node, key)
        if key == "type" or value == setting.default:
            continue
        if isinstance(value, list):
            out[key] = [dump(v) if isinstance(v, Node) else v for v in value]
        else:
            out[key] = dump(value) if isinstance(value, Node) else value
    return out


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
