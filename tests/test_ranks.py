"""Ranks: two or three processes train what one trains; shards load at another number of them; a lost rank is made up for."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed
from torch.multiprocessing.spawn import spawn

from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.progress import Progress
from rollout.sampler import to_batch
from rollout.types import Problem, Request, Rollout
from tests.runs import SMALL, assert_same_run, rows
from trainers.learner import LocalLearner, start_of
from trainers.settings import load_config
from trainers.share import Share, balance
from trainers.update import Scored

SETTINGS = {
    "grpo": ["trainer.gradient_checkpointing=true"],
    "drpo": ["objective=drpo", "mini_batches=2"],  # one more pass over the whole mini-batch, gathered from all ranks
    "kl": [
        "objective={type: clipped_token, kl_coef: 0.1, kl_estimator: k2, entropy_coef: 0.01, importance: truncate}",
        "reward=pear",
        "mini_batches=2",
    ],
    "lora": ["lora.rank=4", "optim.lr=1e-2", "trainer.gradient_checkpointing=true"],
}
COMMON = ["micro_tokens=300", "optim.lr=1e-3", "optim.warmup_steps=1"]


def learner(arguments: Sequence[str], share: Share | None = None, mesh: Any = None) -> LocalLearner:
    config = load_config([*COMMON, *arguments], refused=False)
    return LocalLearner(start_of(config, None, think_end=6), share, mesh, "cpu")


def rollouts(step: int, n: int = 24) -> list[Rollout]:
    """Six groups of made-up responses; of very different lengths, so that ranks get different numbers of them."""
    draw, out = random.Random(step), []
    for i in range(n):
        ids = tuple(draw.randrange(5, 60) for _ in range(draw.choice([2, 9, 30, 150])))
        request = Request(Problem(str(i // 4), "", ""), i // 4, i, "", 200)
        prompt = tuple(draw.randrange(5, 60) for _ in range(8))
        verdict = Verdict(draw.randint(0, 1))
        past = tuple(-draw.random() for _ in ids)
        out.append(Rollout(request, prompt, ids, past, "stop", (0,) * len(ids), "", verdict=verdict))
    return out


def train(learner: LocalLearner, steps: range) -> list[dict[str, float]]:
    config, done = learner.updater.config, []
    for step in steps:
        some, progress = rollouts(step), Progress(step, 5, 200, 0)
        columns, old = learner.measure(some, config.reward.needs | config.advantage.needs)
        batch = to_batch(some, **columns)
        scores = config.reward.score(batch, progress)
        advantage = config.advantage(batch, scores, progress)
        done.append(learner.update(Scored(some, batch, scores, advantage, old), step))
    return done


def as_rank(rank: int, world: int, folder: Path, settings: dict[str, list[str]]) -> None:
    """Two ranks begin; three go on from what they saved after the third step, and save what comes of it."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (world,))
    for name, arguments in settings.items():
        one, place = learner(arguments, Share(rank, world), mesh), folder / name
        done: list[dict[str, float]] = []
        if world == 2:
            done += train(one, range(3))
            one.save(place / "two", TokenizerStub())
        else:
            one.restore(place / "two")
        done += train(one, range(3, 5))
        weights = one.weights()
        score = one.score([7, 8, 9, 10])
        one.export(place / f"exported{world}", TokenizerStub())
        if rank == 0:
            torch.save({"done": done, "weights": dict(weights), "score": score}, place / f"{world}.pt")
    distributed.destroy_process_group()


class TokenizerStub:
    def save_pretrained(self, folder: Path) -> None:
        """The real one is saved by the runs below."""


