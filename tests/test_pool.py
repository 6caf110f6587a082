"""Ray workers sample what one engine in this process would, and their deaths change nothing but the clock."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewards.errors import TautError
from rollout import cluster as clusters
from rollout import crew as crews
from rollout.choose import make_engine
from rollout.engine import EngineConfig, Feed, OnEnd
from rollout.pool import RayPool
from rollout.sync import Canary, sync
from rollout.types import Completion, Prompt
from rollout.worker import Worker
from tests import tiny

pytestmark = pytest.mark.slow
CANARY = Canary(tuple(range(20, 44)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray, started from a folder that holds none of our packages."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert clusters.connect(4)
        yield
    ray.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny.qwen3(folder / "a", 0), tiny.qwen3(folder / "b", 1)


def test_two_workers_are_one_engine_also_when_they_die(cluster: None, models: tuple[Path, Path]) -> None:
    import ray

    config = EngineConfig(engine="transformers", temperature=0.8, batch_size=16, workers=2)
    pool = make_engine(config, str(models[0]), tiny.STOPS)
    assert isinstance(pool, RayPool) and pool.name == "transformers x 2"
    single = make_engine(config.model_copy(update={"workers": 0}), str(models[0]), tiny.STOPS)
    score = tiny.trainer_scores(models[1], 0.8)
    for engine in (pool, single):
        assert sync(engine, tiny.weights(models[1]), 4, CANARY, score) < 1e-5
    assert len(pool.score_all(CANARY.ids)) == 2 and pool.score(CANARY.ids) == single.score(CANARY.ids)

    asked = tiny.prompts(12, 4, (20, 300))
    want = pool.generate(asked)
    tiny.assert_same(single.generate(asked), want, 1e-5)
    assert {v for c in want for v in c.versions} == {4} and pool.take_events() == []

    threading.Timer(0.1, os.kill, (pool.facts[0]["pid"], signal.SIGKILL)).start()
    assert pool.generate(asked) == want  # bit for bit
    (event,) = pool.take_events()
    assert event["kind"] == "worker_restarted" and event["worker"] == 0 and "Died" in event["reason"]
    assert len(set(map(tuple, pool.score_all(CANARY.ids)))) == 1 and pool.version == 4

    with pytest.raises(TautError, match=r"worker 0 of engine transformers x 2 .* version 5"):
        sync(pool, tiny.weights(models[0]), 5, CANARY, score)
    with pytest.raises(TautError, match="prompt 1 of 2: its 600 tokens fill the context of 512"):
        pool.generate([asked[0], Prompt((20,) * 600, 5, 1)])
    pool.close()
    pool.close()
    assert ray.is_initialized()  # it was there before the pool


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_two_vllm_workers(cluster: None, models: tuple[Path, Path]) -> None:
    config = EngineConfig(engine="vllm", temperature=0.8, max_num_seqs=16, workers=2, sleep=True)
    pool = make_engine(config, str(models[0]), tiny.STOPS)
    try:
        assert pool.name == "vllm x 2"
        score = tiny.trainer_scores(models[1], 0.8)
        assert sync(pool, tiny.weights(models[1]), 1, CANARY, score) < 1e-5
        asked = tiny.prompts(8, 4, (20, 60))
        given = pool.generate(asked)
        assert tiny.largest_gap(score, asked, given) < 1e-5
        pool.rest()
        assert pool.generate(asked) == given
        pool.rest()
        assert sync(pool, tiny.weights(models[1]), 2, CANARY, score) < 1e-5
    finally:
        pool.close()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores for one model")
def test_a_worker_of_two_cores(cluster: None, tmp_path: Path) -> None:
    """Tensor parallel: two processes of vLLM's share the model, get its new weights and end with their worker."""
    old, new = tiny.qwen3(tmp_path / "a", 0, 4, 2), tiny.qwen3(tmp_path / "b", 1, 4, 2)
    pool: Any = make_engine(
        EngineConfig(engine="vllm", temperature=0.8, workers=1, tensor_parallel=2, weights="broadcast"),
        str(old),
        tiny.STOPS,
    )
    try:
        shares = psutil.Process(pool.facts[0]["pid"]).children(recursive=True)
        assert len(shares) >= 2
        score = tiny.trainer_scores(new, 0.8)
        assert sync(pool, tiny.weights(new), 1, CANARY, score) < 1e-5
        asked = tiny.prompts(4, 4, (20, 60))
        assert tiny.largest_gap(score, asked, pool.generate(asked)) < 1e-5
        assert pool._broadcast.sent == 1  # and by the object store:
        pool._broadcast = None
        assert sync(pool, tiny.weights(old), 2, CANARY, tiny.trainer_scores(old, 0.8)) < 1e-5
    finally:
        pool.close()
    assert not psutil.wait_procs(shares, timeout=30)[1]


