"""GRPO: sample, verify, reward, advantage, update, sync, log. One step is `Trainer.step`; read it top to bottom.

Left out on purpose: asynchronous rollouts, sharded training (the policy fits on one device), reward models.

    taut train                                            # the embedded benchmark
    taut train model=FOLDER data=FILE.jsonl recipe=laser  # a real model
    taut train resume=runs/train
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch

from rewards.base import Scores
from rewards.batch import Batch
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.verifier import Verifier
from rollout.engine import make_engine
from rollout.log import write_rollouts
from rollout.paths import locate
from rollout.problems import load_problems
from rollout.prompts import PromptTemplate, load_tokenizer, stop_ids
from rollout.sampler import Sampler, heldout_requests, to_batch
from rollout.seeds import draw_order, generator
from rollout.sync import Canary, sync
from rollout.types import Request, Rollout
from trainers import checkpoint
from trainers.config import to_mapping
from trainers.console import Display
from trainers.monitor import alarms, rollout_metrics, score_metrics, zero_signal
from trainers.optim import make_optimizer
from trainers.policy import Policy
from trainers.run import Run
from trainers.sinks import numbers, open_sinks
from trainers.update import Scored, Updater


class Trainer:
    """A run and all that takes part in it. Rewards and plans keep their own state; the trainer saves and restores it."""

    def __init__(self, run: Run) -> None:
        config = run.config
        self.run, self.config, self.step_number, self.stop_asked = run, config, run.step, False
        torch.manual_seed(config.seed)  # nothing of ours draws from torch; a model or a plug-in might
        self.problems = load_problems(locate(config.data))
        self.heldout = (
            load_problems(locate(config.heldout.data), config.heldout.problems) if config.heldout.data else []
        )
        _disjoint(self.problems, self.heldout, config.heldout.data)
        source = run.source / "model" if run.source else locate(config.model)
        self.tokenizer = load_tokenizer(source)
        self.policy = Policy.load(source, dtype=config.dtype)
        reference = (
            Policy.load(locate(config.kl_reference or config.model), dtype=config.dtype)
            if "ref_log_prob" in config.objective.needs
            else None
        )
        think_end = self.tokenizer.convert_tokens_to_ids("</think>")
        self.updater = Updater(
            policy=self.policy,
            optimizer=make_optimizer(self.policy.model, config.optim),
            config=config,
            reference=reference,
            think_end=None if think_end == self.tokenizer.unk_token_id else think_end,
            probe_ids=tuple(
                (position, _one_token(self.tokenizer, text)) for position, text in config.objective.probe_tokens
            ),
        )
        if run.source and run.state:
            self._restore(run.source, run.state)
        stops, self.warnings = stop_ids(self.tokenizer, self.policy.model.config, self.policy.model.generation_config)
        template = PromptTemplate(self.tokenizer, config.prompt.template, config.prompt.system)
        self.engine = make_engine(config.rollout, str(source), stops)
        self.sampler = Sampler(self.engine, template, Verifier(), stops, config.seed)
        self.canary = Canary(
            template.encode(template.render(self.problems[0], config.sampling.told_budget(self.progress())))
        )

    def train(self) -> str:
        """Run to the last step; returns the final state, "finished" or "interrupted". Always leaves a resumable folder."""
        config, run = self.config, self.run
        sinks = open_sinks(config.log.sinks, run.path, config.log.project, to_mapping(config))
        run.status("running")
        with Display(config.steps, self.step_number) as self.display, _interruptible(self):
            self.display.say(self._banner())
            for warning in self.warnings:
                self.display.warn(warning)
            self._sync()
            while self.step_number < config.steps and not self.stop_asked:
                start = time.perf_counter()
                row, rollouts = self.step()
                self.step_number += 1
                last = self.step_number == config.steps
                if self.heldout and (last or self.step_number % config.heldout.every == 0):
                    row |= self.test()
                row = {"step": self.step_number, **row}
                row["alarms"] = alarms(row, run.rows, config.alarms)
                row |= self.display.take_seconds()
                row["time/step"] = round(time.perf_counter() - start, 4)
                row["time/tokens_per_second"] = round(
                    sum(len(r.token_ids) for r in rollouts) / max(row["time/sample"], 1e-9), 1
                )
                run.log(row)
                self.display.step(row, row["alarms"])
                for sink in sinks:
                    sink.log(numbers(row), self.step_number)
                if last or self.stop_asked or self.step_number % config.checkpoint.every == 0:
                    self.save()
        for sink in sinks:
            sink.close()
        if self.step_number < config.steps:
            run.status("interrupted", step=self.step_number)
            return "interrupted"
        self._export()
        run.status("finished", step=self.step_number)
        return "finished"

    def step(self) -> tuple[dict[str, Any], list[Rollout]]:
        """One step of GRPO; the row of metrics and the rollouts."""
        config, phase = self.config, self.display.phase
        progress = self.progress()
        reward, plan = config.reward, config.sampling
        self._monitor(progress)
        state = {"reward": reward.state_dict(), "sampling": plan.state_dict()}

        with phase("sample"):
            requests = self.requests(progress)
            rollouts = self.sampler.sample(requests)
            plan.read_modes(rollouts)
        with phase("verify"):
            self.sampler.judge(rollouts)
        with phase("policy"):  # before the reward, for rewards that read the policy's entropy
            columns, old = self.updater.measure(rollouts, reward.needs | config.advantage.needs)
        batch = to_batch(rollouts, **columns)
        with phase("reward"):
            scores = self._filter(batch, reward.score(batch, progress))
            advantage = config.advantage(batch, scores, progress)
        with phase("update"):
            updated = self.updater.update(Scored(rollouts, batch, scores, advantage, old), progress.step)
        reward.observe(batch, progress)
        plan.observe(batch, progress)
        with phase("sync"):
            gap = self._sync(progress.step + 1)

        with phase("log"):
            row = rollout_metrics(batch, rollouts) | score_metrics(batch, scores, advantage) | updated
            row |= {"max_tokens": plan.cap(progress), "sync_gap": gap, "events": self.engine.take_events()}
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

    def progress(self) -> Progress:
        """Where the run stands, as rewards and plans see it."""
        config = self.config
        here = Progress(self.step_number, config.steps, 1, config.seed)
        return Progress(self.step_number, config.steps, config.sampling.cap(here), config.seed)

    def requests(self, progress: Progress) -> list[Request]:
        """The step's requests: the next problems of the shuffled epochs, through the sampling plan."""
        config = self.config
        rows = draw_order(len(self.problems), config.prompts, progress.step * config.prompts, config.seed)
        problems = [self.problems[i] for i in rows]
        return config.sampling.requests(
            problems, self.sampler.template.render, progress, generator(config.seed, "plan", progress.step)
        )

    def test(self) -> dict[str, Any]:
        """Held-out accuracy and tokens at the training temperature, same draws at every test; written to heldout/."""
        config = self.config
        progress = self.progress()
        with self.display.phase("test"):
            requests = heldout_requests(
                self.heldout,
                self.sampler.template,
                config.heldout.samples,
                progress.max_length,
                config.sampling.told_budget(progress),
            )
            rollouts = self.sampler(requests)
            batch = to_batch(rollouts)
            path = self.run.path / f"heldout/step-{self.step_number:06d}.parquet"
            write_rollouts(path, rollouts, batch, {"step": self.step_number, "temperature": config.rollout.temperature})
        names = ("accuracy", "tokens", "tokens_correct", "tokens_wrong", "truncated", "unknown")
        metrics = rollout_metrics(batch, rollouts)
        return {f"heldout/{name}": metrics[name] for name in names}

    def save(self) -> None:
        """Write a checkpoint of everything that the next steps depend on."""
        config = self.config
        state = {
            "step": self.step_number,
            "reward": config.reward.state_dict(),
            "sampling": config.sampling.state_dict(),
            "config": to_mapping(config),
        }

        def fill(folder: Path) -> None:
            self.policy.save(folder / "model", self.tokenizer)
            torch.save(
                {"optimizer": self.updater.optimizer.state_dict(), "torch_rng": torch.get_rng_state()},
                folder / "trainer.pt",
            )

        with self.display.phase("checkpoint"):
            checkpoint.save(self.run.path, self.step_number, state, fill, config.checkpoint.keep)

    def close(self) -> None:
        """Stop engine and verifier, and let go of the run folder."""
        self.engine.close()
        self.sampler.verifier.close()
        self.run.close()

    def _restore(self, source: Path, state: dict[str, Any]) -> None:
        try:
            saved = torch.load(source / "trainer.pt", map_location="cpu", weights_only=True)
            self.updater.optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["torch_rng"])
            self.config.reward.load_state_dict(state["reward"])
            self.config.sampling.load_state_dict(state["sampling"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise TautError(
                f"{source}: not a checkpoint of this run ({error}); remove it, or start a new run"
            ) from error

    def _filter(self, batch: Batch, scores: Scores) -> Scores:
        """Leave out the groups without signal where asked to; decided on raw verdicts, never on shaped rewards."""
        if not self.config.drop_zero_signal:
            return scores
        return Scores(scores.total, scores.terms, scores.keep & ~zero_signal(batch)[batch.group_index])

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
                Request(p, g, first + g * wanted.samples + k, prompt, progress.max_length, origin="monitor")
                for g, p in enumerate(problems)
                for prompt in [template.render(p, budget)]
                for k in range(wanted.samples)
            ]
            self.config.reward.observe(to_batch(self.sampler(requests)), progress)

    def _sync(self, version: int | None = None) -> float:
        version = self.step_number if version is None else version
        temperature = self.config.rollout.temperature
        return sync(
            self.engine, self.policy.weights(), version, self.canary, lambda ids: self.policy.score(ids, temperature)
        )

    def _export(self) -> None:
        """RUN/model: the last weights as a Hugging Face folder, whole or not at all."""
        import shutil

        final, temporary = self.run.path / "model", self.run.path / ".model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.policy.save(temporary, self.tokenizer)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def _banner(self) -> str:
        config, model = self.config, self.policy.model
        size = sum(p.numel() for p in model.parameters())
        where = f"from step {self.step_number}" if self.step_number else "from the start"
        return (
            f"{config.model}: {size / 1e6:.2f} M parameters; {len(self.problems)} problems, {len(self.heldout)} held out; "
            f"engine {self.engine.name}; {config.prompts} x {config.sampling.samples} rollouts a step; {config.out} {where}"
        )


class _interruptible:
    """The first Ctrl-C lets the step end and saves; the second stops at once (the run then resumes from its last checkpoint)."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._asked)

    def _asked(self, *_: object) -> None:
        if self.trainer.stop_asked:
            raise KeyboardInterrupt
        self.trainer.stop_asked = True
        self.trainer.display.say("stopping after this step (Ctrl-C again: at once)")

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "before"):
            signal.signal(signal.SIGINT, self.before)


def _disjoint(train: list[Any], heldout: list[Any], name: str | None) -> None:
    shared = {p.id for p in train} & {p.id for p in heldout}
    if shared:
        raise TautError(
            f"heldout.data={name}: {len(shared)} problems are also trained on, such as {sorted(shared)[0]!r}; take them out of one"
        )


def _one_token(tokenizer: Any, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise TautError(
            f"objective: {text!r} is {len(ids)} tokens in this tokenizer; a mode is named by a single token"
        )
    return ids[0]


def train(run: Run) -> str:
    """Train a run to its end; see Trainer.train."""
    trainer = Trainer(run)
    try:
        return trainer.train()
    except BaseException as error:
        run.status(
            "interrupted" if isinstance(error, KeyboardInterrupt) else "failed",
            step=trainer.step_number,
            error=str(error),
        )
        raise
    finally:
        trainer.close()