def apart(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> float:
    """Distance of two sets of weights over the size of the second."""
    assert got.keys() == want.keys()
    square = sum(float((got[k] - want[k]).double().pow(2).sum()) for k in want)
    return (square / sum(float(w.double().pow(2).sum()) for w in want.values())) ** 0.5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_train_what_one_process_trains(tmp_path: Path) -> None:
    """Loss, gradient norm, diagnostics and weights to 1e-5 over five steps; from shards at another number of ranks, too."""
    for name in SETTINGS:
        (tmp_path / name).mkdir()
    for world in (2, 3):
        spawn(as_rank, (world, tmp_path, SETTINGS), nprocs=world)
    for name, arguments in SETTINGS.items():
        alone = learner(arguments)
        done = train(alone, range(5))
        want = {key: w.clone() for key, w in alone.weights().items()}
        assert apart(want, dict(learner(arguments).weights())) > 1e-3, "it must have learned something"
        back = learner(arguments)
        back.restore(tmp_path / name / "two")  # what two ranks saved, in one process
        assert_close(train(back, range(3, 5)), done[3:])
        assert apart(dict(back.weights()), want) < 1e-5
        for world, first in ((2, 0), (3, 3)):
            got = torch.load(tmp_path / name / f"{world}.pt")
            assert_close(got["done"], done[first:])
            assert apart(got["weights"], want) < 1e-5, (name, world)
            assert got["score"] == pytest.approx(alone.score([7, 8, 9, 10]), abs=1e-4)
            from trainers.policy import Policy

            exported = Policy.load(tmp_path / name / f"exported{world}", device="cpu")
            assert apart(dict(exported.weights()), got["weights"]) == 0


def assert_close(got: Sequence[dict[str, float]], want: Sequence[dict[str, float]]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=1e-4 if key == "grad_norm" else 1e-5, abs=2e-6), key


def test_shards_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with pytest.raises(TautError, match="not the shards of this model"):
        learner([]).restore(tmp_path)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 150))
def test_shares(lengths: list[int], world: int, most: int) -> None:
    """Every rollout is in one micro-batch of one rank, every rank has as many, and no rank much more than the others."""
    shares = [Share(rank, world).split(lengths, most) for rank in range(world)]
    assert sorted(i for share in shares for some in share for i in some) == list(range(len(lengths)))
    assert len({len(share) for share in shares}) == 1
    assert all(len(some) <= 1 or len(some) * max(lengths[i] for i in some) <= most for s in shares for some in s)
    tokens = [sum(lengths[i] for i in part) for part in balance(lengths, world)]
    assert max(tokens) - min(tokens) <= max(lengths)


RUN = [*SMALL, "steps=4", "rollout.engine=transformers", "trainer.ranks=2"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_rank_is_made_up_for(tmp_path: Path) -> None:
    """SIGKILL for one rank in the second step, SIGSTOP for another later: the run goes on by itself to the same numbers."""
    from trainers.ranks import Rank  # noqa: F401 - imported before the clock of the deadline runs
    from trainers.run import Run
    from trainers.train import train as train_run

    whole = load_config([*RUN, f"out={tmp_path / 'whole'}"])
    assert train_run(Run.start(whole)) == "finished"

    shot: list[str] = []

    def shoot() -> None:
        for step, number in ((1, signal.SIGKILL), (3, signal.SIGSTOP)):
            while not (tmp_path / "shot/metrics.jsonl").exists() or len(rows(tmp_path / "shot")) < step:
                time.sleep(0.02)
            ranks()[-1].send_signal(number)
            shot.append(number.name)

    shooter = threading.Thread(target=shoot, daemon=True)
    shooter.start()
    config = load_config([*RUN, f"out={tmp_path / 'shot'}", "trainer.deadline_s=8"])
    assert train_run(Run.start(config)) == "finished"
    shooter.join()
    assert shot == ["SIGKILL", "SIGSTOP"]
    events = [event for row in rows(tmp_path / "shot") for event in row["events"]]
    assert [event["kind"] for event in events] == ["trainer_restarted"] * 2, events
    assert "died" in events[0]["reason"] and "no progress" in events[1]["reason"]
    assert_same_run(tmp_path / "shot", tmp_path / "whole", but=("events",))
    assert not ranks()


def ranks() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if " ".join(p.cmdline()).startswith("ray::Rank")]
