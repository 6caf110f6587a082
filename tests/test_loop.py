"""The loop at its edges, on runs of a few steps: budgets told in tests, steps without anything to learn from, more data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rewards import Verdict
from rollout.log import read_rollouts
from rollout.paths import locate
from rollout.sampler import Sampler
from taut import main
from tests.runs import rows

TINY = [
    "prompts=2", "sampling.samples=4", "sampling.max_tokens=24", "heldout.problems=2", "checkpoint.every=1", "steps=2",
    "rollout.engine=transformers",
]  # fmt: skip


def test_the_last_test_tells_the_last_budget_trained_with(tmp_path: Path) -> None:
    budget = "sampling.budget={type: drops, start: 8, factor: 0.5, every: 1}"
    assert main(["train", f"out={tmp_path / 'run'}", *TINY, budget, "prompt.template='{problem}{budget}'"]) == 0
    told = {
        folder: read_rollouts(tmp_path / "run" / folder / "step-000002.parquet").batch.column("budget").tolist()
        for folder in ("rollouts", "heldout")
    }
    assert set(told["rollouts"]) == set(told["heldout"]) == {4}


LASER_D = (
    "{type: laser_d, target: 8, interval: 8, monitor_problems: 2, monitor_samples: 2, monitor_every: 1, format: false}"
)
CONSTRAINED = (
    "{type: constrained, maximise: {type: weight, weight: -1.0, term: linear_length}, "
    "subject_to: [{term: correct, at_least: 0.6}]}"
)


@pytest.mark.parametrize("reward", ["hapo", LASER_D, CONSTRAINED], ids=["hapo", "laser_d", "constrained"])
def test_a_step_of_unknown_verdicts_moves_nothing(reward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Sampler.judge

    def lost(self, rollouts):
        judge(self, rollouts)
        for rollout in rollouts:
            rollout.verdict = Verdict.UNKNOWN

    monkeypatch.setattr(Sampler, "judge", lost)
    run = tmp_path / "run"
    assert main(["train", f"out={run}", *TINY, f"reward={reward}", "advantage=raw", "mini_batches=2"]) == 0
    for row in rows(run):
        assert row["updates"] == 0 and row["unknown"] == 1 and row["accuracy"] is None and row["kept"] == 0
        assert any(alarm.startswith("unknown verdicts: 100%") for alarm in row["alarms"])
    states = [json.loads((run / f"checkpoints/step-00000{k}/state.json").read_text())["reward"] for k in (1, 2)]
    assert states[0] == states[1]


def test_a_run_goes_on_with_more_problems_and_its_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Re-shuffled and extended: refused as long as nobody has said so, then each problem meets its own history."""
    lines = Path(locate("benchmarks:overthinker/data/train.jsonl")).read_text().splitlines(keepends=True)
    data, run = tmp_path / "d.jsonl", tmp_path / "run"
    data.write_text("".join(lines[:4]))
    hapo = [*TINY, "prompts=4", "sampling.max_tokens=200", "reward=hapo", "checkpoint.keep=9"]
    assert main(["train", f"out={run}", f"data={data}", *hapo]) == 0
    data.write_text("".join(lines[7:1:-1]))  # two are gone, four are new, the rest in another order
    assert main(["train", f"resume={run}", "steps=4"]) == 2
    shown = capsys.readouterr().err
    assert "other problems" in shown and f"resume={run} data={data} (state by problem id is kept)" in shown
    assert main(["train", f"resume={run}", f"data={data}", "steps=4"]) == 0
    assert "state by problem id is kept" in capsys.readouterr().out

    def seen(step: int) -> dict[str, list[int]]:
        state = json.loads((run / f"checkpoints/step-{step:06d}/state.json").read_text())
        return state["reward"]["(self)"]["problems"]

    known = {problem: lengths[0] for problem, lengths in seen(2).items()}
    for step in (3, 4):
        batch = read_rollouts(run / f"rollouts/step-{step:06d}.parquet").batch
        for i in np.flatnonzero(batch.correct & ~batch.truncated).tolist():
            name = str(batch.problem_id[i])
            known[name] = min(known.get(name, 10**9), int(batch.length[i]))
    assert set(seen(2)) - {json.loads(line)["id"] for line in lines[2:8]}, "an absent problem keeps its history too"
    assert known == {problem: lengths[0] for problem, lengths in seen(4).items()}
    assert main(["train", f"resume={run}", "steps=4"]) == 0  # the last checkpoint is of the new problems
