"""Every recipe trains: three real steps on the embedded benchmark, in which the method itself moved the weights."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rollout.paths import locate
from taut import main
from tests.runs import assert_same_run, launch, rows
from trainers.settings import load_config, recipes

# The papers' numbers are for long answers; these make the same method bite on answers of 20 to 200 tokens.
LASER_D = [
    "reward.target=24",
    "reward.interval=24",
    "reward.monitor_problems=8",
    "reward.monitor_samples=4",
    "reward.monitor_every=2",
]
AUTOTHINK = [
    "sampling.modes=[{name: think, share: 0.5, prefix: <think>}, {name: no_think, share: 0.5, prefix: </think>}]"
]
L1 = ["sampling.low=20", "sampling.high=150", "reward.alpha=0.005", "prompt.template='{problem} {budget}'"]
SMALL: dict[str, list[str]] = {
    "hapo": ["prompts=12"],  # 24 problems: in three steps, half of them come again
    "l1_exact": L1,
    "l1_max": L1,
    "dapo": ["reward.terms.1.cache=120"],
    "alp": ["reward.beta=0.005"],
    "laser": ["reward.target=60"],
    "laser_d": LASER_D,
    "laser_de": LASER_D,
    "thinkprune": ["sampling.max_tokens.values=[160, 120, 80]", "sampling.max_tokens.from_steps=[0, 1, 2]"],
    "dler_truncation": ["sampling.max_tokens=100"],
    "kimi": ["reward.terms.1.weight=0.4"],  # published with a warm-up at 0
    "shorter_better": ["reward.beta=0.02"],
    "autothink_stage1": AUTOTHINK,
    "autothink_stage2": AUTOTHINK,
    "autothink_stage3": AUTOTHINK,
    "adaptthink": AUTOTHINK,
    "adaptive_deep_reasoning": [
        "sampling.modes=[{name: long, share: 0.5, prefix: <think>}, {name: short, share: 0.5, prefix: </think>}]",
        "sampling.read={long: <think>, short: </think>}", "objective.tokens.long=<think>", "objective.tokens.short=</think>",
    ],
    "train_long_think_short": [
        "sampling.budget=null", "prompt.template='{problem}'", "reward.target={type: drops, start: 128, factor: 0.7, every: 1}",
    ],
    "length_controller": ["sampling.min_tokens=40", "sampling.reduction=40", "sampling.target_acc_times=1"],
    "drpo": ["mini_batches=2", "objective.delta=0.01"],
    "disco": ["mini_batches=2", "objective.delta=0.01"],
    "gspo": ["mini_batches=2", "objective.clip_low=0.01", "objective.clip_high=0.013"],
}  # fmt: skip
OPERATORS = {"sum", "product", "weight", "constant", "correct", "rollout_gate", "group_gate", "keep"}


def options(name: str, out: Path, data: Path) -> list[str]:
    """`taut train` arguments: the recipe on the embedded model, as small as still shows something."""
    small = [
        "recipe=overthinker", f"recipe={name}", f"out={out}", f"data={data}", "heldout.problems=4", "steps=3", "prompts=6",
        "micro_tokens=2000", "optim.lr=0.001", "optim.warmup_steps=0", "checkpoint.every=1", "rollout.engine=transformers",
        "sampling.samples=8", "mini_batches=1", *SMALL.get(name, []),
    ]  # fmt: skip
    if not any(option.startswith("sampling.max_tokens") for option in small):
        small.append("sampling.max_tokens=160")
    return small


def needs_reference(arguments: list[str]) -> bool:
    try:
        load_config(arguments)
    except Exception as error:
        return "reference" in str(error)
    return False


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = Path(locate("benchmarks:overthinker/data/train.jsonl")).read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:24]))
    return file


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    evaluated = [
        "model=benchmarks:overthinker/checkpoint", f"data={data}", "samples=2", "max_tokens=160", f"out={folder / 'eval'}",
        f"reference={folder / 'reference.jsonl'}", "rollout.engine=transformers", "prompt.template='{problem}'",
        "verifier.arithmetic=false",
    ]  # fmt: skip
    assert main(["eval", *evaluated]) == 0
    return folder / "reference.jsonl"


def own_terms(name: str, table: dict[str, list]) -> dict[str, np.ndarray]:
    """What the recipe's own pieces gave each rollout: its reward's nodes, or where it has none but correctness, advantages."""
    terms = {
        column: np.array(values, dtype=float)
        for column, values in table.items()
        if column.startswith("term/") and column.rpartition("/")[2].split("-")[0] not in OPERATORS
    }
    return terms or {"advantage": np.array([np.sum(a) for a in table["advantage"]], dtype=float)}


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_three_steps(name: str, tmp_path: Path, data: Path, request: pytest.FixtureRequest) -> None:
    run = tmp_path / "run"
    arguments = options(name, run, data)
    if needs_reference(arguments):
        arguments.append(f"reference={request.getfixturevalue('reference')}")
    assert main(["train", *arguments]) == 0
    done = rows(run)
    assert len(done) == 3 and all(np.isfinite(row["loss"]) for row in done) and sum(row["updates"] for row in done)
    before = load_file(Path(locate("benchmarks:overthinker/checkpoint")) / "model.safetensors")
    after = load_file(run / "model" / "model.safetensors")
    assert any(not torch.equal(before[key], after[key]) for key in after)
    told_apart = False
    for file in sorted((run / "rollouts").glob("*.parquet")):
        table = pq.read_table(file).to_pydict()
        group, keep = np.array(table["group"]), np.array(table["keep"])
        for values in own_terms(name, table).values():
            for g in np.unique(group):
                mine = values[(group == g) & keep]
                told_apart |= bool(len(mine) and np.ptp(mine) > 0 and np.any(mine))
    assert told_apart, "the method's own term is the same for all rollouts of every group"
    if any(node.state_version for _, node in load_config(arguments).reward.walk()) or _plan_state(run):
        _killed_and_resumed(arguments, run, tmp_path)


def _plan_state(run: Path) -> bool:
    last = sorted((run / "checkpoints").iterdir())[-1]
    return bool(json.loads((last / "state.json").read_text())["sampling"])


def _killed_and_resumed(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    broken, log = tmp_path / "broken", tmp_path / "log.txt"
    process = launch(["train", *[f"out={broken}" if a.startswith("out=") else a for a in arguments]], log)
    while process.is_alive() and not list((broken / "checkpoints").glob("step-*1")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process = launch(["train", f"resume={broken}"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert_same_run(whole, broken)


def test_every_small_setting_belongs_to_a_recipe() -> None:
    assert not set(SMALL) - set(recipes())
