"""A plan is the pool's schedule and the pipeline's rules on a clock that is added up: small cases by hand, then a real run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plan import main
from benchmarks.plan_costs import draw, groups_of, lognormal
from benchmarks.plan_modes import Mode, Plan, Predicted, TrainerCost, run
from benchmarks.plan_pool import EngineCost, Item, simulate
from rewards.errors import TautError
from tests import runs

COST = EngineCost(step_s=0.01, rollout_s=0.001, slots=4)
EVEN = EngineCost(step_s=1.0, rollout_s=0.0, slots=100)


def test_an_engine_takes_the_time_of_its_steps() -> None:
    assert simulate([Item(10)] * 4, 1, "fixed", COST).seconds == pytest.approx(10 * 0.014)
    assert simulate([Item(10)] * 8, 1, "fixed", COST).seconds == pytest.approx(20 * 0.014)  # four at a time
    both = simulate([Item(10), Item(20)], 1, "free", COST)
    assert both.ends == pytest.approx([10 * 0.012, 10 * 0.012 + 10 * 0.011])
    read = EngineCost(0.01, 0.0, prompt_s=0.1, call_s=1.0)
    assert simulate([Item(5, 3), Item(5)], 1, "fixed", read).seconds == pytest.approx(1.0 + 0.3 + 0.05)


def test_a_free_place_is_filled_unless_the_engine_batches() -> None:
    items = [Item(1), Item(9), Item(9), Item(1)]
    assert simulate(items, 1, "fixed", EngineCost(1.0, 0.0, slots=2)).seconds == 10  # 1 then 9, beside 9 then 1
    assert simulate(items, 1, "fixed", EngineCost(1.0, 0.0, slots=2, batches=True)).seconds == 18


def test_one_queue_shares_a_long_tail() -> None:
    items = [Item(8), Item(8), Item(1), Item(1)]
    cost = EngineCost(1.0, 0.0, slots=1)
    assert simulate(items, 2, "fixed", cost).seconds == 16  # both long ones are in the first piece
    assert simulate(items, 2, "free", cost).seconds == 9


@given(
    tokens=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    workers=st.integers(1, 5),
    slots=st.integers(1, 8),
    batches=st.booleans(),
)
def test_no_pool_beats_its_longest_rollout_or_its_work(
    tokens: list[int], workers: int, slots: int, batches: bool
) -> None:
    cost = EngineCost(0.01, 0.001, slots=slots, batches=batches)
    items = [Item(n) for n in tokens]
    for found in (simulate(items, workers, "fixed", cost), simulate(items, workers, "free", cost)):
        assert found.seconds >= max(tokens) * 0.011 - 1e-9 and found.seconds == pytest.approx(max(found.ends))
        assert sum(tokens) * 0.001 - 1e-9 <= sum(found.busy) <= workers * found.seconds + 1e-9


def test_who_waits_for_whom() -> None:
    """Sampling takes 10 s, training 4 s, loading 1 s: by hand."""

    def step_of(mode: Mode, k: int, trainer: TrainerCost) -> Predicted:
        return run(Plan(mode, 1, EVEN, trainer, max_staleness=k), lambda t: [[Item(10)]], 20)

    quick = TrainerCost(fixed_s=4.0, token_s=0.0, load_s=1.0)
    found = step_of("sync", 1, quick)
    assert (found.step_s, found.staleness, found.workers_busy) == (15.0, 0.0, pytest.approx(10 / 15))
    found = step_of("overlap", 1, quick)  # the engine is always at work: it loads and samples
    assert (found.step_s, found.staleness, found.trainer_busy) == (11.0, 1.0, pytest.approx(4 / 11))
    assert step_of("async", 0, quick).step_s == 15.0
    found = step_of("async", 3, TrainerCost(fixed_s=30.0, token_s=0.0))
    assert (found.step_s, found.trainer_busy, found.staleness_max) == (30.0, 1.0, 3)


def test_groups_are_drawn_whole_and_their_prompt_is_read_once() -> None:
    groups = lognormal("100,1,300", 4, prompt=7, seed=0)
    drawn = draw(groups, 5, 4, seed=0, step=3)
    assert drawn == draw(groups, 5, 4, seed=0, step=3) != draw(groups, 5, 4, seed=0, step=4)
    assert all([i.prompt for i in group] == [7, 0, 0, 0] for group in drawn)
    assert all([i.tokens for i in group] in [lengths for _, lengths in groups] for group in drawn)
    every = [n for _, lengths in groups for n in lengths]
    assert max(every) <= 300 and 60 < sum(every) / len(every) < 110


NUMBERS = "prompts=1 samples=1 step_s=1 rollout_s=0 train_token_s=0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("workers=1", "lengths, prompts, samples, step_s, rollout_s, train_token_s: not given"),
        ("run=nowhere step_s=1 rollout_s=1", "run=nowhere: no config.yaml there"),
        ("run=nowhere", "measure=true times the run's engine"),
        (f"lengths=lognormal:9 {NUMBERS}", "write lognormal:MEAN,SIGMA,CAP"),
        (f"lengths=lognormal:9,1,99 {NUMBERS} workers=0", "numbers of workers from 1"),
        ("worker=1", "worker: unknown key"),
    ],
)
def test_bad_settings_are_named(arguments: str, message: str) -> None:
    with pytest.raises(TautError, match=re.escape(message)):
        main(arguments.split())


def test_a_plan_of_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(
        "lengths=lognormal:400,1,1600 prompts=16 samples=4 prompt=30 step_s=0.02 rollout_s=0.001 train_token_s=1e-4 load_s=1 "
        f"workers=1,16 mode=sync,async max_staleness=2 out={tmp_path}/plan.csv".split()
    )
    out = capsys.readouterr().out
    assert "async K=2" in out and "16 x 4 rollouts a step" in out
    rows = (tmp_path / "plan.csv").read_text().splitlines()
    assert len(rows) == 5 and rows[0].startswith("workers,mode,max_staleness,feed,step_s")
    assert float(rows[1].split(",")[4]) > float(rows[3].split(",")[4])  # sixteen workers are faster


@pytest.mark.slow
def test_a_plan_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    process = runs.launch(["train", f"out={folder}", *runs.SMALL, "steps=6", "rollout.engine=transformers"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    main([f"run={folder}", "measure=true", "workers=1,2", "steps=6"])
    out = capsys.readouterr().out
    assert "engine measured here" in out and "4 x 4 rollouts a step" in out
    assert yaml.safe_load((folder / "config.yaml").read_text())["prompts"] == 4
    assert all(prompt > 1 for prompt, _ in groups_of(folder, None))
