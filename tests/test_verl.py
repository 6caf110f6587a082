"""Taut inside verl: its real registries, rows, queue and trainer on hand-made responses."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("verl") is None:  # not imported here: that takes ten seconds
    pytest.skip("verl is not installed (the extra `verl`)", allow_module_level=True)

from rewards.batch import Batch
from rewards.errors import TautError
from rewards.progress import Progress
from rollout.log import read_rollouts
from tests.canned import CAP, HOME, problems, respond
from trainers.seams import reasons
from trainers.settings import recipes
from trainers.shaping import recipe_of, shape
from trainers.verl.command import main, overrides
from trainers.verl.settings import VERL, for_verl

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [n for n in recipes() if not list(reasons(recipe_of([f"recipe={n}"]), VERL))]
SIZE, PROMPTS = 4, 4


def configuration(out: Path, *more: str, recipe: str = "grpo", given: tuple[str, ...] = ()) -> Any:
    """verl's own configuration with what `taut verl` prints for a recipe."""
    import verl
    from hydra import compose, initialize_config_dir

    folder = Path(verl.__file__).parent / "trainer" / "config"
    own = [
        f"+taut.out={out}/taut", f"actor_rollout_ref.model.path={HOME / 'checkpoint'}", f"data.train_batch_size={PROMPTS}",
        f"actor_rollout_ref.rollout.n={SIZE}", f"data.max_response_length={CAP}", f"trainer.default_local_dir={out}/checkpoints",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}", "data.max_prompt_length=64",
    ]  # fmt: skip
    lines = overrides([f"recipe={recipe}", *given], own=own)
    with initialize_config_dir(str(folder), version_base=None):
        return compose("ppo_trainer", overrides=[*lines, *more])


@pytest.fixture(scope="module")
def queue() -> Iterator[None]:
    """verl's transfer queue on a small Ray."""
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    ray.init(num_cpus=4, address="local", include_dashboard=False, log_to_driver=False)
    import verl

    folder = Path(verl.__file__).parent / "trainer" / "config" / "transfer_queue"
    settings = OmegaConf.load(folder / "transfer_queue.yaml")
    settings.backend.SimpleStorage.num_data_storage_units = 1
    settings.enable = True
    tq.init(settings)  # type: ignore[arg-type]
    yield
    tq.close()
    ray.shutdown()


