"""The configuration of a run: pydantic models beside what they configure, YAML files, dotted overrides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rewards.base import AnyReward
from rewards.errors import TautError
from rewards.registry import Node, describe, dump, nearest
from rewards.verifier.extract import Mode
from rewards.verifier.verifier import check_settings
from rollout.cluster import ClusterConfig
from rollout.engine import EngineConfig
from rollout.sampling import AnyPlan
from trainers.advantages.base import AnyAdvantage
from trainers.checks import refuse
from trainers.lora import LoraConfig
from trainers.objectives.base import AnyObjective
from trainers.optim import OptimConfig

_PIECES = {  # so that `sampling.samples=4` alone is enough
    "reward": {"type": "correct"},
    "advantage": {"type": "grpo"},
    "objective": {"type": "clipped_token"},
    "sampling": {"type": "group"},
}


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PromptConfig(_Config):
    """How a problem becomes a prompt. `template` has `{problem}` and, for methods that tell a budget, `{budget}`; None: the
    problem and a request to box the answer. It becomes the user's turn of the tokenizer's chat template, where it has one."""

    template: str | None = None
    system: str | None = None


class DifficultyConfig(_Config):
    """Train on the problems whose reference accuracy lies in [low, high]: neither hopeless nor solved. The defaults are those
    of GRPO-lambda (2505.18086), which keeps what the base model answers right 2 to 6 times of 8."""

    low: float = Field(default=0.25, ge=0, le=1)
    high: float = Field(default=0.75, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> DifficultyConfig:
        if self.low > self.high:
            raise ValueError(f"low={self.low:g} is more than high={self.high:g}; exchange them")
        return self


class VerifierConfig(_Config):
    """Verification: killable processes for what needs algebra, their deadline and memory, and what counts as an answer.
    `verifier: module:function` alone names a judge of your own (docs/judge.md)."""

    workers: int = Field(default=1, ge=1)
    timeout_s: float = Field(default=5.0, gt=0)
    memory_gib: float = Field(default=2.0, gt=0)
    arithmetic: bool = Field(
        default=True, description="437+3 is an answer for 440; say no where the question is itself such arithmetic"
    )
    extraction: Mode = Field(default="boxed", description="where a response's answer stands")
    judge: str | None = Field(default=None, description="module:function that decides in place of the comparison")
    judge_reads: Literal["answer", "response"] = Field(
        default="answer", description="what a judge gets: the extracted answer, or the response after its thinking"
    )
    memo: int = Field(default=200_000, ge=0, description="verdicts remembered, so that the same answer is judged once")
    audit: int = Field(
        default=4, ge=0, description="verdicts of the fast path a step that math-verify checks; they never change"
    )

    @model_validator(mode="before")
    @classmethod
    def _judge_alone(cls, value: Any) -> Any:
        return {"judge": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> VerifierConfig:
        try:
            check_settings(vars(self))
        except TautError as error:
            raise ValueError(str(error)) from None
        return self


class TrainerConfig(_Config):
    """Where the policy is trained: in this process, or spread over ranks with FSDP2 (`trainers.ranks`)."""

    ranks: int = Field(
        default=0, ge=0, description="0: in this process; N: N Ray actors that share the model, a GPU or a core each"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="keep only each layer's input for the backward pass: less memory, a third more work"
    )
    deadline_s: float = Field(default=600.0, gt=0, description="longest that the ranks may be without any progress")


class HeldoutConfig(_Config):
    """Tests during training, on problems that are not trained on, at the training temperature."""

    data: str | None = Field(default=None, description="JSONL or parquet; None: no held-out tests")
    columns: dict[str, str] | None = Field(default=None, description="as `columns` of the run; None: the run's")
    every: int = Field(default=20, ge=1, description="steps between tests; the last step is always tested")
    problems: int | None = Field(default=None, ge=1, description="the first so many problems of the file; None: all")
    samples: int = Field(default=1, ge=1)


class CheckpointConfig(_Config):
    """When to save, and how many to keep."""

    every: int = Field(default=10, ge=1)
    keep: int = Field(default=2, ge=1)


class LogConfig(_Config):
    """Where a step is written besides metrics.jsonl and the rollout log."""

    sinks: list[Literal["wandb", "tensorboard"]] = []
    rollouts: bool = True
    project: str = "taut"


class AlarmConfig(_Config):
    """Thresholds of the alarms; shares of the rollouts or groups, lengths relative to the first three steps' mean.

    The first four are of means over three steps. collapse and wrong_up were set from what the runs of the embedded benchmark showed
    (benchmarks/results/table/warning.md).
    """

    collapse: float = Field(default=0.4, description="mean tokens below this share of the start")
    explosion: float = Field(default=3.0, description="mean tokens above this multiple of the start")
    wrong_up: float = Field(default=0.5, description="wrong rollouts with a positive advantage")
    no_signal: float = Field(default=0.95, description="groups in which no rollout has an advantage")
    truncation: float = 0.9
    empty: float = 0.5
    unknown: float = 0.05


class TrainConfig(_Config):
    """One run of `taut train`: recipe = reward + advantage + objective + sampling + optimiser, and what it is run on."""

    model: str = Field(description="a Hugging Face folder, or package:folder")
    data: str = Field(description="JSONL or parquet with id, problem, answer, or package:file")
    columns: dict[str, str] = Field(
        default={}, description="our column names and the file's, where they differ: {problem: question}"
    )
    unverifiable: Literal["refuse", "drop"] = Field(
        default="refuse", description="problems whose gold answer the verifier cannot parse"
    )
    reference: str | None = Field(
        default=None, description="accuracy and length by problem of a reference model: taut eval reference=FILE"
    )
    difficulty: DifficultyConfig | None = Field(
        default=None, description="train on problems of this reference accuracy only; None: on all"
    )
    out: str = Field(default="runs/train", description="the run folder; must not hold a run yet")
    steps: int = Field(default=100, ge=1)
    prompts: int = Field(default=16, ge=1, description="problems a step")
    spare_prompts: int = Field(
        default=0,
        ge=0,
        description="problems asked for beyond `prompts`; a step closes with the first groups that are whole (docs/modes.md)",
    )
    seed: int = Field(default=0, ge=0)
    mode: Literal["sync", "overlap", "async"] = Field(
        default="sync",
        description="when a step is sampled: in turn; while the step before it trains; or up to max_staleness steps ahead",
    )
    max_staleness: int = Field(
        default=1, ge=0, description="mode=async: most policy versions that a token may be behind when it is trained on"
    )
    sampling_parts: int = Field(
        default=1, ge=1, description="mode=async: parts of a step that are sampled in turn, by the newest weights each"
    )
    in_flight: bool = Field(
        default=False, description="mode=async: new weights also reach rollouts that are under way, between two tokens"
    )
    cluster: ClusterConfig = ClusterConfig()
    strict: bool = Field(
        default=False, description="refuse a reward for which `taut check` finds a wrong rollout ahead of a correct one"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    reward: AnyReward = Field(default_factory=lambda: _PIECES["reward"], validate_default=True)
    advantage: AnyAdvantage = Field(default_factory=lambda: _PIECES["advantage"], validate_default=True)
    objective: AnyObjective = Field(default_factory=lambda: _PIECES["objective"], validate_default=True)
    sampling: AnyPlan = Field(default_factory=lambda: _PIECES["sampling"], validate_default=True)
    prompt: PromptConfig = PromptConfig()
    rollout: EngineConfig = EngineConfig()
    verifier: VerifierConfig = VerifierConfig()
    optim: OptimConfig = OptimConfig()
    trainer: TrainerConfig = TrainerConfig()
    lora: LoraConfig | None = Field(
        default=None, description="train small factors beside the weights; None: the weights"
    )
    mini_batches: int = Field(default=1, ge=1, description="optimiser updates a step; groups stay whole")
    micro_tokens: int = Field(default=32768, ge=1, description="most padded tokens in one forward pass")
    drop_zero_signal: bool = Field(
        False, description="leave out groups whose verdicts are all equal (raw verdicts, never rewards)"
    )
    fill_rounds: int = Field(
        default=0,
        ge=0,
        description="with drop_zero_signal: how often a step asks for further problems in place of groups without signal",
    )
    kl_reference: str | None = Field(
        default=None, description="model folder for the KL term; None: the starting weights"
    )
    heldout: HeldoutConfig = HeldoutConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    alarms: AlarmConfig = AlarmConfig()

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.difficulty is not None and self.reference is None:
            raise ValueError(
                "difficulty: needs the accuracy by problem; give reference=FILE, which "
                "`taut eval model=... data=... samples=8 reference=FILE` writes"
            )
        if (gpus := self.cluster.rollout.gpus) is not None:
            workers, rest = divmod(gpus, self.rollout.tensor_parallel)
            if rest or self.rollout.workers not in (0, workers):
                raise ValueError(
                    f"cluster.rollout.gpus={gpus}: with rollout.tensor_parallel={self.rollout.tensor_parallel} that is "
                    f"{gpus / self.rollout.tensor_parallel:g} workers, rollout.workers is {self.rollout.workers}; give a multiple, "
                    "and leave rollout.workers out"
                )
            self.rollout = self.rollout.model_copy(update={"workers": workers})
        if (gpus := self.cluster.trainer.gpus) is not None:
            if self.trainer.ranks not in (0, gpus):
                raise ValueError(
                    f"cluster.trainer.gpus={gpus}: is a rank each, trainer.ranks is {self.trainer.ranks}; leave one of them out"
                )
            self.trainer = self.trainer.model_copy(update={"ranks": gpus})
        return self


def to_mapping(value: Any) -> Any:
    """A config as plain mappings: every setting of plain models, only what differs from the defaults of reward nodes."""
    if isinstance(value, Node):
        return dump(value)
    if isinstance(value, BaseModel):
        return {key: to_mapping(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, dict):
        return {key: to_mapping(v) for key, v in value.items()}
    return [to_mapping(v) for v in value] if isinstance(value, list | tuple) else value


def to_yaml(config: BaseModel) -> str:
    """The resolved config as YAML; `load_config` of it gives an equal config."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises TautError naming the file and the line."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TautError(f"{path}: no such file; give a YAML file or a recipe name") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TautError(f"{path}: not valid YAML ({error}); mend the file") from error
    if not isinstance(value, dict):
        raise TautError(f"{path}: holds {type(value).__name__}, expected `key: value` lines")
    return value


