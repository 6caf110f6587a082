"""Taut inside TRL's own GRPOTrainer. Runs where TRL is installed: bootstrap.py makes an environment for these tests."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason="TRL has an environment of its own (.venv-trl)")

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rewards.batch import Batch, Verdict
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.verifier import Judgement
from rollout.log import read_rollouts
from tests.canned import CAP, HOME, problems, respond
from trainers.seams import reasons
from trainers.settings import recipes
from trainers.shaping import recipe_of, shape
from trainers.trl import TautReward
from trainers.trl.settings import TRL

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = [n for n in recipes() if not list(reasons(recipe_of([f"recipe={n}"]), TRL))]


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(HOME / "checkpoint", dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(HOME / "checkpoint")


class Rollouts:
    """Hand-made responses by TRL's `rollout_func`, and the same as batches of Taut's trainer."""

    def __init__(self, rows: Sequence[dict[str, Any]], size: int) -> None:
        self.by_prompt = {json.dumps(row["prompt"]): row for row in rows}
        self.size, self.draw, self.batches = size, random.Random(0), list[Batch]()

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        rows = [self.by_prompt[json.dumps(p)] for p in prompts]
        canned = respond(rows, trainer.processing_class, self.draw)
        self.batches.append(canned.batch(rows, self.size, len(self.batches)))
        asked = [
            trainer.processing_class.apply_chat_template(p, add_generation_prompt=True)["input_ids"] for p in prompts
        ]
        return {"prompt_ids": asked, "completion_ids": canned.ids, "logprobs": None}


class Recorded(GRPOTrainer):
    """TRL's trainer, which remembers the advantages that it computes its loss from, before it shuffles them."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.seen: list[np.ndarray] = []
        super().__init__(*args, **more)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)
        self.seen.append(out["advantages"].double().numpy())
        return out


def arguments(out: Path, reward: TautReward | None, **more: Any) -> GRPOConfig:
    usual = {
        "output_dir": str(out), "use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "logging_steps": 1,
        "per_device_train_batch_size": 16, "max_steps": 2, "save_strategy": "no", "seed": 3,
    }  # fmt: skip
    return GRPOConfig(**(usual | (reward.settings() if reward else {}) | more))


