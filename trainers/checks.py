"""What is refused before anything heavy is loaded: settings that are each valid, but make no sense together; and the inversion
check of a configuration (`taut check`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rewards.batch import OPTIONAL
from rewards.constrained import Constrained
from rewards.errors import TautError
from rewards.gates import Keep
from rewards.inversion import Budgets, Finding, Modes, Witness, check
from rewards.progress import Progress
from rewards.schedule import at
from rewards.terms.correct import Correct
from rollout.length_controller import LengthController
from rollout.paths import locate
from rollout.plans import ModesPlan, RandomBudgetPlan
from rollout.problems import load_problems
from rollout.sampling import SamplingPlan

if TYPE_CHECKING:
    from trainers.config import TrainConfig

MEASURED = frozenset(c for c in OPTIONAL if "entropy_" in c or c == "mean_log_prob")  # by the policy pass
ALWAYS = MEASURED | {"format_ok", "tags", "tokens"}
PHASES = frozenset(c for c in OPTIONAL if c.endswith(("entropy_think", "entropy_answer")))
REMEDIES = {
    "mode": "use a plan that gives or reads modes: sampling={type: modes, ...}",
    "budget": "tell one in the prompt: sampling.budget=N, or sampling={type: random_budget, ...}; or set the reward's own",
    "reference_accuracy": "give reference=FILE, which `taut eval model=... data=... samples=8 reference=FILE` writes",
}
REMEDIES["reference_length"] = REMEDIES["reference_accuracy"]
CAPS = 256  # most caps of a step that are looked at, evenly apart
DIVIDES = ("grpo", "length_rank")  # advantages that divide by the std of a group


def refuse(config: TrainConfig) -> None:
    """Raises TautError with the reason and the remedy of all that stands against this configuration; with `strict` a witness
    of the inversion check does, too."""
    lines = list(reasons(config))
    if not lines and config.strict and isinstance(finding := inversion(config, effort=0.1, seconds=0.5), Witness):
        shown = str(finding).replace("\n", "\n  ")
        lines = [
            f"strict: a wrong rollout can outscore a correct one; change the reward, or leave strict out\n  {shown}"
        ]
    if lines:
        raise TautError("configuration:\n" + "\n".join(f"  {line}" for line in lines))


def reasons(config: TrainConfig) -> Iterator[str]:
    """What stands against a configuration, a line each; nothing when it can be run."""
    yield from ignored(config)
    yield from _lacking(config)
    yield from _modeless(config)
    yield from rescaled(config)
    yield from lone(config)
    yield from _out_of_mode(config)
    yield from _unused_fill(config)
    if config.spare_prompts and config.sampling_parts > 1:
        yield (
            f"spare_prompts={config.spare_prompts}: groups of a step compete, but sampling_parts={config.sampling_parts} asks for "
            "them in turn; set sampling_parts=1"
        )
    if config.cluster.address is not None and not config.rollout.workers and not config.trainer.ranks:
        yield (
            f"cluster={config.cluster.address}: nothing would run there; add rollout.workers=N or trainer.ranks=N, or leave it out"
        )
    if config.rollout.weights == "broadcast":
        yield from _no_broadcast(config)
    if config.rollout.sleep and config.mode != "sync":
        yield (
            f"rollout.sleep=true, mode={config.mode}: the engine samples while the trainer works, with no time to sleep; set "
            "mode=sync, or rollout.sleep=false"
        )
    if config.rollout.sleep and config.rollout.weights == "broadcast":
        yield (
            "rollout.sleep=true, rollout.weights=broadcast: NCCL does not connect a GPU with itself, and who sleeps shares the "
            "trainer's; set rollout.weights=store, or rollout.sleep=false"
        )


def _no_broadcast(config: TrainConfig) -> Iterator[str]:
    """Where weights cannot go from the trainer to all engines at one moment."""
    if not config.rollout.workers and not config.cluster.rollout.gpus:
        yield (
            "rollout.weights=broadcast: an engine in the trainer's process is handed its weights; add rollout.workers=N, or leave "
            "it out"
        )
    if config.trainer.ranks or config.cluster.trainer.gpus:
        yield (
            f"rollout.weights=broadcast, trainer.ranks={config.trainer.ranks}: the ranks put their weights into Ray's object store "
            "for the engines; set rollout.weights=store"
        )
    if config.in_flight:
        yield (
            "rollout.weights=broadcast, in_flight=true: each engine takes up new weights when it can, and a broadcast needs all at "
            "once; set rollout.weights=store, or in_flight=false"
        )


def ignored(config: TrainConfig) -> Iterator[str]:
    """A reward that the objective would not look at."""
    shaping = [path for path, node in config.reward.walk() if not isinstance(node, Correct | Keep)]
    if not config.objective.reads_advantage and shaping:
        yield (
            f"objective {config.objective.type}: looks at verdicts and not at advantages, so the reward {shaping[0]} would be "
            "ignored; set reward=correct (its length term is in the objective's own settings), or use an objective that "
            "reads advantages, such as clipped_token"
        )


def _lacking(config: TrainConfig) -> Iterator[str]:
    """Columns that a reward or the advantage reads and nothing in the run fills in."""
    given = ALWAYS | config.sampling.provides
    if config.reference is not None:
        given |= {"reference_accuracy", "reference_length"}
    readers: list[tuple[str, frozenset[str]]] = [(f"reward {p}", node.own_needs) for p, node in config.reward.walk()]
    readers.append((f"advantage {config.advantage.type}", config.advantage.needs))
    lacking = {column for _, needs in readers for column in needs - given}
    if lacking & {"reference_accuracy", "reference_length"}:
        lacking -= _columns_of_data(config)
    for who, needs in readers:
        for column in sorted(needs & lacking):
            remedy = REMEDIES.get(column, "use another reward or advantage")
            yield f"{who}: needs the column {column!r}, which nothing in this run fills in; {remedy}"


def _columns_of_data(config: TrainConfig) -> set[str]:
    """Columns that the problems' own file has beyond ours, as far as its first row tells."""
    try:
        (problem,) = load_problems(locate(config.data), 1, config.columns, "drop", vars(config.verifier))
    except TautError:  # said in its place, when the data is loaded
        return set()
    return {column for column, value in problem.extra.items() if value is not None}


