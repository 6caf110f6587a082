"""Taut's state in verl's checkpoints. verl makes this first of all in its driver: what cannot go well is refused before any worker
starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.trainer.ppo import core_algos
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from rewards.errors import TautError
from rollout.log import write_atomically
from trainers.config import TrainConfig
from trainers.verl.recipe import check, recipe_in
from trainers.verl.settings import ESTIMATOR

FILE = "taut.json"


@dataclass(frozen=True)
class Prepared:
    """What the sampler goes on from. state: of the checkpoint at `place`, None at the start."""

    recipe: TrainConfig
    state: dict[str, Any] | None
    place: Path | None


_prepared: Prepared | None = None


def prepared() -> Prepared:
    """What `TautCheckpoint` found. Raises TautError where verl has not made one."""
    if _prepared is None:
        raise TautError(
            "TautReplayBuffer: its state would be lost; set "
            "trainer.checkpoint_callback_class=trainers.verl.checkpoint.TautCheckpoint"
        )
    return _prepared


class TautCheckpoint(CheckpointCallback):
    """Writes `taut.json` into each of verl's checkpoints, and reads it back when verl resumes from one."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        if ESTIMATOR not in core_algos.ADV_ESTIMATOR_REGISTRY:
            raise TautError(
                "Taut's plug-in is not loaded in verl (see the lines that begin with `taut:` above); is Taut installed where verl "
                "runs, and VERL_USE_EXTERNAL_PLUGINS not set to leave it out?"
            )
        check(config)
        recipe, place = recipe_in(config), resumed(config)
        global _prepared
        _prepared = Prepared(recipe, None if place is None else read(place), place)

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """The state after `global_step` steps, beside verl's own files."""
        buffer = trainer.replay_buffer
        buffer.settle()
        state = buffer.shaping.state_dict()
        if state["step"] != global_step:
            raise TautError(
                f"verl saves step {global_step}, and Taut's state is of step {state['step']}; nothing was written"
            )
        path = Path(checkpoint_dir) / FILE
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(state), encoding="utf-8"))
        if global_step >= trainer.total_training_steps:
            buffer.shaping.status("finished")


def resumed(config: Any) -> Path | None:
    """The checkpoint that verl will resume from, by its own rules; None: from the start."""
    mode = config.trainer.resume_mode
    if mode == "disable":
        return None
    folder = config.trainer.resume_from_path
    if mode == "auto":
        folder = find_latest_ckpt_path(str(Path(config.trainer.default_local_dir).absolute()))
    return None if folder is None else Path(folder).absolute()


def read(place: Path) -> dict[str, Any]:
    """The state in a checkpoint of verl's. Raises TautError where there is none: verl's process died between its files and ours."""
    others = [p.parent for p in place.parent.glob(f"global_step_*/{FILE}") if (p.parent / "actor").is_dir()]
    newest = max((p for p in others if p != place), key=lambda p: int(p.name.rpartition("_")[2]), default=None)
    remedy = f"trainer.resume_mode=resume_path trainer.resume_from_path={newest}" if newest else "a new run"
    try:
        state = json.loads((place / FILE).read_text(encoding="utf-8"))
        step = int(state["step"])
    except (OSError, ValueError, KeyError) as error:
        raise TautError(
            f"{place / FILE}: Taut's state is missing ({type(error).__name__}): the run died after verl's files of this "
            f"checkpoint and before ours, or was made without Taut; go on with {remedy}"
        ) from error
    if place.name != f"global_step_{step}":
        raise TautError(f"{place / FILE}: is the state of step {step}, in the folder of another; go on with {remedy}")
    return state