@pytest.mark.parametrize("name", NAMES)
def test_advantages_in_trl_are_those_of_the_recipe(name: str, parts: tuple[Any, Any], tmp_path: Path):
    """Two steps of the real trainer on hand-made groups: what enters its loss is what Taut's trainer computes, to 1e-5."""
    model, tokenizer = parts
    size, rows = 4, problems(8)
    reward = TautReward(f"recipe={name}", out=str(tmp_path / "taut"))
    canned = Rollouts(rows, size)
    monitored = reward.recipe.reward.monitor() is not None
    evaluation = {"per_device_eval_batch_size": 16, "num_generations_eval": size}
    args = arguments(
        tmp_path / "trl", reward, num_generations=size, max_completion_length=CAP, **(evaluation if monitored else {})
    )
    watched = Dataset.from_list([r | {"origin": "monitor"} for r in rows[:4]]) if monitored else None
    trainer = Recorded(
        model, reward, args, Dataset.from_list(rows), watched, processing_class=tokenizer, callbacks=[reward],
        rollout_func=canned,
    )  # fmt: skip
    trainer.train()
    config = recipe_of([f"recipe={name}"])
    config = config.model_copy(
        update={"sampling": config.sampling.model_copy(update={"samples": size, "max_tokens": CAP})}
    )
    seen, batches = list(trainer.seen), list(canned.batches)
    if monitored:
        seen, batches = seen[:3], batches[:3]  # TRL evaluates once more at its end
        seen.pop(0)
        watch = dataclasses.replace(batches.pop(0), origin=["monitor"] * 16)
        config.reward.observe(watch, Progress(0, 2, CAP, 3))
        for batch in batches:  # sample ids count training alone
            batch.sample_id[:] -= 16
    assert len(seen) == 2
    moved = 0.0
    for step, (batch, advantage) in enumerate(zip(batches, seen, strict=True)):
        progress = Progress(step, 2, CAP, 3)
        scores, wanted = shape(config, batch, progress)
        np.testing.assert_allclose(advantage, wanted, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(wanted).max()))
        config.reward.observe(batch, progress)
        logged = read_rollouts(tmp_path / f"taut/rollouts/step-{step + 1:06d}.parquet")
        np.testing.assert_allclose(logged.columns["reward"], scores.total, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(logged.columns["advantage"], wanted, rtol=1e-6, atol=1e-9)
        moved = max(moved, float(np.abs(wanted).max()))
    assert moved > 0


def test_trl_carries_what_the_page_says():
    assert {"grpo", "hapo", "laser", "laser_d", "laser_de", "grpo_lambda", "dr_grpo", "dler_truncation", "gspo"} <= {
        *NAMES
    }
    assert not {"adaptthink", "pear", "drpo", "disco", "kimi_mode", "adaptive_deep_reasoning", "o1_pruner"} & {*NAMES}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["recipe=adaptthink"], "forced beginnings"),
        (["recipe=pear"], "untempered_entropy_answer"),
        (["recipe=drpo"], "objective drpo"),
        (["recipe=o1_pruner"], "does not add up to zero"),
        (["recipe=thinkprune"], "is a schedule"),
        (["recipe=hapo", "steps=9"], "the other trainer decides this"),
        (["recipe=hapoo"], "did you mean 'hapo'"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(given: list[str], words: str):
    with pytest.raises(TautError, match=words):
        TautReward(*given)


def train(parts: tuple[Any, Any], out: Path, reward: TautReward, rows: list[dict[str, Any]], **more: Any) -> Any:
    size, callbacks, funcs = more.pop("size", 4), more.pop("callbacks", [reward]), more.pop("funcs", reward)
    sample = more.pop("rollout_func", None) or Rollouts(rows, size)
    args = arguments(out, None, **(reward.settings() | {"num_generations": size, "max_completion_length": CAP} | more))
    trainer = Recorded(
        parts[0], funcs, args, Dataset.from_list(rows), processing_class=parts[1], callbacks=callbacks, rollout_func=sample
    )  # fmt: skip
    trainer.train()
    return trainer


def other(prompts: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(prompts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale_rewards": "group"}, "scale_rewards='group'.*set scale_rewards='none'"),
        ({"callbacks": []}, "add callbacks="),
        ({"funcs": "both"}, "2 functions"),
        ({"reward_weights": [0.5]}, "reward_weights"),
        ({"save_strategy": "steps", "save_steps": 1, "num_iterations": 2}, "use a multiple of 2"),
        ({"restore_callback_states_from_checkpoint": True}, "leave it out"),
    ],
)
def test_settings_that_would_change_the_advantages_are_refused(
    change: dict[str, Any], words: str, parts: tuple[Any, Any], tmp_path: Path
):
    reward = TautReward("recipe=grpo")
    if change.get("funcs"):
        change = {"funcs": [reward, other]}
    with pytest.raises(TautError, match=words):
        train(parts, tmp_path, reward, problems(4), **change)


def test_prompts_may_be_plain_text(parts: tuple[Any, Any], tmp_path: Path):
    rows = [row | {"prompt": row["problem"]} for row in problems(4)]
    reward = TautReward("recipe=hapo", out=str(tmp_path / "taut"))
    canned = Rollouts(rows, 4)

    def plain(prompts: list[str], trainer: Any) -> dict[str, Any]:
        mine = [canned.by_prompt[json.dumps(p)] for p in prompts]
        asked = [trainer.processing_class.encode(p, add_special_tokens=False) for p in prompts]
        return {"prompt_ids": asked, "completion_ids": respond(mine, parts[1], canned.draw).ids, "logprobs": None}

    trainer = train(parts, tmp_path / "trl", reward, rows, rollout_func=plain)
    logged = read_rollouts(tmp_path / "taut/rollouts/step-000002.parquet")
    np.testing.assert_allclose(trainer.seen[1], logged.columns["advantage"], atol=1e-5)
    assert {*logged.batch.problem_id} == {row["id"] for row in rows}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: [{k: v for k, v in r.items() if k != "id"} for r in rows], "has no column 'id'.*columns="),
        (lambda rows: [r | {"id": "same"} for r in rows], "stands for two prompts"),
    ],
)
def test_data_without_stable_ids_is_refused(spoil: Any, words: str, parts: tuple[Any, Any], tmp_path: Path):
    with pytest.raises(TautError, match=words):
        train(parts, tmp_path, TautReward("recipe=hapo"), spoil(problems(4)))