def recipe(name: str) -> dict[str, Any]:
    """A recipe by name (trainers/recipes) or by path."""
    folder = Path(str(resources.files("trainers"))) / "recipes"
    if name.endswith((".yaml", ".yml")):
        return read_yaml(Path(name))
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise TautError(f"recipe={name}: unknown; {nearest(name, recipes())}, or give a .yaml file")
    return read_yaml(path)


def recipes() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(p.stem for p in (Path(str(resources.files("trainers"))) / "recipes").glob("*.yaml"))


def parse_override(argument: str) -> tuple[list[str], Any]:
    """`a.b=1` -> (["a", "b"], 1); the value is read as YAML."""
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise TautError(f"{argument!r}: expected key=value, such as steps=100 or reward.target=4096")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise TautError(f"{argument!r}: the value is not valid YAML ({error})") from error
    return key.split("."), value


def merge(base: Any, over: Any) -> Any:
    """`over` laid on `base`: mappings are merged key by key, but one with another `type` replaces the whole."""
    if (
        not isinstance(base, dict)
        or not isinstance(over, dict)
        or over.get("type", base.get("type")) != base.get("type")
    ):
        return over
    return base | {key: merge(base[key], value) if key in base else value for key, value in over.items()}


def set_dotted(config: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set config[k1][k2]... = value; list elements by number; a name given for a piece stands for {type: name}."""
    at: Any = config
    for i, key in enumerate(keys[:-1]):
        place = ".".join(keys[: i + 1])
        if isinstance(at, list):
            at = at[_index(at, key, place)]
            continue
        if isinstance(at.get(key), str):
            at[key] = {"type": at[key]}
        at = at.setdefault(key, {})
        if not isinstance(at, dict | list):
            raise TautError(f"{place}: is {at!r}, so it has no {keys[i + 1]!r} inside")
    if isinstance(at, list):
        at[_index(at, keys[-1], ".".join(keys))] = value
    else:
        at[keys[-1]] = value


def _index(items: list[Any], key: str, place: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise TautError(f"{place}: {key!r} is no position in a list of {len(items)}; use 0 to {len(items) - 1}")
    return int(key)


def resolve(model: type[BaseModel], values: dict[str, Any], source: str) -> Any:
    """Validate. Raises TautError with one line an error: place, what is wrong, value, nearest right key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            place = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                lines.append(f"{place}: unknown key; {nearest(str(item['loc'][-1]), _keys(model, item['loc'][:-1]))}")
            elif item["type"] == "missing":
                lines.append(f"{place}: missing; give {place}=...")
            else:
                given = "" if item["type"] == "value_error" else f", got {json.dumps(item['input'], default=str)}"
                message = item["msg"].removeprefix("Value error, ") + given
                lines.append(f"{place}: {message}" if place else message)
        raise TautError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _keys(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """The keys of the section at `loc`, where pydantic also puts list positions, keys of mappings and members of unions."""
    kinds: list[Any] = [model]
    for part in loc:
        members = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        inside = [k.model_fields[part].annotation for k in members if part in k.model_fields]
        if not inside:
            inside = [k for k in members if k.__name__ == part] or [a for k in kinds for a in get_args(k)[-1:]]
        kinds = [each for k in inside for each in _members(k)]
    sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    return list(dict.fromkeys(key for section in sections for key in section.model_fields))


def _members(annotation: Any) -> list[Any]:
    """The types of a union, or the type itself, without annotations."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    return [annotation]


def load_config(arguments: Sequence[str], default_recipe: str = "overthinker", *, refused: bool = True) -> TrainConfig:
    """The config of `taut train ARGUMENTS`: class defaults, then the recipe, then the overrides from left to right.

    Without `model=` the embedded benchmark's recipe is the base. `recipe=NAME|FILE` may be given several times: later lie
    on earlier. Raises TautError, also for settings that do not go together (`trainers.checks`; not with refused=False).
    """
    pairs = [parse_override(a) for a in arguments]
    values: dict[str, Any] = deepcopy(_PIECES)
    if not any(keys == ["model"] for keys, _ in pairs):
        values = merge(values, recipe(default_recipe))
    for keys, value in pairs:
        if keys == ["recipe"]:
            values = merge(values, recipe(str(value)))
    for keys, value in pairs:
        if keys != ["recipe"]:
            set_dotted(values, keys, value)
    config = resolve(TrainConfig, values, "configuration")
    if refused:
        refuse(config)
    return config


__all__ = [
    "TrainConfig",
    "describe",
    "load_config",
    "merge",
    "parse_override",
    "read_yaml",
    "recipe",
    "recipes",
    "resolve",
    "to_yaml",
]
