"""`taut verl`: verl's overrides for a recipe, as its command line takes them, and problem files as verl's rows.

    taut verl recipe=hapo                        # the overrides, a line each, quoted for a shell
    taut verl recipe=laser_d reward.target=2048 -- data.train_batch_size=64 | xargs python -m verl.trainer.main_ppo
    taut verl recipe=hapo --cpu                  # those that a machine without a GPU needs as well
    taut verl data=FILE out=X.parquet [template='{problem} ...'] [count=N] [origin=monitor]

What stands after `--` is verl's own and wins over what the recipe says.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rewards.errors import TautError
from rollout.prompts import DEFAULT_TEMPLATE
from trainers.seams import from_data, refuse
from trainers.shaping import recipe_of
from trainers.verl.data import write_rows
from trainers.verl.settings import ACTOR, ROLLOUT, VERL, settings

ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "trainers.verl.cpu.platform",
    "OMP_NUM_THREADS": "1",
}
MODEL = "actor_rollout_ref.model"
CPU: dict[str, Any] = {
    "trainer.device": "cpu",
    "trainer.n_gpus_per_node": 1,
    "+ray_kwargs.ray_init.num_gpus": 1,
    "ray_kwargs.ray_init.num_cpus": 32,
    "data.dataloader_num_workers": 0,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    "reward.num_workers": 1,
    f"{ROLLOUT}.agent.num_workers": 1,
    f"{MODEL}.external_lib": "trainers.verl.cpu.rollout",
    f"{MODEL}.use_remove_padding": False,
    f"+{MODEL}.override_config.attn_implementation": "sdpa",
    f"{ROLLOUT}.name": "taut_cpu",
    f"{ROLLOUT}.free_cache_engine": False,
    f"{ROLLOUT}.tensor_model_parallel_size": 1,
    f"{ACTOR}.strategy": "fsdp2",
    **{
        f"{role}.{key}": value
        for role in (ACTOR, "actor_rollout_ref.ref")
        for key, value in {"fsdp_config.use_torch_compile": False, "fsdp_config.dtype": "float32"}.items()
    },
    **{
        f"+{role}.fsdp_config.mixed_precision": "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
        for role in (ACTOR, "actor_rollout_ref.ref")
    },
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 8,
    f"{ACTOR}.use_torch_compile": False,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 8,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 8,
}


def overrides(arguments: list[str], cpu: bool = False, own: list[str] | None = None) -> list[str]:
    """verl's overrides, one string each. own: verl's, which win. Raises TautError for a recipe that verl cannot carry."""
    config = recipe_of(arguments)
    refuse(config, VERL)
    names = [a.partition("=")[2] for a in arguments if a.startswith("recipe=")]
    given = [a for a in arguments if not a.startswith("recipe=")]
    section: dict[str, Any] = {"+taut.recipe": names[-1]} if names else {}
    section |= {"+taut.set": given} if given else {}
    section |= {"+taut.out": "runs/verl"}
    own = own or []
    taken = {line.partition("=")[0].lstrip("+") for line in own}
    everything = {**settings(config), **section, **(CPU if cpu else {})}
    kept = [f"{key}={_text(value)}" for key, value in everything.items() if key.lstrip("+") not in taken]
    return kept + own


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


def main(arguments: list[str]) -> int:
    """See the module."""
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return 0
    if any(a.startswith("data=") for a in arguments):
        return _rows({key: value for key, _, value in (a.partition("=") for a in arguments)})
    at = arguments.index("--") if "--" in arguments else len(arguments)
    cpu, rest = "--cpu" in arguments[:at], [a for a in arguments[:at] if a != "--cpu"]
    for line in overrides(rest, cpu, arguments[at + 1 :]):
        print(shlex.quote(line))
    config = recipe_of(rest)
    if cpu:
        print("environment: " + " ".join(f"{k}={v}" for k, v in ENVIRONMENT.items()), file=sys.stderr)
    if needs := from_data(config):
        print(f"the data's rows must bring extra_info.{', extra_info.'.join(needs)}", file=sys.stderr)
    if (monitor := config.reward.monitor()) is not None:
        print(
            f"the reward watches {monitor.problems} fixed problems: give them as data.val_files, with extra_info.origin: monitor",
            file=sys.stderr,
        )
    return 0


def _rows(given: dict[str, str]) -> int:
    known = ("data", "out", "template", "count", "origin")
    if (unknown := [key for key in given if key not in known]) or not given.get("out", "").endswith(".parquet"):
        wrong = (
            f"{unknown[0]}=: unknown" if unknown else f"out={given.get('out', '')}: give a name that ends in .parquet"
        )
        raise TautError(f"taut verl data=: {wrong}; there are {', '.join(f'{key}=' for key in known)}")
    if not given.get("count", "1").isdigit():
        raise TautError(f"count={given['count']}: give a number of problems")
    count = int(given["count"]) if "count" in given else None
    template, origin = given.get("template", DEFAULT_TEMPLATE), given.get("origin", "train")
    number = write_rows(given["data"], Path(given["out"]), template=template, count=count, origin=origin)
    print(f"{given['out']}: {number} rows")
    return 0