def test_rollouts_out_of_order_are_refused(parts: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inside = GRPOTrainer._calculate_rewards

    def shuffled(self: Any, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        order = [1, *range(4, 16), 0, 2, 3]
        return inside(self, *([x[i] for i in order] for x in (inputs, prompts, completions, ids)))

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", shuffled)
    with pytest.raises(TautError, match="should be one group"):
        train(parts, tmp_path, TautReward("recipe=grpo"), problems(4))


def test_a_group_whose_sum_an_unknown_verdict_spoils_is_left_out(parts: tuple[Any, Any], tmp_path: Path):
    """CANON's halves are uneven without one rollout of four: TRL would move the others, so the group is left out, and said."""
    rows, calls = problems(4), itertools.count()
    reward = TautReward("recipe=canon_eff", out=str(tmp_path / "taut"))
    begin = reward.verifier.begin

    def one_unknown(*item: Any) -> Any:
        """A verifier whose sixth verdict is lost."""
        found = begin(*item)
        if next(calls) == 5:
            lost = found if isinstance(found, Judgement) else found.result()
            found = Future()
            found.set_result(lost._replace(verdict=Verdict.UNKNOWN, reason="killed"))
        return found

    reward.verifier.begin = one_unknown  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="groups with an unknown verdict are left out"):
        trainer = train(parts, tmp_path, reward, rows, max_steps=1)
    logged = read_rollouts(tmp_path / "taut/rollouts/step-000001.parquet")
    unknown = np.flatnonzero(np.array(logged.batch.verdict) == Verdict.UNKNOWN)
    assert len(unknown) == 1
    own = logged.batch.group == logged.batch.group[unknown[0]]
    assert (trainer.seen[0][own] == 0).all() and (trainer.seen[0][~own] != 0).any()


def test_an_alarm_can_stop_training(parts: tuple[Any, Any], tmp_path: Path):
    reward = TautReward("recipe=grpo", "alarms.truncation=0", out=str(tmp_path / "taut"), stop_on=["truncation"])
    trainer = train(parts, tmp_path / "trl", reward, problems(8), max_steps=5)
    assert trainer.state.global_step < 5
    assert json.loads((tmp_path / "taut/status.json").read_text())["state"] == "interrupted"


# ---- end to end on the embedded benchmark ----------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from tests.test_trl import end_to_end
out, recipe, kill = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
end_to_end(out, recipe, kill=kill, resume=len(sys.argv) > 4)
"""


def end_to_end(out: Path, recipe: str, kill: int = 0, resume: bool = False, steps: int = 6) -> Any:
    """A real run on the embedded model; kill: the step after which the process kills itself."""

    class Killer(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if kill and state.global_step == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    given = ["reward.target=40", "reward.monitor_every=3", "reward.interval=20"] if recipe == "laser_d" else []
    reward = TautReward(f"recipe={recipe}", *given, "verifier.arithmetic=false", out=str(out / "taut"))
    rows = problems(24)
    held = [r | {"origin": "monitor"} for r in rows[:8]] + [r | {"origin": "validation"} for r in problems(32)[24:]]
    sizes = {"num_generations": 4, "max_completion_length": 160, "temperature": 1.0, "learning_rate": 1e-3}
    own = sizes | {
        "max_steps": steps, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "eval_strategy": "steps",
        "eval_steps": 3, "eval_on_start": True, "per_device_eval_batch_size": 16, "num_generations_eval": 4,
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 8,
    }  # fmt: skip
    args = arguments(out / "trl", None, **(reward.settings() | own))
    trainer = Recorded(
        str(HOME / "checkpoint"), reward, args, Dataset.from_list(rows), Dataset.from_list(held),
        processing_class=AutoTokenizer.from_pretrained(HOME / "checkpoint"), callbacks=[reward, Killer()],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def rows_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "taut/metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "step_time"} for line in lines]


@pytest.mark.parametrize("recipe", ["hapo", "laser_d"])
def test_training_killed_and_resumed_in_trl(recipe: str, tmp_path: Path):
    """Six steps of the embedded model: killed in the fourth and resumed from TRL's checkpoint, the run is the same to the last
    bit; and the log replays to what was logged."""
    whole = end_to_end(tmp_path / "whole", recipe)
    command = [sys.executable, "-c", RUN, str(tmp_path / "killed"), recipe, "3"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    assert len(rows_of(tmp_path / "killed")) >= 2
    resumed = end_to_end(tmp_path / "killed", recipe, resume=True)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "killed")
    states = [t.state.stateful_callbacks["TautReward"] for t in (whole, resumed)]
    assert states[0] == states[1] and states[0]["step"] == 6 and states[0]["reward"]
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    rows = rows_of(tmp_path / "whole")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all({"accuracy", "tokens", "loss", "grad_norm"} <= row.keys() for row in rows)
    assert "heldout/accuracy" in rows[-1]
    taut = [sys.executable, "-m", "taut"]
    told = subprocess.run(
        [*taut, "replay", str(tmp_path / "whole/taut"), "--out", str(tmp_path / "r")],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0 and "as logged" in told.stdout, told.stdout + told.stderr
    for word in (
        ["report", str(tmp_path / "whole/taut")],
        ["pareto", str(tmp_path / "whole/taut"), "--out", str(tmp_path / "p")],
    ):
        done = subprocess.run([*taut, *word], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def two_processes(out: Path) -> None:
    """One of two processes: groups of 8, half of each in either."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    reward = TautReward("recipe=hapo", "verifier.arithmetic=false", out=str(out / "taut"))
    sizes = {"num_generations": 8, "max_completion_length": 96, "temperature": 1.0, "learning_rate": 1e-3}
    args = arguments(
        out / "trl", None, **(reward.settings() | sizes), max_steps=3, per_device_train_batch_size=4,
        gradient_accumulation_steps=1, ddp_backend="gloo",
    )  # fmt: skip
    trainer = Recorded(
        str(HOME / "checkpoint"), reward, args, Dataset.from_list(problems(2)),
        processing_class=AutoTokenizer.from_pretrained(HOME / "checkpoint"), callbacks=[reward],
    )  # fmt: skip
    trainer.train()
    np.save(out / f"seen-{rank}.npy", np.stack(trainer.seen))
    (out / f"state-{rank}.json").write_text(json.dumps(reward.state()))


def test_a_group_may_lie_in_two_processes(tmp_path: Path):
    """Two processes with half of each group: the same history in both, and each trains on its half of the log's advantages."""
    code = "import sys; from pathlib import Path; from tests.test_trl import two_processes; two_processes(Path(sys.argv[1]))"
    root = Path(__file__).parent.parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = []
    for rank in (0, 1):
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
        environment = {**os.environ, **{name: str(value) for name, value in world.items()}}
        command = [sys.executable, "-c", code, str(tmp_path)]
        with (tmp_path / f"log-{rank}.txt").open("w") as log:
            both.append(subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log))
    try:
        ended = [process.wait(300) for process in both]
    finally:
        for process in both:
            process.kill()
    assert ended == [0, 0], [(tmp_path / f"log-{rank}.txt").read_text()[-2000:] for rank in (0, 1)]
    states = [json.loads((tmp_path / f"state-{rank}.json").read_text()) for rank in (0, 1)]
    assert states[0] == states[1] and states[0]["step"] == 3
    seen = [np.load(tmp_path / f"seen-{rank}.npy") for rank in (0, 1)]
    config = recipe_of(["recipe=hapo"])
    for step in range(3):
        logged = read_rollouts(tmp_path / f"taut/rollouts/step-{step + 1:06d}.parquet")
        assert len(logged.batch) == 8 and logged.batch.num_groups == 1
        config.reward.load_state_dict(logged.meta["state"]["reward"])
        _, wanted = shape(config, logged.batch, Progress(**logged.meta["progress"]))
        np.testing.assert_allclose(np.concatenate([seen[0][step], seen[1][step]]), wanted, atol=1e-5)
