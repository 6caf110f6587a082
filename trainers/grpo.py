"""GRPO: sample, verify, reward, advantage, update, sync, log. One step is `Trainer.step`; read it top to bottom.

`trainers/pipeline.py` says when a step is sampled: in turn (mode=sync), or ahead of training. Left out on purpose: reward models.

    taut train                                            # the embedded benchmark
    taut train model=FOLDER data=FILE.jsonl recipe=laser  # a real model
    taut train mode=overlap rollout.workers=1 objective.importance=truncate  # sample the next step while this one trains
    taut train resume=runs/train
    taut train resume=runs/train data=MORE.jsonl steps=200  # go on with more problems; state by problem id is kept
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards.inversion import Witness
from rewards.progress import Progress
from rewards.verifier.audit import finish_audit
from rollout.log import write_rollouts
from rollout.sampler import heldout_requests, to_batch
from rollout.seeds import draw_order, generator
from rollout.types import Request, Rollout
from trainers import checkpoint
from trainers.assemble import assemble, progress_at
from trainers.checks import inversion, uncorrected
from trainers.console import Display
from trainers.fill import fill_requests
from trainers.interrupt import Abandoned, Interruptible
from trainers.monitor import (
    alarms,
    begin_step_audit,
    heldout_metrics,
    log_disagreements,
    rollout_metrics,
    score_metrics,
    verify_metrics,
)
from trainers.pending import read_pending, write_pending
from trainers.pipeline import Pipeline, refuse_shared_vllm, staleness
from trainers.run import Run
from trainers.settings import to_mapping
from trainers.shaping import shape
from trainers.sinks import numbers, open_sinks
from trainers.update import Scored


class Trainer:
    """A run and all that takes part in it. Rewards and plans keep their own state; the trainer saves and restores it."""

    def __init__(self, run: Run, events: Sequence[dict[str, Any]] = ()) -> None:
        """events: what befell the run before, for the row of its next step."""
        self._events = list(events)
        self.run, self.config, self.step_number = run, run.config, run.step
        refuse_shared_vllm(self.config)
        parts = assemble(run)
        self.problems, self.heldout, self.warnings = parts.problems, parts.heldout, parts.warnings
        self.loaded, self.digest = parts.loaded, parts.digest
        self.tokenizer, self.learner = parts.tokenizer, parts.learner
        self.sampler, self.engine = parts.sampler, parts.sampler.engine
        mode, temperature = self.config.mode, self.config.rollout.temperature
        self.patience = 20.0  # seconds that what is being sampled may take when the run is closed
        self._untouched: dict[str, Any] | None = None  # states at the start of a step that has not trained yet
        self.ahead = {"sync": 0, "overlap": 1, "async": self.config.max_staleness}[mode]
        if self.ahead:
            self.engine.stand_aside()
        self.pipeline = Pipeline(
            self.sampler,
            parts.canary,
            temperature,
            threaded=mode != "sync",
            pinned=mode != "async",
            parts=self.config.sampling_parts,
            in_flight=self.config.in_flight,
        )

    def train(self) -> str:
        """Run to the last step; returns the final state, "finished" or "interrupted". Always leaves a resumable folder."""
        config, run = self.config, self.run
        sinks = open_sinks(config.log.sinks, run.path, config.log.project, to_mapping(config))
        run.status("running")
        with Display(config.steps, self.step_number) as self.display, Interruptible(self.display.say) as stop:
            self.display.say(self._banner())
            for warning in self.warnings:
                self.display.warn(warning)
            if late := uncorrected(config):
                self.display.warn(late)
            finding = inversion(config, self.step_number, effort=0.1, seconds=0.5)
            say = self.display.warn if isinstance(finding, Witness) else self.display.say
            say(f"inversion check: {finding}")
            with self.display.phase("sync"):
                self.pipeline.publish(self.learner, self.step_number)
            self._take_back()
            while self.step_number < config.steps and not stop.asked:
                start = time.perf_counter()
                try:
                    row, rollouts = self.step(stop)
                    self.step_number += 1
                    last = self.step_number == config.steps
                    if self.heldout and (last or self.step_number % config.heldout.every == 0):
                        with stop.sampling():
                            row |= self.test()
                except Abandoned:
                    self._give_up()
                    break
                row = {"step": self.step_number, **row}
                row["alarms"] = alarms(row, run.rows, config.alarms)
                row |= self.display.take_seconds()
                row["time/step"] = round(time.perf_counter() - start, 4)
                row["time/tokens_per_second"] = round(
                    sum(len(r.token_ids) for r in rollouts) / max(row["time/engine"], 1e-9), 1
                )
                run.log(row)
                self.display.step(row, row["alarms"])
                for sink in sinks:
                    sink.log(numbers(row), self.step_number)
                if last or stop.asked or self.step_number % config.checkpoint.every == 0:
                    self.save()
        for sink in sinks:
            sink.close()
        if self.step_number < config.steps:
            run.status("interrupted", step=self.step_number)
            return "interrupted"
        self._export()
        run.status("finished", step=self.step_number)
        return "finished"

    def step(self, stop: Interruptible) -> tuple[dict[str, Any], list[Rollout]]:
        """One step of GRPO; the row of metrics and the rollouts. Raises Abandoned where it is given up."""
        config, phase = self.config, self.display.phase
        progress = self.progress()
        reward, plan = config.reward, config.sampling
        self._untouched = {"reward": reward.state_dict(), "sampling": plan.state_dict()}
        with stop.sampling():
            self._monitor(progress)
        state = {"reward": reward.state_dict(), "sampling": plan.state_dict()}

        verifier = self.sampler.verifier
        with phase("sample"), stop.sampling():  # or wait for what was sampled while earlier steps trained
            self._ask()
            sampled = self.pipeline.take(progress.step)
            rollouts = self._filled(sampled.rollouts, progress)
            plan.read_modes(rollouts)
            begun = begin_step_audit(verifier, rollouts, config.seed, progress.step + 1)
        self._untouched = None
        age = staleness(rollouts, progress.step)
        assert age["staleness_max"] <= self.ahead, f"rollouts of step {progress.step} are too old: {age}"
        self.pipeline.rest()
        with phase("policy"):  # before the reward, for rewards that read the policy's entropy
            columns, old = self.learner.measure(rollouts, reward.needs | config.advantage.needs)
        batch = to_batch(rollouts, **columns)
        with phase("reward"):
            scores, advantage = shape(config, batch, progress)
        with phase("update"):
            updated = self.learner.update(Scored(rollouts, batch, scores, advantage, old), progress.step)
        reward.observe(batch, progress)
        plan.observe(batch, progress)
        with phase("sync"):
            self.pipeline.publish(self.learner, progress.step + 1)

        with phase("log"):
            row = rollout_metrics(batch, rollouts) | score_metrics(batch, scores, advantage) | updated
            audit = finish_audit(begun)
            row |= verify_metrics(rollouts, sampled.counts, audit) | age
            log_disagreements(self.run.path / "verifier_audit.jsonl", progress.step + 1, audit)
            row |= {
                "max_tokens": progress.max_length,
                "sync_gap": sampled.gap,
                "events": self._events + self.engine.take_events(),
            }
            if self.config.spare_prompts:
                row |= {"given_up": len(sampled.given_up), "given_up_problems": list(sampled.given_up)}
            self._events = []
            row |= {"time/engine": round(sampled.seconds, 4), "time/verify": round(sampled.verify_seconds, 4)}
            seconds, size = sampled.loaded
            row |= {
                "time/load": round(seconds, 4),
                "time/load_mib_per_second": round(size / 2**20 / max(seconds, 1e-9), 1),
            }
            if config.log.rollouts:
                meta = {
                    "step": progress.step + 1,
                    "progress": vars(progress),
                    "state": state,
                    "config": to_mapping(config),
                }
                write_rollouts(
                    self.run.path / f"rollouts/step-{progress.step + 1:06d}.parquet",
                    rollouts,
                    batch,
                    meta,
                    scores,
                    advantage,
                )
        return row, rollouts

    def _give_up(self) -> None:
        """Stop in mid-sampling. Before a step's update nothing but its reward's watch has changed: undo that, and save. A held-out
        test comes after it: the step is done again from the last checkpoint; so it is in `overlap`, where the weights that the
        step was sampled by are gone."""
        self.patience = 2.0
        self.step_number -= self._untouched is None
        if self._untouched is None or self.config.mode == "overlap":
            self.display.say("given up; it goes on from the last checkpoint")
            return
        self.config.reward.load_state_dict(self._untouched["reward"])
        self.config.sampling.load_state_dict(self._untouched["sampling"])
        self.save()

    def progress(self) -> Progress:
        """Where the run stands, as rewards and plans see it."""
        return progress_at(self.step_number, self.config)

    def _filled(self, rollouts: list[Rollout], progress: Progress) -> list[Rollout]:
        """The step's rollouts and, where asked to, further groups in place of those without signal, of the newest weights."""
        for turn in range(self.config.fill_rounds):
            render = self.sampler.template.render
            if not (more := fill_requests(self.config, self.problems, render, progress, rollouts, turn)):
                break
            rollouts = rollouts + self.pipeline.run(more)
        return rollouts

    def _ask(self) -> None:
        """Have every step sampled that may be by now: up to `ahead` steps after this one, which are not asked for yet."""
        for step in range(self.step_number, min(self.step_number + self.ahead + 1, self.config.steps)):
            if step not in self.pipeline.asked():
                self.pipeline.submit(step, self.requests(progress_at(step, self.config)), self._wanted)

    def _take_back(self) -> None:
        """What the checkpoint holds of steps that were sampled ahead."""
        if self.run.source is not None and not self.run.new_problems:
            for pending in read_pending(self.run.source / "pending.parquet", self.problems):
                self.pipeline.restore(*pending, self._wanted)

    @property
    def _wanted(self) -> int | None:
        """Groups of a step that will do, where more are asked for."""
        return self.config.prompts if self.config.spare_prompts else None

    def requests(self, progress: Progress) -> list[Request]:
        """The step's requests: the next problems of the shuffled epochs, through the sampling plan."""
        config = self.config
        count = config.prompts + config.spare_prompts
        rows = draw_order(len(self.problems), count, progress.step * count, config.seed)
        problems = [self.problems[i] for i in rows]
        return config.sampling.requests(
            problems, self.sampler.template.render, progress, generator(config.seed, "plan", progress.step)
        )

    def test(self) -> dict[str, Any]:
        """Held-out accuracy and tokens at the training temperature, same draws at every test, budget and cap of the step just
        trained; written to heldout/."""
        config = self.config
        progress = progress_at(self.step_number - 1, config)  # a schedule may leap at a step that is never trained
        with self.display.phase("test"):
            requests = heldout_requests(
                self.heldout,
                self.sampler.template,
                config.heldout.samples,
                progress.max_length,
                config.sampling.told_budget(progress),
            )
            rollouts = self.pipeline.run(requests)
            config.sampling.read_modes(rollouts)
            batch = to_batch(rollouts)
            path = self.run.path / f"heldout/step-{self.step_number:06d}.parquet"
            write_rollouts(path, rollouts, batch, {"step": self.step_number, "temperature": config.rollout.temperature})
        return heldout_metrics(batch, rollouts)

    def save(self) -> None:
        """Write a checkpoint of everything that the next steps depend on."""
        config = self.config
        state = {
            "step": self.step_number,
            "problems": self.digest,
            "reward": config.reward.state_dict(),
            "sampling": config.sampling.state_dict(),
            "config": to_mapping(config),
        }

        def fill(folder: Path) -> None:
            self.learner.save(folder, self.tokenizer)
            if pending := self.pipeline.pending():
                write_pending(folder / "pending.parquet", pending)

        with self.display.phase("checkpoint"):
            checkpoint.save(self.run.path, self.step_number, state, fill, config.checkpoint.keep)

    def close(self) -> None:
        """Stop sampling, engine, verifier and learner."""
        self.pipeline.close(self.patience)
        self.engine.close()
        self.sampler.verifier.close()
        self.learner.close()

    def _monitor(self, progress: Progress) -> None:
        """Sample what the reward wants to watch beside training, and let it observe."""
        wanted = self.config.reward.monitor()
        if wanted is None or progress.step % wanted.every:
            return
        with self.display.phase("monitor"):
            order = draw_order(len(self.problems), min(wanted.problems, len(self.problems)), 0, self.config.seed)
            problems, first = [self.problems[i] for i in order], progress.step * wanted.problems * wanted.samples
            budget, template = self.config.sampling.told_budget(progress), self.sampler.template
            requests = [
                Request(
                    p, g, first + g * wanted.samples + k, prompt, progress.max_length, budget=budget, origin="monitor"
                )
                for g, p in enumerate(problems)
                for prompt in [template.render(p, budget)]
                for k in range(wanted.samples)
            ]
            rollouts = self.pipeline.run(requests)
            self.config.sampling.read_modes(rollouts)
            self.config.reward.observe(to_batch(rollouts), progress)

    def _export(self) -> None:
        """RUN/model: the last weights as a Hugging Face folder, whole or not at all."""
        final, temporary = self.run.path / "model", self.run.path / ".model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.learner.export(temporary, self.tokenizer)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def _banner(self) -> str:
        config, size = self.config, self.learner.parameters
        where = f"from step {self.step_number}" if self.step_number else "from the start"
        kept = ""
        if config.difficulty is not None:
            kept = f" of {self.loaded} (reference accuracy {config.difficulty.low:g} to {config.difficulty.high:g})"
        return (
            f"{config.model}: {size / 1e6:.2f} M parameters; {len(self.problems)}{kept} problems, {len(self.heldout)} held out; "
            f"engine {self.engine.name}; {config.prompts} x {config.sampling.samples} rollouts a step; {config.out} {where}"
        )