def _modeless(config: TrainConfig) -> Iterator[str]:
    """Modes that are told apart by a name which the plan never gives."""
    plan = config.sampling
    if "mode" in plan.provides and not isinstance(plan, ModesPlan):
        return  # a plan of the user's own: what it gives is not known
    given = set()
    if isinstance(plan, ModesPlan):
        given = {*plan.read, plan.otherwise} if plan.read else {mode.name for mode in plan.modes}
    readers: list[tuple[str, frozenset[str]]] = [(f"objective {config.objective.type}", config.objective.reads_modes)]
    if given:  # without any, the column is lacking, which is said already
        readers = [(f"reward {path}", node.reads_modes) for path, node in config.reward.walk()] + readers
    for who, wanted in readers:
        if lacking := sorted(wanted - given):
            named = f"gives {', '.join(sorted(filter(None, given)))}" if given else "gives no modes"
            yield (
                f"{who}: goes by {' and '.join(f'mode {name!r}' for name in lacking)}, but sampling {named}; name one of "
                "sampling.modes (or of sampling.read) so"
            )


def rescaled(config: TrainConfig) -> Iterator[str]:
    """Constraints whose multipliers the advantage would undo."""
    constrained = [path for path, node in config.reward.walk() if isinstance(node, Constrained)]
    if constrained and config.advantage.type in DIVIDES:
        yield (
            f"advantage {config.advantage.type}: divides by the std of each group, which undoes the multipliers of the reward "
            f"{constrained[0]}; use advantage=raw (its parts are standardised already), or dr_grpo"
        )


def lone(config: TrainConfig) -> Iterator[str]:
    """Comparisons within groups of one."""
    if config.sampling.samples > 1:
        return
    remedy = "raise sampling.samples"
    for path, node in config.reward.walk():
        if node.own_scope == "group" and getattr(node, "over", "group") == "group":
            yield f"reward {path}: compares the rollouts of a problem, but sampling.samples is 1; {remedy}"
    advantage = config.advantage
    if advantage.grouped and getattr(advantage, "singleton", "zero") == "zero" and config.objective.reads_advantage:
        yield (
            f"advantage {advantage.type}: compares the rollouts of a problem, but sampling.samples is 1, so it would be 0 "
            f"everywhere; {remedy}, or use advantage=raw"
        )


def _out_of_mode(config: TrainConfig) -> Iterator[str]:
    """Settings of the asynchronous mode in another."""
    for name, usual in (("max_staleness", 1), ("sampling_parts", 1), ("in_flight", False)):
        if config.mode != "async" and (value := getattr(config, name)) != usual:
            yield f"{name}={value}: has no effect with mode={config.mode}; set mode=async, or leave it out"


