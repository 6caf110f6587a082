"""More groups asked for than needed: the step closes with the first that are whole, and the rest leaves no trace."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rewards.verifier import Verifier
from rollout.choose import make_engine
from rollout.engine import EngineConfig
from rollout.paths import locate
from rollout.prompts import PromptTemplate, load_tokenizer, stop_ids
from rollout.sampler import Sampler
from rollout.types import Problem, Request
from tests.runs import rows
from trainers.policy import Policy
from trainers.settings import load_config

MODEL = locate("benchmarks:overthinker/checkpoint")
WITHOUT_VLLM = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
ENGINES = ["transformers", pytest.param("vllm", marks=[pytest.mark.slow, WITHOUT_VLLM])]


def sampler(**options: Any) -> Sampler:
    tokenizer, policy = load_tokenizer(MODEL), Policy.load(MODEL, device="cpu")
    stops, _ = stop_ids(tokenizer, policy.model.config, policy.model.generation_config)
    engine = make_engine(EngineConfig(**options), str(MODEL), stops)
    return Sampler(engine, PromptTemplate(tokenizer, None, None), Verifier(), stops, 0)


def requests(one: Sampler, groups: int = 10, samples: int = 4) -> list[Request]:
    problems = [Problem(str(g), f"{g + 1} + {10**g + g} + {7 * g}", str(g)) for g in range(groups)]
    return [
        Request(p, g, g * samples + k, one.template.render(p, None), 160)
        for g, p in enumerate(problems)
        for k in range(samples)
    ]


@pytest.mark.parametrize("name", ENGINES)
def test_the_first_groups_that_are_whole(name: Any) -> None:
    one = sampler(engine=name, batch_size=64, max_num_seqs=64)
    try:
        asked = requests(one)
        every, few = one.sample(asked), one.sample(asked, wanted=6)
        assert one.sample(asked) == every and one.engine.enough is None, "the next call finds nothing of the one before"
        assert set(Counter(r.request.group for r in few).values()) == {4}
        kept = {r.request.group for r in few}
        assert len(kept) == 6 and few == [r for r in every if r.request.group in kept]
        longest = {g: max(len(r.token_ids) for r in every if r.request.group == g) for g in range(10)}
        assert max(longest[g] for g in kept) <= min(longest[g] for g in set(range(10)) - kept), "those of few tokens"
        assert one.sample(asked, wanted=10) == every
        one.judge(few)
        assert all(r.reason for r in few)
    finally:
        one.engine.close()
        one.verifier.close()


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["fixed", "free"])
def test_in_a_pool(cluster: None, feed: Any) -> None:
    one = sampler(engine="transformers", workers=2, feed=feed, batch_size=8)
    try:
        asked = requests(one)
        every = {r.request.sample_id: r.token_ids for r in one.sample(asked)}
        for wanted in (3, 6):
            few = one.sample(asked, wanted=wanted)
            assert len({r.request.group for r in few}) == wanted and len(few) == 4 * wanted
            assert all(every[r.request.sample_id] == r.token_ids for r in few)
        assert {r.request.sample_id: r.token_ids for r in one.sample(asked)} == every
        assert one.engine.take_events() == []
    finally:
        one.engine.close()
        one.verifier.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", [[], ["mode=async", "max_staleness=1", "in_flight=true", "objective.importance=truncate"]]
)
def test_training_with_spare_prompts(tmp_path: Path, mode: list[str]) -> None:
    """Every step has as many groups as asked for, and a run that goes on from a checkpoint is like one that never stopped."""
    import pyarrow.parquet as pq

    from trainers.run import Run
    from trainers.train import train

    settings = [
        "prompts=4",
        "spare_prompts=2",
        "sampling.samples=4",
        "rollout.engine=transformers",
        "heldout.data=null",
        *mode,
    ]
    for name, ends in (("once", (4,)), ("twice", (2, 4))):
        out = tmp_path / name
        for steps in ends:
            resumed = (out / "config.yaml").exists()
            run = (
                Run.resume(out, [f"steps={steps}"])
                if resumed
                else Run.start(load_config([*settings, f"steps={steps}", f"out={out}", "optim.schedule=constant"]))
            )
            assert train(run) == "finished"
        logs = [pq.read_table(out / f"rollouts/step-{step:06d}.parquet").to_pydict() for step in range(1, 5)]
        assert [len(set(log["problem_id"])) for log in logs] == [4] * 4 and {len(log["group"]) for log in logs} == {16}
        ids = [i for log in logs for i in log["sample_id"]]
        assert len(ids) == len(set(ids))
        assert all(row["given_up"] == len(row["given_up_problems"]) == 2 for row in rows(out))
    if not mode:
        assert rows(tmp_path / "once") == rows(tmp_path / "twice")


def test_parts_do_not_compete() -> None:
    with pytest.raises(Exception, match=r"spare_prompts=2: groups of a step compete, but sampling_parts=3"):
        load_config(["spare_prompts=2", "mode=async", "sampling_parts=3"])
