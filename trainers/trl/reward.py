"""One object that is both the reward function and a callback of TRL's GRPOTrainer.

    reward = TautReward("recipe=hapo", columns={"id": "index"}, out="runs/trl")
    trainer = GRPOTrainer(model, reward_funcs=reward, args=GRPOConfig(..., **reward.settings()), train_dataset=...,
                          callbacks=[reward])
    trainer.train()

TRL calls it with all rollouts of a generation, prompt by prompt. It returns advantages, from which TRL then subtracts the
group's mean, which is zero (docs/frameworks.md says for which recipes).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer

from rewards.errors import TautError
from rewards.verifier import Verifier
from rollout.sampler import begin, settle, to_batch
from rollout.types import Rollout
from trainers.seams import refuse
from trainers.shaping import Host, Shaped, Shaping, recipe_of
from trainers.sinks import numbers
from trainers.trl.rows import Rows
from trainers.trl.settings import NEUTRAL, TRL, VERSION, settings

if (_found := metadata.version("trl")) != VERSION:
    raise ImportError(
        f"trainers.trl is made for trl {VERSION}, and {_found} is installed: its reward function and its advantages are used in "
        f"ways that may change between releases; install trl=={VERSION}"
    )

LOGGED = ("loss", "grad_norm", "entropy", "kl", "learning_rate", "step_time")  # of TRL's own, into metrics.jsonl


class TautReward(TrainerCallback, ExportableState):
    """A recipe's advantages for GRPOTrainer: give it as the only reward function, and in `callbacks` as well.

    recipe: arguments as of `taut train`, "recipe=hapo" and settings such as "reward.w=0.5". columns: names in the data set of
    Taut's columns `id` (stable, required), `answer` (required), `problem`, `level`, `source`, `origin` ("monitor" in rows of an
    evaluation set that the reward watches), `budget`, `reference_accuracy`, `reference_length`, where they differ. out: Taut's
    run folder (metrics, rollouts), None for none. stop_on: beginnings of alarms that end training, such as "length collapse".

    The state travels in the trainer's checkpoints (trainer_state.json), and is taken back by `resume_from_checkpoint`. Every
    process scores the whole step, gathered, so that the state is the same everywhere. Raises TautError for a recipe that TRL
    cannot carry, for settings that would change the advantages, and for data whose groups are not what they should be.
    """

    __name__ = "taut"  # what TRL calls its reward

    def __init__(
        self, *recipe: str, columns: Mapping[str, str] | None = None, out: str | None = None, stop_on: Sequence[str] = ()
    ) -> None:  # fmt: skip
        self.recipe = recipe_of(recipe)
        refuse(self.recipe, TRL)
        self.rows, self.out, self.stop_on = Rows(self.recipe, columns or {}), out, tuple(stop_on)
        self.verifier = Verifier(**vars(self.recipe.verifier))
        self.shaping: Shaping | None = None
        self._row: dict[str, Any] | None = None  # of the last step, until TRL has said what it logs of it
        self._tested: list[Rollout] = []

    def settings(self) -> dict[str, Any]:
        """The arguments of `GRPOConfig` that this recipe asks for."""
        return settings(self.recipe)

    # ---- the reward function ---------------------------------------------------------------------------------------

    def __call__(
        self, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any
    ) -> list[float | None]:
        """(n,) advantages of this process's rollouts, None for those left out; in an evaluation their rewards."""
        trainer = self._trainer(columns)
        shaping = self._started()
        training = trainer.model.training
        size = trainer.num_generations if training else trainer.num_generations_eval
        mine = self.rows.rollouts(trainer, prompts, completion_ids, columns, shaping.step)
        for rollout, found in [(r, begin(self.verifier, r)) for r in mine]:
            settle(rollout, found)
        everyone = gather_object(mine)
        place = slice(
            trainer.accelerator.process_index * len(mine), (trainer.accelerator.process_index + 1) * len(mine)
        )
        if not training:
            groups = self.rows.grouped(everyone, size, len(self._tested))
            self._tested += groups
            scores = shaping.config.reward.score(to_batch(groups), shaping.progress())
            return [float(x) if k else None for x, k in zip(scores.total, scores.keep, strict=True)][place]
        self._flush()
        shaped = shaping.train(self.rows.grouped(everyone, size, shaping.step * len(everyone)))
        out = self._centred(shaped)
        self._row = shaped.row
        for name, value in numbers(shaped.row).items():
            if name != "step":
                columns["log_metric"](f"taut/{name}", float(value))
        return out[place]

    def _trainer(self, columns: Mapping[str, Any]) -> Any:
        """The trainer that calls. Raises TautError where its settings, or other reward functions, would change the advantages."""
        trainer: Any = getattr(columns.get("log_metric"), "__self__", None)
        if not isinstance(trainer, GRPOTrainer):
            raise TautError(
                "TautReward: is called by something else than TRL's GRPOTrainer, which alone is known to fit"
            )
        if self not in trainer.callback_handler.callbacks:
            raise TautError(
                "TautReward: is not among the trainer's callbacks, so its state would be lost; add callbacks=[reward]"
            )
        if len(trainer.reward_funcs) != 1:
            raise TautError(
                f"reward_funcs: {len(trainer.reward_funcs)} functions, but TautReward gives advantages, to which nothing can be "
                "added; give it alone, and compose rewards in the recipe"
            )
        if trainer.tools or trainer.environment_factories is not None:
            raise TautError("tools: a response with the words of others in it has no length of its own; leave them out")
        if trainer.reward_weights.tolist() != [1.0]:
            raise TautError(f"reward_weights={trainer.reward_weights.tolist()}: scales the advantages; leave it out")
        for name, value in NEUTRAL.items():
            if (found := getattr(trainer, name)) != value:
                raise TautError(
                    f"{name}={found!r}: TRL would change Taut's advantages; set {name}={value!r} "
                    "(GRPOConfig(..., **reward.settings()))"
                )
        return trainer

    def _started(self) -> Shaping:
        if self.shaping is None:
            raise TautError(
                "TautReward: training has not begun; call trainer.train() (an evaluation alone is `taut eval`)"
            )
        return self.shaping

    def _centred(self, shaped: Shaped) -> list[float | None]:
        """Advantages that TRL's subtraction leaves as they are: groups that do not add up to zero are left out and counted."""
        batch, keep = shaped.batch, shaped.scores.keep
        sums, scale = (
            np.abs(batch.group_sum(shaped.advantage)),
            max(float(np.abs(shaped.advantage).max(initial=0)), 1e-12),
        )
        bad = sums > 1e-6 * scale
        if bad.any():
            broken = batch.group_count(~batch.known) > 0
            if (bad & ~broken).any():
                problem = batch.first(batch.problem_id)[np.flatnonzero(bad & ~broken)[0]]
                raise TautError(
                    f"advantage {self.recipe.advantage.type}: those of problem {problem!r} do not add up to zero, and TRL "
                    "subtracts the group's mean; use an advantage that does, such as dr_grpo"
                )
            warnings.warn(
                f"taut: {int(bad.sum())} groups with an unknown verdict are left out of step {shaped.row['step']}: their "
                "advantages do not add up to zero without it",
                stacklevel=2,
            )
        shaped.row["groups_left_out"] = int(bad.sum())
        keep = keep & ~batch.spread(bad)
        return [float(a) if k else None for a, k in zip(shaped.advantage, keep, strict=True)]

    # ---- the callback ----------------------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold what is refused before anything is sampled."""
        for name, value in NEUTRAL.items():
            if getattr(args, name) != value:
                raise TautError(
                    f"GRPOConfig({name}={getattr(args, name)!r}): TRL would change Taut's advantages; set {name}={value!r}, "
                    "or GRPOConfig(..., **reward.settings())"
                )
        if args.restore_callback_states_from_checkpoint:
            raise TautError(
                "GRPOConfig(restore_callback_states_from_checkpoint=True): would replace TautReward by another; leave it out, its "
                "state is taken back without it"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begin, or go on from the state in the checkpoint. Raises TautError for a checkpoint without Taut's state."""
        each = self._period(args)
        every = int(state.save_steps or 0)
        if args.save_strategy == "steps" and not math.isclose(every / each, round(every / each)):
            raise TautError(
                f"save_steps={every}: rollouts are sampled every {each:g} steps, and a checkpoint between would sample some twice; "
                f"use a multiple of {each:g}"
            )
        host = Host(
            model=str(getattr(getattr(model, "config", None), "_name_or_path", "") or "TRL"),
            data="TRL",
            steps=max(math.ceil(state.max_steps / each), 1),
            prompts=args.generation_batch_size // args.num_generations,
            samples=args.num_generations,
            max_tokens=args.max_completion_length,
            temperature=args.temperature,
            seed=args.seed,
            out=self.out if state.is_world_process_zero else None,
        )
        if self.shaping is not None:
            raise TautError("TautReward: has been used by a training already; make a new one for each trainer.train()")
        shaping = Shaping(self.recipe, host)
        if state.global_step:
            where = f"trainer_state.json of step {state.global_step}"
            if not (saved := state.stateful_callbacks.get(type(self).__name__)):
                raise TautError(
                    f"{where}: holds no state of Taut; it was written without TautReward among the callbacks. Start a new run from "
                    "its weights instead"
                )
            shaping.load_state_dict(saved, where)
            if not math.isclose(shaping.step * each, state.global_step):
                raise TautError(
                    f"{where}: Taut has scored {shaping.step} batches, which are {shaping.step * each:g} steps; the checkpoint was "
                    "made with other batch sizes: put them back"
                )
        shaping.open()
        (shaping.history,) = broadcast_object_list([shaping.history])  # so that an alarm stops all processes or none
        self.shaping = shaping

    def _period(self, args: Any) -> float:
        """Optimiser steps from one sampling to the next."""
        return args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """What TRL says of the step, into the same row."""
        if self._row is not None and logs:
            self._row |= {name: logs[name] for name in LOGGED if name in logs}
            norm = logs.get("grad_norm")
            if norm is not None and not math.isfinite(norm):
                self._row["alarms"].append("gradient not finite: lower learning_rate or look at the rewards")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where an alarm asks for it."""
        found = [a for a in (self._row or {}).get("alarms", ()) if a.startswith(self.stop_on)] if self.stop_on else []
        if found:
            warnings.warn(f"taut: training stops at step {state.global_step}: {found[0]}", stacklevel=2)
            control.should_training_stop = control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """A whole evaluation is here: its monitor rows go to the reward, the others to the log."""
        if self.shaping is None:
            return
        self._flush()
        self.shaping.watch(self._tested)
        row = self.shaping.test(self._tested)
        self._tested = []
        if isinstance(metrics, dict):
            metrics |= {f"eval_taut/{name}": value for name, value in row.items()}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written: so is its step's row."""
        self._flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the log and the verifier."""
        self._flush()
        if self.shaping is not None:
            self.shaping.close("finished" if state.global_step >= state.max_steps else "interrupted")
        self.verifier.close()

    def _flush(self) -> None:
        if self._row is not None and self.shaping is not None:
            self.shaping.log(self._row)
        self._row = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps (trainer_state.json)."""
        return self.shaping.state_dict() if self.shaping is not None else {}