class Run:
    """verl's own trainer and Taut's parts in it, without workers: what a step's rows go through, but for model and optimiser."""

    def __init__(self, config: Any, steps: int = 2) -> None:
        from transformers import AutoTokenizer
        from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

        from trainers.verl.checkpoint import TautCheckpoint
        from trainers.verl.reward import TautRewardManager
        from trainers.verl.sampler import TautReplayBuffer

        self.config, self.tokenizer = config, AutoTokenizer.from_pretrained(HOME / "checkpoint")
        self.callback = TautCheckpoint(config)
        self.trainer: Any = object.__new__(PPOTrainerSync)
        self.trainer.config, self.trainer.tokenizer, self.trainer.total_training_steps = config, self.tokenizer, steps
        sampler = config.trainer.v1.sampler
        self.buffer = self.trainer.replay_buffer = TautReplayBuffer(
            trainer_mode="sync", trainer_config=config.trainer.v1.sync, max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy, sampler_kwargs=sampler.sampler_kwargs,
            refill_fn=self.trainer._add_prompts_to_generate,
        )  # fmt: skip
        self.manager = TautRewardManager(config, self.tokenizer, None)

    def put(
        self, rows: list[dict[str, Any]], canned: Any, step: int, partition: str, log_probs: Any, origin: str
    ) -> None:
        """The rows as verl's agent loop stores them, judged by the reward manager as its reward worker calls it."""
        import torch
        import transfer_queue as tq
        from tensordict import TensorDict
        from verl import DataProto
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        uids = [uuid.uuid4().hex for _ in range(len(rows) // SIZE)]
        keys, fields, tags = [], [], []
        for i, (row, ids) in enumerate(zip(rows, canned.ids, strict=True)):
            prompt = self.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
            info = {k: row[k] for k in ("id", "level", "budget", "reference_accuracy", "reference_length")} | {
                "origin": origin
            }
            model = {"style": "rule", "ground_truth": row["answer"]}
            objects = {
                "extra_info": info, "reward_model": model, "data_source": "taut", "global_steps": step, "raw_prompt": row["prompt"],
            }  # fmt: skip
            width = len(prompt) + 3  # verl pads prompts on the left and responses on the right
            data = DataProto(
                batch=TensorDict(
                    {
                        "prompts": torch.tensor([[0, 0, 0, *prompt]]),
                        "responses": torch.tensor([[*ids, *[0] * (CAP - len(ids))]]),
                        "attention_mask": torch.tensor(
                            [[0, 0, 0, *[1] * (len(prompt) + len(ids)), *[0] * (CAP - len(ids))]]
                        ),
                    },
                    batch_size=1,
                ),
                non_tensor_batch={k: np.array([v], dtype=object) for k, v in objects.items()},
            )
            assert data.batch["prompts"].shape[1] == width
            judged = asyncio.new_event_loop().run_until_complete(self.manager.run_single(data))
            uid = uids[i // SIZE]
            keys.append(f"{uid}_{i % SIZE}_0")
            scores = torch.zeros(len(ids))
            scores[-1] = judged["reward_score"]
            fields.append(
                objects | {
                    "uid": uid, "prompts": torch.tensor(prompt), "responses": torch.tensor(ids), "rm_scores": scores,
                    "response_mask": torch.ones(len(ids), dtype=torch.int64),
                    "rollout_log_probs": torch.tensor(log_probs[i], dtype=torch.float32),
                    "old_log_probs": torch.tensor(log_probs[i], dtype=torch.float32),
                    "extra_fields": {"reward_extra_info": judged["reward_extra_info"]},
                }
            )  # fmt: skip
            tags.append({"status": "success", "seq_len": len(prompt) + len(ids), "global_steps": step})
        order = random.Random(step).sample(range(len(rows)), len(rows))  # they come in as they end
        told = list_of_dict_to_tensordict([fields[i] for i in order])
        tq.kv_batch_put(
            keys=[keys[i] for i in order], fields=told, tags=[tags[i] for i in order], partition_id=partition
        )
        marks = [{"is_prompt": True, "status": "finished", "global_steps": step} for _ in uids]
        tq.kv_batch_put(keys=uids, partition_id=partition, tags=marks)
        self.keys = keys

    def advantages(self, step: int, pad: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
        """(N,) of the rows that were put last, as verl's trainer computes them; pad: rows that verl adds to fill up a batch."""
        import transfer_queue as tq
        from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size

        batch, metrics = self.buffer.sample(step, "train", PROMPTS)
        if pad:
            batch = upsample_batch_to_divisible_size(batch, len(batch.keys) + pad, self.tokenizer.eos_token_id)
        self.trainer._compute_advantage(batch, {})
        data = tq.kv_batch_get(keys=self.keys, partition_id="train", select_fields=["advantages"])
        rows = [row.double().numpy() for row in data["advantages"].unbind(0)]
        if pad:
            added = [key for key in batch.keys if key not in self.keys]
            assert len(added) == pad
            padded = tq.kv_batch_get(keys=added, partition_id="train", select_fields=["advantages"])
            assert all(not row.any() for row in padded["advantages"].unbind(0))
        tq.kv_clear(keys=batch.keys, partition_id="train")
        assert all((row == row[0]).all() for row in rows)
        return np.array([row[0] for row in rows]), metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_advantages_in_verl_are_those_of_the_recipe(name: str, queue: None, tmp_path: Path):
    """Two steps of real rows through verl's queue, sampler, estimator and padding: equal to Taut's trainer to 1e-6."""
    config = recipe_of([f"recipe={name}"])
    run = Run(configuration(tmp_path, recipe=name))
    config = for_verl(config)
    samples = config.sampling.model_copy(update={"samples": SIZE, "max_tokens": CAP})
    config = config.model_copy(update={"sampling": samples})
    draw, rows = random.Random(1), problems(12)
    if config.reward.monitor() is not None:
        watched = [row for row in rows[:4] for _ in range(SIZE)]
        canned = respond(watched, run.tokenizer, draw)
        run.put(watched, canned, 0, "val", [[-1.0] * len(t) for t in canned.ids], "monitor")
        run.buffer.sample(0, "val", 4)
        batch = canned.batch(watched, SIZE, 0, origin=["monitor"] * len(watched))
        config.reward.observe(batch, Progress(0, 2, CAP, 0))
    moved = 0.0
    for step in range(2):
        mine = sorted((rows[:4], rows[2:6])[step], key=lambda row: row["id"])  # some come again
        mine = [row for row in mine for _ in range(SIZE)]
        canned = respond(mine, run.tokenizer, draw)
        nats = [[-draw.random() for _ in ids] for ids in canned.ids]
        run.put(mine, canned, step + 1, "train", nats, "train")
        got, metrics = run.advantages(step + 1, pad=4 * step)
        batch = canned.batch(
            mine, SIZE, step, mean_log_prob=[np.mean(np.array(x, dtype=np.float32), dtype=np.float64) for x in nats]
        )
        progress = Progress(step, 2, CAP, 0)
        scores, wanted = shape(config, batch, progress)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(wanted).max()))
        config.reward.observe(batch, progress)
        logged = read_rollouts(tmp_path / f"taut/rollouts/step-{step + 1:06d}.parquet")
        np.testing.assert_allclose(logged.columns["reward"], scores.total, rtol=1e-6, atol=1e-9)
        assert metrics["taut/rollouts"] == len(mine) and metrics["taut/accuracy"] == batch.correct.mean()
        moved = max(moved, float(np.abs(wanted).max()))
    assert moved > 0


@pytest.mark.slow
def test_a_validation_moves_no_state_and_a_checkpoint_brings_it_back(queue: None, tmp_path: Path):
    config = configuration(tmp_path, recipe="hapo")
    run = Run(config)
    draw, rows = random.Random(1), problems(8)
    mine = [row for row in rows[:4] for _ in range(SIZE)]
    held = [row for row in rows[4:] for _ in range(SIZE)]
    canned = respond(mine, run.tokenizer, draw)
    run.put(mine, canned, 1, "train", [[-1.0] * len(t) for t in canned.ids], "train")
    run.advantages(1)
    before = run.buffer.shaping.state_dict()  # type: ignore[union-attr]
    assert before["reward"]["(self)"]["problems"]
    canned = respond(held, run.tokenizer, draw)
    run.put(held, canned, 1, "val", [[-1.0] * len(t) for t in canned.ids], "validation")
    run.buffer.sample(1, "val", 4)
    run.buffer.settle()
    assert run.buffer.shaping.state_dict() == before  # type: ignore[union-attr]
    assert (tmp_path / "taut/heldout/step-000001.parquet").exists()
    folder = tmp_path / "checkpoints" / "global_step_1"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("1")
    run.callback.on_save(trainer=run.trainer, global_step=1, checkpoint_dir=str(folder))
    run.buffer.shaping.close()  # type: ignore[union-attr]
    again = Run(config)
    canned = respond(mine, again.tokenizer, draw)
    again.put(mine, canned, 2, "train", [[-1.0] * len(t) for t in canned.ids], "train")
    again.advantages(2)
    logged = read_rollouts(tmp_path / "taut/rollouts/step-000002.parquet")
    assert logged.meta["state"]["reward"] == before["reward"]
    again.buffer.shaping.close()  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_crash_between_the_checkpoints_is_found(tmp_path: Path):
    from trainers.verl.checkpoint import TautCheckpoint

    for step in (2, 10, 20):
        (tmp_path / "checkpoints" / f"global_step_{step}" / "actor").mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("20")
    for step in (2, 10):
        (tmp_path / "checkpoints" / f"global_step_{step}" / "taut.json").write_text(json.dumps({"step": step}))
    with pytest.raises(TautError, match=r"global_step_20.*state is missing.*resume_from_path=.*global_step_10"):
        TautCheckpoint(configuration(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("algorithm.adv_estimator=grpo", "algorithm.adv_estimator='grpo': must be 'taut'"),
        ("algorithm.use_kl_in_reward=True", "use_kl_in_reward=True"),
        ("trainer.v1.trainer_mode=colocate_async", "trainer_mode='colocate_async'"),
        ("taut.recipe=adaptthink", "forced beginnings"),
        ("+taut.beta=1", "taut.beta: unknown"),
    ],
)
def test_settings_that_would_change_the_advantages_are_refused(more: str, words: str, tmp_path: Path):
    from trainers.verl.checkpoint import TautCheckpoint

    with pytest.raises(TautError, match=words):
        TautCheckpoint(configuration(tmp_path, more))


@pytest.mark.slow
def test_the_reward_manager_never_raises(tmp_path: Path):
    """verl drops a sample whose reward raises: here it is unknown, and counted."""
    from transformers import AutoTokenizer
    from verl import DataProto

    from trainers.verl.reward import TautRewardManager

    manager = TautRewardManager(configuration(tmp_path), AutoTokenizer.from_pretrained(HOME / "checkpoint"), None)
    told = asyncio.new_event_loop().run_until_complete(manager.run_single(DataProto()))
    assert told["reward_score"] == 0 and told["reward_extra_info"]["taut_verdict"] == "-1"
    assert sum(manager.unknown.values()) == 1
    assert not [v for v in told["reward_extra_info"].values() if not isinstance(v, int | float | str)]


@pytest.mark.slow
def test_drpo_in_verl_has_the_gradient_of_drpo():
    """One update a step: verl's policy loss with the weights as advantages, against Taut's, any split."""
    import torch
    from omegaconf import OmegaConf
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    from rewards.base import Scores
    from trainers.objectives.data import MiniBatch
    from trainers.objectives.drpo import Drpo

    rng, groups, size, tokens = np.random.default_rng(0), 5, 4, 12
    n = groups * size
    length = rng.integers(2, tokens + 1, n)
    mask = torch.arange(tokens)[None] < torch.tensor(length)[:, None]
    log_prob = (-torch.rand(n, tokens, generator=torch.Generator().manual_seed(0))).double() * mask
    verdict = rng.integers(0, 2, n)
    mean = (log_prob.sum(1) / mask.sum(1)).numpy()
    batch = Batch(np.arange(n) // size, length, verdict, max_tokens=np.full(n, tokens), mean_log_prob=mean)
    config = for_verl(recipe_of(["recipe=drpo"]))
    _, weight = shape(config, batch, Progress(max_length=tokens))
    settings = OmegaConf.create(
        {"policy_loss": {"beta": 1000.0, "delta": 1e-4, "kl_estimator": "k1", "samples": size},
         "global_batch_info": {"dp_size": 1, "global_batch_size": n, "batch_num_tokens": int(mask.sum())}}
    )  # fmt: skip
    mine = log_prob.clone().requires_grad_(True)
    for rows in (slice(0, 3), slice(3, 11), slice(11, n)):
        policy_loss: Any = get_policy_loss_fn("taut_drpo")
        loss, _ = policy_loss(
            old_log_prob=log_prob[rows], log_prob=mine[rows], advantages=torch.tensor(weight)[rows, None] * mask[rows],
            response_mask=mask[rows], config=settings,
        )  # fmt: skip
        loss.backward()
    objective = Drpo()
    scores = Scores(batch.correct.astype(float), {}, np.ones(n, dtype=bool))
    wanted = log_prob.clone().requires_grad_(True)
    ragged = [row[kept] for row, kept in zip(log_prob, mask, strict=True)]
    data = MiniBatch.build(
        old_log_prob=ragged, log_prob=ragged, advantage=np.zeros(n), group=batch.group, verdict=verdict, keep=scores.keep,
        max_length=tokens, dtype=torch.float64,
    )  # fmt: skip
    micro = data.micro(list(range(n)), wanted, None)
    loss, _ = objective.loss(micro, objective.plan(data))
    loss.backward()
    assert mine.grad is not None and wanted.grad is not None
    torch.testing.assert_close(mine.grad, wanted.grad * mask, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_the_estimator_hands_on_what_was_written():
    """Also where a rejection has masked the last token; a row without a mask, which verl adds to fill up, gets nothing."""
    import torch
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    rewards = torch.tensor([[0.0, 0.0, 0.5], [0.0, -1.0, 0.0], [0.0, 0.0, 2.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    found: Any = get_adv_estimator_fn("taut")
    advantage, returns = found(token_level_rewards=rewards, response_mask=mask, index=None, config=None)
    assert advantage.tolist() == [[0.5, 0.5, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.0, 0.0]] == returns.tolist()


# ---- the command, and what an import costs ---------------------------------------------------------------------------


def test_the_command_prints_overrides(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["recipe=hapo", "reward.w=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"algorithm.adv_estimator=taut", "+taut.recipe=hapo", "'+taut.set=[\"reward.w=0.5\"]'"} <= {*lines}
    assert "data.train_batch_size=8" in overrides(["recipe=hapo"], own=["data.train_batch_size=8"])
    assert main(["recipe=hapo", "--", "data.train_batch_size=8"]) == 0
    assert [x for x in capsys.readouterr().out.splitlines() if "train_batch_size" in x] == ["data.train_batch_size=8"]
    with pytest.raises(TautError, match="verl cannot carry this recipe"):
        main(["recipe=adaptive_deep_reasoning"])
    out = tmp_path / "rows.parquet"
    assert main(["data=benchmarks:overthinker/data/train.jsonl", f"out={out}", "template={problem}", "count=5"]) == 0
    import pyarrow.parquet as pq

    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 5 and rows[0]["extra_info"]["id"] == "L1:7-7" and rows[0]["reward_model"]["ground_truth"] == "0"
    with pytest.raises(TautError, match=r"ends in \.parquet"):
        main(["data=x.jsonl", "out=y.json"])


def test_taut_imports_neither_verl_nor_trl():
    code = (
        "import taut, rewards, rollout, trainers.grpo, trainers.seams, trainers.verl.command, trainers.trl.settings, trainers.trl, "
        "benchmarks, sys; print({'verl', 'trl'} & {m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_plug_in_that_fails_is_loud():
    """verl says nothing above debug level; the plug-in prints, and verl's import goes on."""
    code = (
        "from importlib import metadata; real = metadata.version\n"
        "metadata.version = lambda name: '9.9.9' if name == 'verl' else real(name)\nimport verl"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "taut: the verl plug-in is NOT loaded" in done.stderr and "install verl==0.9.1" in done.stderr


@pytest.mark.slow
def test_the_plug_in_loads_nothing_heavy():
    """What it imports when verl loads it, besides what verl itself imports: its own module, so that it costs milliseconds."""
    code = (
        "import sys, os; os.environ['VERL_USE_EXTERNAL_PLUGINS'] = sys.argv[1]; import verl; "
        "print(len(sys.modules)); print(sorted(m for m in sys.modules if m.startswith('trainers')))"
    )
    told = {}
    for policy in ("none", "auto"):
        done = subprocess.run(
            [sys.executable, "-c", code, policy], cwd=ROOT, capture_output=True, text=True, check=True
        )
        told[policy] = done.stdout.splitlines()
    assert told["auto"][1] == "['trainers', 'trainers.verl', 'trainers.verl.plugin']"
    assert int(told["auto"][0]) - int(told["none"][0]) < 30
