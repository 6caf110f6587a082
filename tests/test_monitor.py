"""Metrics and alarms: what a step shows, and when it cries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rewards import Scores, TautError, Verdict
from rollout.sampler import to_batch
from rollout.types import Problem, Request, Rollout
from trainers.config import AlarmConfig
from trainers.console import describe
from trainers.monitor import alarms, rollout_metrics, score_metrics, zero_signal
from trainers.sinks import numbers, open_sinks

QUIET = {
    "tokens": 100.0, "truncated": 0.0, "empty": 0.0, "silent_groups": 0.2, "wrong_pushed_up": 0.1, "unknown": 0.0, "grad_norm": 1.0,
}  # fmt: skip


def rollouts() -> list[Rollout]:
    made = []
    for i, (verdict, length, cut) in enumerate(
        [(1, 10, False), (1, 20, False), (0, 30, True), (None, 40, False), (0, 8, False), (0, 12, False)]
    ):
        request = Request(Problem(f"p{i // 3}", "1+1", "2"), i // 3, i, "1+1", 50)
        known = Verdict.UNKNOWN if verdict is None else Verdict(verdict)
        ids = tuple(range(length))
        end = "length" if cut else "stop"
        answer = "" if cut else "2"
        made.append(
            Rollout(request, (1,), ids, (-1.0,) * length, end, (0,) * length, "x", verdict=known, answer=answer)
        )
    return made


def test_unknown_verdicts_are_left_out_and_counted() -> None:
    row = rollout_metrics(to_batch(rollouts()), rollouts())
    assert row["accuracy"] == 2 / 5 and row["unknown"] == 1 / 6 and row["truncated"] == 1 / 6 and row["empty"] == 1 / 6
    assert row["tokens"] == 20 and row["tokens_correct"] == 15 and row["tokens_wrong"] == np.mean([30, 8, 12])
    assert row["zero_signal"] == 0.5  # the second group's known verdicts are all wrong
    assert zero_signal(to_batch(rollouts())).tolist() == [False, True]


def test_a_batch_without_known_verdicts_has_no_accuracy() -> None:
    lost = [rollouts()[3]]
    row = rollout_metrics(to_batch(lost), lost)
    assert row["accuracy"] is None and row["tokens_correct"] is None
    assert "accuracy -" in describe({"step": 1, **row}, 10)


def test_it_counts_who_is_pushed_the_wrong_way() -> None:
    batch = to_batch(rollouts())
    scores = Scores(np.zeros(6), {"correct": np.linspace(0, 5, 6)}, batch.known)
    row = score_metrics(batch, scores, np.array([1.0, -1.0, 0.5, 9.0, -1.0, 0.0]))
    assert row["correct_pushed_down"] == 0.5 and row["wrong_pushed_up"] == 1 / 3
    assert row["reward/correct"] == np.mean([0, 1, 2, 4, 5]) and row["kept"] == 5 / 6
    assert row["silent_groups"] == 0
    assert score_metrics(batch, scores, np.array([1.0, -1.0, 0.5, 9.0, 0.0, 0.0]))["silent_groups"] == 0.5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": 15.0}, "length collapse: 15 tokens, 15% of the start"),
        ({"tokens": 350.0}, "length explosion: 350 tokens, 3.5 times the start"),
        ({"truncated": 0.95}, "truncation: 95%"),
        ({"empty": 0.6}, "empty answers: 60%"),
        ({"silent_groups": 1.0}, "no signal: in 100% of the groups"),
        ({"wrong_pushed_up": 0.6}, "wrong answers pushed up: 60%"),
        ({"unknown": 0.1}, "unknown verdicts: 10%"),
        ({"grad_norm": float("inf")}, "gradient not finite"),
    ],
)
def test_each_alarm_names_its_number(change: dict[str, Any], says: str) -> None:
    history = [QUIET] * 3
    assert alarms(QUIET, history, AlarmConfig()) == []
    found = alarms(QUIET | change, [*history, *[QUIET | change] * 2], AlarmConfig())
    assert len(found) == 1 and found[0].startswith(says)


@pytest.mark.parametrize("change", [{"tokens": 25.0}, {"silent_groups": 1.0}, {"wrong_pushed_up": 0.7}])
def test_one_step_alone_raises_no_alarm_where_chance_could(change: dict[str, Any]) -> None:
    assert alarms(QUIET | change, [QUIET] * 6, AlarmConfig()) == []
    assert alarms(QUIET | change, [QUIET | change], AlarmConfig()) == []  # too few steps to say


def test_lengths_are_not_judged_before_there_is_a_start() -> None:
    assert alarms(QUIET | {"tokens": 1.0}, [QUIET] * 2, AlarmConfig()) == []


def test_sinks_take_numbers_only_and_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import sys

    assert numbers({"a": 1, "b": 0.5, "c": None, "d": "x", "e": [1], "f": True}) == {"a": 1.0, "b": 0.5}
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(TautError, match=r"log\.sinks: wandb is not installed.*pip install wandb"):
        open_sinks(["wandb"], tmp_path, "p", {})
