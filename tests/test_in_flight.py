"""New weights in mid-rollout: every token has one version, and the log-prob that this version gives it after all before it."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout.choose import make_engine
from rollout.engine import EngineConfig
from rollout.sync import Canary, confirm, sync
from rollout.types import Completion, Prompt
from tests import tiny
from tests.runs import rows
from trainers.settings import load_config

ENGINES = [
    "transformers",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
        ],
    ),
]
CANARY = Canary(tuple(range(20, 44)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("models")
    return tuple(tiny.qwen3(folder / name, seed) for seed, name in enumerate("abc"))


def largest_gap(models: Sequence[Path], asked: Sequence[Prompt], given: Sequence[Completion]) -> float:
    """Between each token's log-prob and what the model of its version says of it; versions only rise along a completion."""
    scores, gap = [tiny.trainer_scores(model, 0.8) for model in models], 0.0
    for prompt, completion in zip(asked, given, strict=True):
        assert list(completion.versions) == sorted(completion.versions)
        assert len(completion.versions) == len(completion.token_ids) == len(completion.log_probs)
        wanted = {v: scores[v](prompt.ids + completion.token_ids) for v in set(completion.versions)}
        for i, (version, log_prob) in enumerate(zip(completion.versions, completion.log_probs, strict=True)):
            gap = max(gap, abs(wanted[version][len(prompt.ids) - 1 + i] - log_prob))
    return gap


def after(models: Sequence[Path], asks: Sequence[int]) -> Any:
    """A `refresh` that gives version v of `models` at the asks[v - 1]-th time it is asked."""
    asked = 0

    def refresh() -> Any:
        nonlocal asked
        asked += 1
        return (tiny.weights(models[v]), v) if (v := [*asks].index(asked) + 1 if asked in asks else 0) else None

    return refresh


@pytest.mark.parametrize("name", ENGINES)
def test_tokens_belong_to_their_version(models: tuple[Path, ...], name: Any) -> None:
    config = EngineConfig(engine=name, temperature=0.8, batch_size=16, max_num_seqs=16)
    engine = make_engine(config, str(models[0]), tiny.STOPS)
    try:
        asked = tiny.prompts(6, 4, (20, 60))
        plain = engine.generate(asked)
        engine.refresh = after(models, (8, 25))
        given = engine.generate(asked)
        engine.refresh = None
        assert engine.version == 2
        assert {v for c in given for v in c.versions} == {0, 1, 2}
        assert sum(len(set(c.versions)) > 1 for c in given) > 5
        assert largest_gap(models, asked, given) < 1e-4
        kept = [
            (a.token_ids[: c.versions.count(0)], c.token_ids[: c.versions.count(0)])
            for a, c in zip(plain, given, strict=True)
        ]
        assert all(a == b for a, b in kept), "until the weights change, nothing does"
        assert confirm(engine, 2, CANARY, tiny.trainer_scores(models[2], 0.8)(CANARY.ids)) < 1e-5
        later = engine.generate(asked)
        assert {v for c in later for v in c.versions} == {2} and largest_gap(models, asked, later) < 1e-4
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["fixed", "free"])
def test_workers_take_up_new_weights_and_so_do_those_that_replace_them(
    cluster: None, models: tuple[Path, ...], feed: Any
) -> None:
    config = EngineConfig(engine="transformers", temperature=0.8, batch_size=8, workers=2, feed=feed)
    pool: Any = make_engine(config, str(models[0]), stop_ids=())  # every completion is as long as it may be
    try:
        assert sync(pool, tiny.weights(models[0]), 0, CANARY, tiny.trainer_scores(models[0], 0.8)) < 1e-5
        asked = tiny.prompts(12, 4, (100, 200, 300, 400))
        newer = [(tiny.weights(models[1]), 1)]

        def refresh() -> Any:
            """Once, when the first worker has ended some of its completions but not all."""
            if not newer or not 0 < pool._schedule.owed(0) < (8 if feed == "fixed" else 9) or not ended:
                return None
            os.kill(pool.facts[1]["pid"], signal.SIGKILL)
            return newer.pop()

        ended: list[int] = []
        pool.on_done = lambda done: ended.extend(item for item, _ in done)
        pool.refresh = refresh
        given = pool.generate(asked)
        pool.refresh = None
        assert pool.version == 1 and [e["worker"] for e in pool.take_events()] == [1]
        assert {v for c in given for v in c.versions} == {0, 1} and largest_gap(models, asked, given) < 1e-4
        assert any(len(set(c.versions)) > 1 for c in given)
        scored = pool.score_all(CANARY.ids)
        assert len(scored) == 2 and scored[0] == pytest.approx(scored[1], abs=1e-5)
    finally:
        pool.close()


RUN = [
    "steps=6",
    "prompts=8",
    "sampling.samples=8",
    "rollout.engine=transformers",
    "heldout.data=null",
    "checkpoint.every=3",
]


@pytest.mark.slow
def test_training_with_weights_in_flight(tmp_path: Path) -> None:
    """No token is older than allowed, rollouts are of several versions, and the canary agrees with the last of them."""
    from trainers.run import Run
    from trainers.train import train

    run = [
        *RUN,
        "mode=async",
        "max_staleness=2",
        "in_flight=true",
        "objective.importance=truncate",
        f"out={tmp_path}/run",
    ]
    assert train(Run.start(load_config(run))) == "finished"
    done = rows(tmp_path / "run")
    assert max(row["staleness_max"] for row in done) <= 2 and max(row["mixed_versions"] for row in done) > 0
    assert all(row["sync_gap"] < 1e-4 for row in done) and done[0]["mismatch_max"] < 1e-4 < done[-1]["mismatch"]


@pytest.mark.slow
def test_no_staleness_is_sync(tmp_path: Path) -> None:
    from trainers.run import Run
    from trainers.train import train

    own = {"sync": [], "async": ["mode=async", "max_staleness=0", "in_flight=true"]}
    for name, settings in own.items():
        assert train(Run.start(load_config([*RUN, *settings, "steps=3", f"out={tmp_path / name}"]))) == "finished"
    assert rows(tmp_path / "sync") == rows(tmp_path / "async")


def test_only_where_it_has_an_effect() -> None:
    with pytest.raises(Exception, match="in_flight=True: has no effect with mode=sync"):
        load_config(["in_flight=true"])
