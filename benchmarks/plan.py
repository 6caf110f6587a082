"""`taut plan`: step time, utilisation and staleness of the three modes on clusters that are not rented yet.

    taut plan run=RUN workers=1,2,4                          # seconds and lengths of a run of yours
    taut plan run=RUN measure=true workers=8,64              # its engine timed on this machine
    taut plan lengths=lognormal:4000,1,16384 prompts=128 samples=16 prompt=300 workers=8,64,512,4096 \\
        step_s=0.02 rollout_s=0.00015 slots=256 train_token_s=2e-5 trainers=8 load_s=4     # numbers of your own

A simulation: the pool's own schedule on a simulated clock (`plan_pool`), the pipeline of the modes above it (`plan_modes`).
Engines are alike and the verifier keeps up; trainer and workers have cores or GPUs of their own. benchmarks/results/plan.md
holds it against real runs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from benchmarks.arguments import as_pairs
from benchmarks.plan_costs import EngineSeconds, draw, groups_of, lognormal, measure, run_config, trainer_seconds
from benchmarks.plan_modes import Mode, Plan, Predicted, TrainerCost, run
from benchmarks.plan_pool import EngineCost
from benchmarks.tables import table as markdown
from rewards.errors import TautError
from rollout.choose import choose_engine
from rollout.engine import EngineConfig
from rollout.paths import locate
from rollout.schedule import Feed
from trainers.settings import parse_override, resolve, set_dotted

MODES: tuple[Mode, ...] = ("sync", "overlap", "async")


def _listed(value: Any) -> Any:
    return (
        [part for part in value.split(",") if part]
        if isinstance(value, str)
        else [value]
        if isinstance(value, int)
        else value
    )


class PlanConfig(BaseModel):
    """The settings of `taut plan`. What is not given is taken from the run, where one is named."""

    model_config = ConfigDict(extra="forbid")

    run: str | None = Field(None, description="folder of a run: its lengths, settings and seconds are the defaults")
    lengths: str | None = Field(None, description="a log to take groups from, or lognormal:MEAN,SIGMA,CAP")
    prompts: int | None = Field(None, ge=1, description="groups a step")
    samples: int | None = Field(None, ge=1, description="rollouts a group")
    prompt: int | None = Field(None, ge=0, description="tokens of a prompt, where the log does not say")
    workers: Annotated[list[int], BeforeValidator(_listed)] = Field([1, 2, 4, 8], description="such as 1,2,8")
    mode: Annotated[list[Literal["sync", "overlap", "async"]], BeforeValidator(_listed)] = list(MODES)
    max_staleness: int = Field(2, ge=0, description="of async: versions that a rollout may be behind")
    sampling_parts: int = Field(1, ge=1, description="of async: pieces of a step between which new weights are loaded")
    feed: Feed | None = Field(None, description="fixed or free, as rollout.feed")
    measure: bool = Field(False, description="time the run's engine on this machine")
    step_s: float | None = Field(None, ge=0, description="seconds of a decode step")
    rollout_s: float | None = Field(None, ge=0, description="seconds of it for each rollout that it holds")
    prompt_s: float | None = Field(None, ge=0, description="seconds to read a token of a prompt")
    call_s: float | None = Field(None, ge=0, description="seconds to hand a worker a piece of work")
    slots: int | None = Field(None, ge=1, description="rollouts that an engine holds side by side")
    train_fixed_s: float | None = Field(None, ge=0, description="seconds of a trainer's step beside its tokens")
    train_token_s: float | None = Field(
        None, ge=0, description="seconds to train on a token, prompts included, on one rank"
    )
    trainers: int = Field(1, ge=1, description="ranks that share a step's tokens")
    publish_s: float | None = Field(None, ge=0, description="seconds until the trainer has handed out new weights")
    load_s: float | None = Field(None, ge=0, description="seconds until every engine has loaded them")
    steps: int = Field(12, ge=4, description="simulated steps")
    seed: int = Field(0, ge=0)
    out: str | None = Field(None, description="also write the table to this .csv file")

    @model_validator(mode="after")
    def _enough(self) -> PlanConfig:
        if self.run is None:
            needed = ("lengths", "prompts", "samples", "step_s", "rollout_s", "train_token_s")
            if missing := [name for name in needed if getattr(self, name) is None]:
                raise ValueError(f"{', '.join(missing)}: not given, and there is no run=FOLDER to take them from")
            if self.measure:
                raise ValueError("measure=true: times the engine of a run; give run=FOLDER")
        elif not self.measure and (self.step_s is None or self.rollout_s is None):
            raise ValueError(
                "step_s, rollout_s: not given; measure=true times the run's engine on this machine, or give both in seconds"
            )
        if not self.workers or min(self.workers) < 1:
            raise ValueError(f"workers={self.workers}: give numbers of workers from 1 on, such as 1,2,8")
        return self


def plan(config: PlanConfig) -> tuple[list[tuple[Plan, Predicted]], list[str]]:
    """(every combination with what it comes to, lines that say what was assumed). Raises TautError."""
    notes: list[str] = []
    settings = run_config(Path(config.run)) if config.run else {}
    rollout = EngineConfig(**settings.get("rollout", {}))
    samples = config.samples or settings.get("sampling", {}).get("samples", 8)
    prompts = config.prompts or settings["prompts"]
    source = config.lengths or config.run or ""
    if source.startswith("lognormal:"):
        groups = lognormal(source.partition(":")[2], samples, config.prompt or 0, config.seed)
    else:
        groups = groups_of(Path(source), config.prompt)
    seconds = EngineSeconds(config.step_s or 0.0, config.rollout_s or 0.0, 0.0, 0.0, 0.0, False)
    if config.measure:
        longest = max(max(lengths) for _, lengths in groups)
        typical = sorted(prompt for prompt, _ in groups)[len(groups) // 2] or 32
        seconds = measure(rollout, settings["model"], typical, min(longest, 256), config.seed)
        notes.append(
            f"engine measured here: {seconds.step_s:.3g} s a step, {seconds.rollout_s:.3g} s a rollout in it, "
            f"{seconds.prompt_s:.3g} s a prompt token, {seconds.call_s:.3g} s a call; the fit is off by {seconds.error:.0%} at most"
        )
    elif settings:
        seconds = replace(seconds, batches=choose_engine(rollout, str(locate(settings["model"])))[0] == "transformers")
    fixed, token, publish, load = trainer_seconds(Path(config.run)) if config.run else (0.0, 0.0, 0.0, 0.0)
    engine = EngineCost(
        step_s=seconds.step_s if config.step_s is None else config.step_s,
        rollout_s=seconds.rollout_s if config.rollout_s is None else config.rollout_s,
        prompt_s=seconds.prompt_s if config.prompt_s is None else config.prompt_s,
        call_s=seconds.call_s if config.call_s is None else config.call_s,
        slots=config.slots or (rollout.batch_size if seconds.batches else rollout.max_num_seqs),
        batches=seconds.batches,
    )
    trainer = TrainerCost(
        fixed if config.train_fixed_s is None else config.train_fixed_s,
        token if config.train_token_s is None else config.train_token_s,
        publish if config.publish_s is None else config.publish_s,
        load if config.load_s is None else config.load_s,
        config.trainers,
    )
    notes.append(
        f"trainer: {trainer.fixed_s:.3g} s a step and {trainer.token_s:.3g} s a token on one rank; "
        f"{trainer.publish_s:.3g} s to hand out weights, {trainer.load_s:.3g} s to load them"
    )
    mean = sum(sum(lengths) for _, lengths in groups) / sum(len(lengths) for _, lengths in groups)
    notes.append(
        f"{prompts} x {samples} rollouts a step, {mean:.0f} tokens on average, of {len(groups)} groups ({source})"
    )
    rows = []
    for workers in config.workers:
        for mode in config.mode:
            of = Plan(
                mode, workers, engine, trainer, config.feed or rollout.feed, config.max_staleness,
                config.sampling_parts if mode == "async" else 1,
            )  # fmt: skip
            rows.append((of, run(of, lambda step: draw(groups, prompts, samples, config.seed, step), config.steps)))
    return rows, notes


def table(rows: Sequence[tuple[Plan, Predicted]]) -> str:
    """A row a combination; speed: against sync on as many workers."""
    sync = {of.workers: found.step_s for of, found in rows if of.mode == "sync"}
    lines = []
    for of, found in rows:
        speed = f"{sync[of.workers] / found.step_s:.2f}" if of.workers in sync else ""
        name = f"async K={of.max_staleness}" if of.mode == "async" else of.mode
        busy = f"{found.workers_busy:.0%}", f"{found.trainer_busy:.0%}"
        stale = f"{found.staleness:.2f}", str(found.staleness_max)
        lines.append(
            [f"{of.workers:,}", name, f"{found.step_s:,.3g}", speed, f"{found.tokens_per_s:,.0f}", *busy, *stale]
        )
    head = [
        "workers",
        "mode",
        "step, s",
        "speed",
        "tokens/s",
        "workers busy",
        "trainer busy",
        "versions behind",
        "most",
    ]
    return markdown([head, *lines])


def main(arguments: list[str]) -> int:
    """Print the table."""
    values: dict[str, Any] = {}
    for keys, value in (parse_override(a) for a in as_pairs(arguments)):
        set_dotted(values, keys, value)
    config: PlanConfig = resolve(PlanConfig, values, "taut plan")
    rows, notes = plan(config)
    print(table(rows))
    print("\n".join(notes))
    print(
        "speed: against sync with as many workers. Simulated; engines are alike, trainer and workers share no core or GPU."
    )
    if config.out:
        path = Path(config.out)
        if path.suffix != ".csv":
            raise TautError(f"out={path}: the table is written as .csv; give such a name")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["workers", "mode", "max_staleness", "feed", *asdict(rows[0][1])])
            writer.writerows([of.workers, of.mode, of.ahead, of.feed, *asdict(found).values()] for of, found in rows)
    return 0
