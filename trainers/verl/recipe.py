"""The section `taut` of verl's configuration: which recipe, and where Taut's log goes. Imports nothing of verl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewards.errors import TautError
from trainers.config import TrainConfig
from trainers.seams import refuse
from trainers.shaping import recipe_of
from trainers.verl.settings import ESTIMATOR, VERL, for_verl

KEYS = ("recipe", "set", "out", "poll_s")


def recipe_in(config: Any) -> TrainConfig:
    """The recipe that verl's configuration names: taut.recipe, with the settings of taut.set laid on it. Raises TautError."""
    section = config.get("taut")
    if not isinstance(section, Mapping) and not hasattr(section, "get"):
        raise TautError(
            "verl's configuration has no section `taut`; add +taut.recipe=NAME, as `taut verl recipe=NAME` prints it"
        )
    if unknown := [key for key in section if key not in KEYS]:
        raise TautError(f"taut.{unknown[0]}: unknown; there are {', '.join(f'taut.{key}' for key in KEYS)}")
    given = [f"recipe={section['recipe']}"] if section.get("recipe") else []
    recipe = recipe_of([*given, *map(str, section.get("set") or [])])
    refuse(recipe, VERL)
    return for_verl(recipe)


def check(config: Any) -> None:
    """Raises TautError where verl's own settings would change the rewards or the advantages, or lose the state."""
    wanted = {
        "algorithm.adv_estimator": ESTIMATOR,
        "algorithm.use_kl_in_reward": False,
        "algorithm.use_pf_ppo": False,
        "algorithm.filter_groups.enable": False,
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "sync",
        "trainer.checkpoint_callback_class": "trainers.verl.checkpoint.TautCheckpoint",
        "trainer.v1.sampler.custom_sampler.name": "TautReplayBuffer",
        "reward.reward_manager.name": "TautRewardManager",
    }
    for place, value in wanted.items():
        found: Any = config
        for key in place.split("."):
            found = found.get(key) if found is not None else None
        if found != value and not (found is None and value is False):
            raise TautError(
                f"{place}={found!r}: must be {value!r} with Taut, whose advantages would else be changed or lost; "
                "`taut verl recipe=NAME` prints all that is needed"
            )