def _unused_fill(config: TrainConfig) -> Iterator[str]:
    """Groups asked for in place of others that are trained on all the same."""
    if config.fill_rounds and not config.drop_zero_signal:
        yield f"fill_rounds={config.fill_rounds}: replaces groups without signal; set drop_zero_signal=true as well"


def uncorrected(config: TrainConfig) -> str | None:
    """A warning where rollouts are older than the policy that is trained on them, and the objective takes no notice."""
    late = config.mode == "overlap" or (config.mode == "async" and config.max_staleness > 0)
    if not late or "engine_log_prob" in config.objective.needs:
        return None
    return (
        f"mode={config.mode}: rollouts come from older policies, and objective {config.objective.type} does not correct for "
        "that; set objective.importance=truncate (clipped_token)"
    )


def refuse_without_think_end(config: TrainConfig, think_end: int | None) -> None:
    """Raises TautError where entropies by phase are read and the tokenizer has no single token `</think>` to tell phases apart."""
    who = [f"reward {path}" for path, node in config.reward.walk() if node.own_needs & PHASES]
    who += [f"advantage {config.advantage.type}"] if config.advantage.needs & PHASES else []
    if who and think_end is None:
        raise TautError(
            f"{who[0]}: reads the entropy of thinking and answer apart, but the tokenizer of model={config.model} has no token "
            "</think>; use a model that has one, or another reward"
        )


# ---- the inversion check of a configuration --------------------------------------------------------------------------


def inversion(config: TrainConfig, first: int = 0, *, effort: float = 1.0, seconds: float | None = None) -> Finding:
    """Whether a wrong rollout can outscore a correct one of its group from step `first` of this run on (`rewards.inversion`)."""
    plan = config.sampling
    return check(
        config.reward,
        0,
        group_sizes=range(2, plan.samples + 1),
        seed=config.seed,
        effort=effort,
        seconds=seconds,
        places=list(_places(config, min(first, config.steps - 1))),
        modes=_modes(plan),
        budgets=_budgets(plan),
    )


def _places(config: TrainConfig, first: int) -> Iterator[Progress]:
    """Every step with every cap that it may have."""
    plan = config.sampling
    for step in range(first, config.steps):
        cap = plan.cap(Progress(step, config.steps, 1, config.seed))
        caps = [cap]
        if isinstance(plan, LengthController) and plan.strategy.startswith("monitor"):
            lowest = max(plan.min_tokens, cap - (step - first) * plan.reduction)
            caps = [*range(cap, lowest, -plan.reduction), lowest]
            caps = caps[:: -(-len(caps) // CAPS)] + caps[-1:] if len(caps) > CAPS else caps
        for cap in caps:
            yield Progress(step, config.steps, cap, config.seed)


def _modes(plan: SamplingPlan) -> Modes | None:
    if not isinstance(plan, ModesPlan) or not plan.provides:
        return None

    def modes(place: Progress) -> list[tuple[str | None, int]]:
        asked = [(m.name, int(at(plan.max_tokens if m.cap is None else m.cap, place))) for m in plan.modes]
        if not plan.read:
            return list(asked)
        caps = sorted({cap for _, cap in asked} or {plan.cap(place)})
        return [(name, cap) for name in (*plan.read, plan.otherwise) for cap in caps]

    return modes


def _budgets(plan: SamplingPlan) -> Budgets | None:
    def budgets(place: Progress) -> tuple[int, int]:
        if isinstance(plan, RandomBudgetPlan):
            return int(at(plan.low, place)), int(at(plan.high, place))
        told = plan.told_budget(place) or 0
        return told, told

    return budgets if "budget" in plan.provides else None


def main(arguments: list[str]) -> int:
    """`taut check [recipe=NAME] [key=value ...] [--effort N]`: prints the finding; 1 where it is a witness, else 0."""
    from trainers.settings import load_config

    effort = 1.0
    if "--effort" in arguments:
        i = arguments.index("--effort")
        try:
            effort = float(arguments[i + 1])
        except (IndexError, ValueError):
            raise TautError(f"{' '.join(arguments[i:])!r}: give --effort a number, 1 as usual") from None
        arguments = arguments[:i] + arguments[i + 2 :]
    config = load_config(arguments, refused=False)
    finding = inversion(config, effort=effort)
    print(finding)
    for reason in reasons(config):
        print(f"taut train would refuse this configuration: {reason}", file=sys.stderr)
    return 1 if isinstance(finding, Witness) else 0
