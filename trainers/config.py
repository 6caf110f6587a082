"""The configuration of a run: pydantic models, those of the parts beside what they configure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewards.base import AnyReward
from rewards.errors import TautError
from rewards.verifier.extract import Mode
from rewards.verifier.verifier import check_settings
from rollout.cluster import ClusterConfig
from rollout.engine import EngineConfig
from rollout.sampling import AnyPlan
from trainers.advantages.base import AnyAdvantage
from trainers.lora import LoraConfig
from trainers.objectives.base import AnyObjective
from trainers.optim import OptimConfig

PIECES = {  # so that `sampling.samples=4` alone is enough
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
    wrong_up: float = Field(default=0.35, description="wrong rollouts with a positive advantage")
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
    reward: AnyReward = Field(default_factory=lambda: PIECES["reward"], validate_default=True)
    advantage: AnyAdvantage = Field(default_factory=lambda: PIECES["advantage"], validate_default=True)
    objective: AnyObjective = Field(default_factory=lambda: PIECES["objective"], validate_default=True)
    sampling: AnyPlan = Field(default_factory=lambda: PIECES["sampling"], validate_default=True)
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