class FlakyEngine:
    """It answers each prompt with its own ids, unless the first id tells it otherwise."""

    DIE, HANG, DIE_ONCE, FAIL, REFUSE, SPIN = 101, 102, 103, 104, 105, 106
    name, canary_tolerance, max_model_len, vocab_size = "flaky", 0.1, 1000, 1000

    def __init__(self, model_path: str) -> None:
        self.folder, self.version = Path(model_path), 0
        if not self.folder.is_dir():
            raise TautError(f"model={model_path}: not there")

    def stream(self, more: Feed, ended: OnEnd, temperature: float) -> None:
        waiting: list[tuple[int, Prompt]] = []
        while (given := more(not waiting)) is not None or waiting:
            waiting += given or ()
            for i, p in waiting[:1]:
                self._obey(p.ids[0])
                ended(i, Completion(p.ids, (0.0,) * len(p.ids), "stop", (self.version,) * len(p.ids)))
            waiting = waiting[1:]

    def _obey(self, order: int) -> None:
        if order == self.DIE or (order == self.DIE_ONCE and self._first("died")):
            os.kill(os.getpid(), signal.SIGKILL)
        if order == self.HANG and self._first("hung"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if order == self.SPIN and self._first("spun"):
            time.sleep(1000)
        if order == self.FAIL and self._first("failed"):
            raise MemoryError("no room")
        if order == self.REFUSE:
            raise TautError("refused")

    def load_weights(self, weights: dict[str, Any], version: int) -> None:
        (tensor,) = weights.values()
        assert tensor.float().tolist() == [1.5, -2.0]
        self.version = version

    def score(self, ids: Sequence[int]) -> list[float]:
        return [float(self.version)] * (len(ids) - 1)

    def _first(self, name: str) -> bool:
        """Whether this happens for the first time, in any worker."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Flaky(Worker):
    """A worker with that engine."""

    def _start(self, config: EngineConfig, model_path: str, stop_ids: Sequence[int], index: int) -> dict[str, Any]:
        self.engine = FlakyEngine(model_path)
        names = ("name", "canary_tolerance", "max_model_len", "vocab_size")
        return {"cores": [0]} | {name: getattr(self.engine, name) for name in names}


@pytest.fixture(scope="module", params=["fixed", "free"])
def flaky(cluster: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RayPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crews, "Worker", Flaky)
        config = EngineConfig(workers=2, max_num_seqs=1, feed=request.param)
        pool = RayPool(config, str(tmp_path_factory.mktemp("flaky")), ())
        yield pool
        pool.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core for the workers and one for this process")
def test_a_driver_that_works_stands_aside(flaky: RayPool) -> None:
    before = os.sched_getaffinity(0)
    flaky.stand_aside()
    try:
        assert os.sched_getaffinity(0) == before - {0}
    finally:
        flaky._step_back()
    assert os.sched_getaffinity(0) == before


def ask(*first: int) -> list[Prompt]:
    return [Prompt((order, i), 5, i) for i, order in enumerate(first)]


def test_every_way_to_fail_once_is_survived(flaky: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    flaky.load_weights({"w": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, 7)
    flaky.score_all((1, 2, 3))
    asked = ask(1, 1, 1, 1, FlakyEngine.DIE_ONCE, 1, 1, 1, FlakyEngine.FAIL, 1, 1, 1, 1, 1)
    told: list[int] = []
    monkeypatch.setattr(flaky, "on_done", lambda done: told.extend(i for i, _ in done))
    given = flaky.generate(asked)
    assert [c.token_ids for c in given] == [p.ids for p in asked] and given[4].versions == (7, 7)
    assert sorted(told) == list(range(len(asked)))  # each once, also those that were sampled again
    reasons = sorted(event["reason"] for event in flaky.take_events())
    assert len(reasons) == 2 and "Died" in reasons[0] and reasons[1] == "MemoryError: no room"

    monkeypatch.setattr(flaky._crew, "config", flaky.config.model_copy(update={"deadline_s": 5.0}))
    for order, stack in ((FlakyEngine.HANG, "does not answer signals"), (FlakyEngine.SPIN, "_obey")):
        start = time.monotonic()
        assert [c.token_ids for c in flaky.generate(ask(1, order))] == [(1, 0), (order, 1)]
        assert time.monotonic() - start >= 5
        (event,) = flaky.take_events()
        assert event["reason"] == "no progress of generate in 5 s" and stack in event["stack"]


def test_a_worker_that_always_fails_stops_the_run_and_is_named(flaky: RayPool) -> None:
    with pytest.raises(TautError, match=r"rollout worker \d \(of 2\) failed 4 times .*Died"):
        flaky.generate(ask(FlakyEngine.DIE))


def test_an_error_of_the_user_arrives_as_itself(flaky: RayPool) -> None:
    with pytest.raises(TautError, match=r"^refused$"):
        flaky.generate(ask(1, FlakyEngine.REFUSE, *[1] * 50))
    with pytest.raises(TautError, match=r"^model=nowhere: not there$"):
        RayPool(flaky.config, "nowhere", ())
    assert flaky.generate(ask(1))[0].token_ids == (1, 0)  # nothing of the other call is left
