"""Sweeps: real processes with a stand-in for the trainer (scheduling, resuming, reporting), and one real small sweep."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from benchmarks import pareto, sweep_code, sweep_jobs
from benchmarks.board import Board, Follower, LiveBoard
from benchmarks.jobs import Job, Stage, run_jobs, tail
from benchmarks.places import LocalProcess, Slot, slots
from benchmarks.sweep import main
from benchmarks.sweep_plan import Planned, SweepConfig, load_sweep, plan
from benchmarks.sweep_training import training
from benchmarks.warm import TAUT, warm
from rewards.errors import TautError

REPOSITORY = Path(__file__).parents[1]


class Silent:
    """A watcher that remembers the states."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []

    def changed(self, job: Job) -> None:
        self.states.append((job.name, job.state))

    def tick(self, jobs) -> None:
        pass


def script_job(folder: Path, name: str, code: str, label: str = "train") -> Job:
    """A job of one Python script, done when it has written `<name>.done`."""
    done = folder / f"{name}.done"
    code = f"import os, sys, time, pathlib\ndone = pathlib.Path({str(done)!r})\n{code}"
    return Job(name, [Stage(label, lambda: [sys.executable, "-S", "-c", code], done.exists)], folder / name / "log.txt")


def test_every_job_runs_once_bound_to_its_core_and_what_is_done_is_skipped(tmp_path):
    code = "done.write_text(repr(sorted(os.sched_getaffinity(0))) + os.environ['OMP_NUM_THREADS'])"
    jobs = [script_job(tmp_path, f"j{i}", code) for i in range(3)]
    (tmp_path / "j1.done").write_text("before")
    core = min(os.sched_getaffinity(0))
    assert run_jobs(jobs, [Slot(core=core)], Silent(), poll_s=0.02)
    assert [j.state for j in jobs] == ["finished"] * 3 and [j.skipped for j in jobs] == [False, True, False]
    assert (tmp_path / "j0.done").read_text() == f"[{core}]1" and (tmp_path / "j1.done").read_text() == "before"


def test_jobs_run_side_by_side(tmp_path):
    """Each waits for the other's file: one after the other they would never end."""
    code = "pathlib.Path('{me}').touch()\nwhile not pathlib.Path('{other}').exists(): time.sleep(.01)\ndone.touch()"
    a, b = tmp_path / "a", tmp_path / "b"
    jobs = [script_job(tmp_path, n, code.format(me=m, other=o)) for n, m, o in (("j0", a, b), ("j1", b, a))]
    assert run_jobs(jobs, [Slot(), Slot()], Silent(), poll_s=0.02)
    assert [j.state for j in jobs] == ["finished"] * 2


def test_stages_follow_each_other_and_a_failure_leaves_the_others_alone(tmp_path):
    first, second = script_job(tmp_path, "first", "done.touch()"), script_job(tmp_path, "x", "done.touch()", "evaluate")
    both = Job("both", [*first.stages, *second.stages], tmp_path / "both/log.txt")
    bad = script_job(tmp_path, "bad", "print('the reason'); sys.exit(3)")
    lazy = script_job(tmp_path, "lazy", "pass")
    killed = script_job(tmp_path, "killed", "os.kill(os.getpid(), 9)")
    watcher = Silent()
    assert run_jobs([bad, lazy, killed, both], [Slot()], watcher, poll_s=0.02)
    assert [j.state for j in (bad, lazy, killed, both)] == ["failed", "failed", "failed", "finished"]
    assert bad.error == "train: exit code 3" and "the reason" in tail(bad.log)
    assert "not finished" in lazy.error and "SIGKILL" in killed.error
    assert (tmp_path / "x.done").exists()


def test_a_failure_is_tried_once_more_when_the_others_have_had_their_turn(tmp_path):
    flaky = script_job(tmp_path, "flaky", "me = done.with_suffix('.tried')\nif me.exists(): done.touch()\nme.touch()")
    other = script_job(tmp_path, "other", "done.touch()")
    watcher = Silent()
    assert run_jobs([flaky, other], [Slot()], watcher, poll_s=0.02)
    states = [s for s in watcher.states if s[1] != "running"]
    assert states == [("flaky", "waiting"), ("other", "finished"), ("flaky", "finished")]
    assert flaky.failures == ["train: exit code 0, but the stage is not finished"] and flaky.seconds < 30


def test_what_is_seen_late_is_not_done_again(tmp_path):
    """As on a file system whose news travels slowly: the process ended well, its files come a moment later."""
    job = script_job(tmp_path, "late", "pathlib.Path(str(done) + '.tried').open('a').write('x')")
    looks = iter([False, False, False])
    job = Job("late", [Stage("train", job.stages[0].command, lambda: next(looks, True))], job.log)
    assert run_jobs([job], [Slot()], Silent(), poll_s=0.02)
    assert job.state == "finished" and len(job.failures) == 1 and (tmp_path / "late.done.tried").read_text() == "x"


def test_what_failed_twice_alike_is_not_tried_twice_by_all(tmp_path):
    """A mistake that runs share costs one of them two attempts and each other one; a kill is no mistake."""
    code = "open(str(done) + '.tried', 'a').write('x'); print('step 3 of {0}: no such key'); sys.exit(2)"
    jobs = [script_job(tmp_path, name, code.format(name)) for name in ("a", "b", "c")]
    killed = [script_job(tmp_path, f"k{i}", "os.kill(os.getpid(), 9)") for i in range(2)]
    assert run_jobs([*jobs, *killed], [Slot()], Silent(), poll_s=0.02)
    assert [len(k.failures) for k in killed] == [2, 2]
    tried = [(tmp_path / f"{j.name}.done.tried").read_text() for j in jobs]
    assert sorted(map(len, tried)) == [1, 1, 2]
    assert [j.error for j in jobs] == ["train: exit code 2", *["train: exit code 2, as another did twice"] * 2]


DRIVER = """
import sys, pathlib
sys.path.insert(0, {repository!r})
from benchmarks.jobs import Job, Stage, run_jobs
from benchmarks.places import Slot
folder = pathlib.Path({folder!r})
code = '''
import os, pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
def asked(*_):
    with (folder / "asked").open("a") as f: f.write("x")
    sys.exit(130)
signal.signal(signal.SIGINT, asked)
(folder / "pid").write_text(str(os.getpid()))
(folder / "ready").touch()
time.sleep(60)
'''
class Silent:
    def changed(self, job): pass
    def tick(self, jobs): pass
never = Stage("train", lambda: [sys.executable, "-S", "-c", code], lambda: False)
jobs = [Job(name, [never], folder / "log.txt") for name in ("j0", "j1")]
print(run_jobs(jobs, [Slot()], Silent(), poll_s=0.02), [j.state for j in jobs])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_asks_the_jobs_once_and_leaves_none_behind(tmp_path, how):
    text = DRIVER.format(repository=str(REPOSITORY), folder=str(tmp_path))
    driver = subprocess.Popen(
        [sys.executable, "-S", "-c", text], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip
    wait_for(tmp_path / "ready")
    driver.send_signal(how)
    out = driver.communicate(timeout=30)[0]
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the job outlived the sweep")
    if how != signal.SIGKILL:  # killed outright, nobody asks: the kernel ends the job
        assert (tmp_path / "asked").read_text() == "x"
        assert out.strip() == "False ['interrupted', 'waiting']"


def wait_for(path: Path, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


def ended(process: Any, seconds: float = 120.0) -> int:
    until = time.monotonic() + seconds
    while (code := process.poll()) is None:
        assert time.monotonic() < until, "the process did not end"
        time.sleep(0.02)
    return code


@pytest.mark.slow
def test_a_forked_run_prints_and_ends_as_one_that_was_started(tmp_path, monkeypatch):
    """Commands that end well and badly, that ask for what they were not given; others than `taut` are started as ever."""
    core = min(os.sched_getaffinity(0))
    cold, (forked,) = Slot(core=core), warm([Slot(core=core)])
    assert warm([Slot(gpu="0")]) == [Slot(gpu="0")]
    for arguments in (["methods"], ["train", "steps=many"]):
        logs = [tmp_path / f"{arguments[0]}{i}.txt" for i in range(2)]
        codes = [ended(place.start([*TAUT, *arguments], log)) for place, log in zip((cold, forked), logs, strict=True)]
        assert codes[0] == codes[1] and logs[0].read_text() == logs[1].read_text(), arguments
    monkeypatch.setattr(sweep_code, "code", lambda stage: {"code": "another"})  # as after an edit
    assert isinstance(forked.start([*TAUT, "nothing"], tmp_path / "edited.txt"), LocalProcess)
    other = forked.start([sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], tmp_path / "other.txt")
    assert ended(other) == 0 and f"{{{core}}}" in (tmp_path / "other.txt").read_text()


@pytest.mark.slow
def test_a_forked_run_saves_when_asked_and_dies_when_killed(tmp_path):
    place = warm([Slot(core=min(os.sched_getaffinity(0)))])[0]
    small = ["prompts=2", "sampling.samples=2", "sampling.max_tokens=32", "heldout.data=null", "steps=100000"]
    for i in range(2):
        run = tmp_path / f"run{i}"
        process = place.start(
            [*TAUT, "train", *small, "rollout.engine=transformers", f"out={run}"], tmp_path / f"log{i}.txt"
        )
        wait_for(run / "rollouts" / "step-000002.parquet", 120)
        if i:
            process.kill()
            assert process.poll() == -signal.SIGKILL
        else:
            process.interrupt()
            assert ended(process) == 130 and "resume with" in (tmp_path / "log0.txt").read_text()
            assert json.loads((run / "versions.json").read_text())["command"][1:3] == ["train", small[0]]


def test_gpus_are_shared_out_and_without_any_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [s.gpu for s in slots()] == ["2", "5"] and [s.gpu for s in slots(3)] == ["2", "5", "2"]
    assert slots()[1].environment() == {"CUDA_VISIBLE_DEVICES": "5"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [s.core for s in slots()] == sorted(os.sched_getaffinity(0))


def test_progress_follows_a_growing_file_a_torn_line_and_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path, 10)
    follower.look()
    assert follower.step == 0 and follower.left is None
    row = json.dumps({"step": 1, "accuracy": 0.5, "tokens": None, "time/step": 2.0}) + "\n"
    path.write_text(row + '{"step": 2, "acc')
    follower.look()
    assert (follower.step, follower.left, follower.value("accuracy", ".2f")) == (1, 18.0, "0.50")
    assert follower.value("tokens", ".1f") == ""
    path.write_text(row + row.replace('"step": 1', '"step": 2'))
    follower.look()
    assert follower.step == 2
    path.write_text(row)
    follower.look()
    assert follower.step == 1


SWEEP = """
title: A test
base: {steps: 4, sampling.max_tokens: 64, optim: {lr: 0.001}}
runs:
  plain: {reward: {type: correct}}
  laser: {reward: {type: laser, target: 20}, optim.lr: 0.01}
seeds: [0, 1]
evaluation: {samples: 2, problems: 30}
labels: {laser: LASER T=20}
"""

# Leaves what `taut train` and `taut eval` leave, in a real process that imports nothing heavy; FAIL and STOP name the
# runs that end early. Evaluations are copied from those that the fixture made.
STAND_IN = """
import json, os, pathlib, shutil, sys
command, rest = sys.argv[1], sys.argv[2:]
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as f:
    f.write(" ".join([command, *rest]) + "\\n")
pairs = dict(a.split("=", 1) for a in rest)
if command == "train":
    run = pathlib.Path(pairs.get("resume") or pairs["out"])
    if run.name in os.environ.get("FAIL", "").split(","):
        sys.exit("boom: " + run.name)
    if "resume" not in pairs:
        shutil.copy(pairs["recipe"], run / "config.yaml")
    for step in range(1, 5):
        with (run / "metrics.jsonl").open("a") as f:
            f.write(json.dumps({"step": step, "accuracy": 0.5, "tokens": 50.0, "time/step": 0.01}) + "\\n")
        if run.name in os.environ.get("STOP", "").split(","):
            sys.exit(1)
    (run / "model").mkdir(exist_ok=True)
    (run / "model/config.json").write_text("{}")
    (run / "status.json").write_text(json.dumps({"state": "finished", "step": 4}))
else:
    out = pathlib.Path(json.loads(pairs["out"]))
    out.parent.mkdir(exist_ok=True)
    shutil.copy(here / f"{out.parent.name}.{pairs['samples']}.parquet", out)
"""


def write_evaluation(path: Path, run: Planned, samples: int) -> None:
    """What `taut eval` would write for the run, with random numbers."""
    assert run.evaluation is not None
    made = run.evaluation.model_copy(update={"samples": samples}).model_dump(mode="json", exclude={"rollout", "out"})
    n, rng = 30 * samples, np.random.default_rng(len(run.name))
    table = pa.table({
        "problem_id": np.repeat([f"p{i}" for i in range(30)], samples), "level": ["1"] * n, "sample_id": np.arange(n),
        "length": rng.integers(1, 40 if "laser" in run.name else 100, n), "verdict": rng.integers(0, 2, n),
        "truncated": [False] * n, "reason": [""] * n, "text": [""] * n,
    })  # fmt: skip
    parquet.write_table(table.replace_schema_metadata({"taut": json.dumps(made)}), path)


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, more: Sequence[str] = ()) -> Any:
    """main() with the stand-in as `taut`: (call, the commands that were run since the last look). more: runs that the file does
    not name."""
    script, file, out = tmp_path / "stand_in.py", tmp_path / "s.yaml", tmp_path / "out"
    script.write_text(STAND_IN)
    file.write_text(text)
    sweep = load_sweep(str(file))[0]
    for run in plan(sweep.model_copy(update={"runs": {**sweep.runs, **{name: {} for name in more}}}), out):
        for samples in (2, 3):
            write_evaluation(tmp_path / f"{run.name}.{samples}.parquet", run, samples)
    monkeypatch.setattr(sweep_jobs, "TAUT", (sys.executable, "-S", str(script)))

    def call(*arguments: str) -> int:
        return main([str(file), "--out", str(out), *arguments])

    def calls() -> list[str]:
        lines = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        (tmp_path / "calls").unlink(missing_ok=True)
        return lines

    return call, calls


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The sweep above with the stand-in as `taut`."""
    return install(tmp_path, monkeypatch, SWEEP)


@pytest.fixture
def no_picture(monkeypatch):
    """Numbers only: the picture is drawn in tests of its own."""
    monkeypatch.setattr(pareto, "draw_picture", lambda *_: None)


def test_a_sweep_ends_with_table_picture_and_report_and_is_not_made_twice(tmp_path, stand_in, capsys):
    call, calls = stand_in
    assert call() == 0
    out = capsys.readouterr().out
    assert out.strip().splitlines()[-1] == str(tmp_path / "out/front.png")
    assert len(calls()) == 4 + 5  # trainings, and evaluations with the base model's
    rows = {r["name"]: r for r in csv.DictReader((tmp_path / "out/front.csv").open())}
    assert {n: (r["kind"], r["seeds"]) for n, r in rows.items()} == {
        "base": ("base", "1"), "plain": ("plain", "2"), "LASER T=20": ("shaped", "2"),
    }  # fmt: skip
    assert float(rows["LASER T=20"]["tokens_change_high"]) < 0
    report = (tmp_path / "out/report.md").read_text()
    for part in ("# A test", "front.png", "Neighbours", "By level", "Between seeds", "2 samples"):
        assert part in report
    assert call() == 0 and calls() == []
    assert "plain-s0: finished before" in capsys.readouterr().out
    assert call("evaluation.samples=3") == 0  # only what changed is made again
    assert [c.split()[0] for c in calls()] == ["eval"] * 5


def test_the_report_says_what_training_took(tmp_path: Path) -> None:
    described = {"laser": {"recipe": "laser"}, "plain": {"reward": {"type": "correct"}}}
    sweep = SweepConfig.model_validate({"runs": described, "seeds": [0, 1]})
    runs = plan(sweep, tmp_path)
    assert training(runs, {}, None) == ""
    for run in runs:
        if run.config is not None:
            run.folder.mkdir()
            short = run.configuration == "laser"
            tokens = [100 - 5 * i * short + run.config.seed for i in range(10)]
            rows = [{"step": i + 1, "tokens": t, "rollouts": 20, "alarms": []} for i, t in enumerate(tokens)]
            rows[-1]["alarms"] = ["length collapse: x"] * short
            (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = training(runs, {"laser": "LASER"}, "plain").splitlines()[2:]
    assert [c.strip() for c in first.split("|")[1:-1]] == ["plain", "10", "20 k [20 k, 20 k]", "", "100 → 100", ""]
    share = [(775 + 10 * s) / (1000 + 10 * s) for s in (0, 1)]
    assert [c.strip() for c in second.split("|")[1:-1]] == [
        "LASER", "10", "16 k [16 k, 16 k]", f"{np.mean(share):.2f} [{share[0]:.2f}, {share[1]:.2f}]", "100 → 56", "length collapse",
    ]  # fmt: skip


def test_a_failing_run_is_told_the_others_go_on_and_an_interrupted_one_is_resumed(
    tmp_path, stand_in, no_picture, capsys, monkeypatch
):
    call, calls = stand_in
    monkeypatch.setenv("FAIL", "laser-s1")
    monkeypatch.setenv("STOP", "plain-s1")
    assert call() == 1
    captured = capsys.readouterr()
    assert "boom: laser-s1" in captured.err and "laser-s1: no evaluation, it failed: train: exit code 1" in captured.out
    assert captured.out.strip().splitlines()[-1].endswith("front.png")
    calls()
    monkeypatch.delenv("FAIL")
    monkeypatch.delenv("STOP")
    assert call() == 0
    made = calls()
    assert f"train resume={tmp_path / 'out/plain-s1'}" in made and sum(c.startswith("train") for c in made) == 2


def test_a_selection_runs_alone_and_joins_what_is_finished(tmp_path, stand_in, no_picture):
    call, calls = stand_in
    assert call("--runs", "plain", "seeds=[0]") == 0
    assert [c.split()[0] for c in calls()] == ["train", "eval"]
    assert call("--runs", "base,laser", "seeds=[0]") == 0
    names = {r["name"] for r in csv.DictReader((tmp_path / "out/front.csv").open())}
    assert names == {"base", "plain", "LASER T=20"}
    with pytest.raises(TautError, match="did you mean 'laser'"):
        call("--runs", "lasr")


def test_another_setting_for_a_finished_run_is_refused(stand_in, no_picture):
    call, _ = stand_in
    assert call("--runs", "plain", "seeds=[0]") == 0
    with pytest.raises(TautError, match=r"optim\.lr=0\.001, the sweep asks for 0\.5; choose another --out"):
        call("--runs", "plain", "seeds=[0]", "optim.lr=0.5")
    assert call("--runs", "plain", "seeds=[0]", "checkpoint.every=3") == 0


def test_what_other_code_made_is_named_and_taken_or_made_anew(tmp_path, stand_in, no_picture, capsys):
    call, calls = stand_in
    some = ("--runs", "plain,base", "seeds=[0]")
    assert call(*some) == 0 and len(calls()) == 3
    for run, stage in (("plain-s0", "train"), ("base", "evaluate")):
        path = tmp_path / "out" / run / "code.json"
        made = json.loads(path.read_text())
        assert made[stage][0]["code"] == sweep_code.code(stage)["code"]
        path.write_text(json.dumps({**made, stage: [{"code": "0ld", "revision": "abc"}]}))
    named = r"(?s)base \(evaluation\): by code 0ld \(revision abc\).*plain-s0: .*--other-code take"
    with pytest.raises(TautError, match=named):
        call(*some)
    assert call(*some, "--other-code", "take") == 0 and calls() == []
    assert "train: made by code 0ld (revision abc), taken as it is: plain-s0" in capsys.readouterr().out
    assert call(*some, "--other-code", "anew") == 0 and sorted(c.split()[0] for c in calls()) == [
        "eval",
        "eval",
        "train",
    ]
    assert (tmp_path / "out/replaced/plain-s0.1/code.json").exists()
    assert call(*some) == 0 and calls() == []


def test_a_run_that_two_codes_made_names_the_other(tmp_path):
    sweep_code.note(tmp_path, "train", afresh=True)
    assert sweep_code.other(tmp_path, "train") == ""
    path = tmp_path / "code.json"
    path.write_text(path.read_text().replace(sweep_code.code("train")["code"], "0ld"))
    sweep_code.note(tmp_path, "train", afresh=False)
    assert len(json.loads(path.read_text())["train"]) == 2 and "0ld" in sweep_code.other(tmp_path, "train")
    sweep_code.note(tmp_path, "train", afresh=True)
    assert sweep_code.other(tmp_path, "train") == ""
    assert sweep_code.other(tmp_path / "none", "train") == "an unknown revision"


def test_dry_run_starts_nothing(stand_in, capsys):
    call, calls = stand_in
    assert call("--dry-run") == 0 and calls() == []
    assert capsys.readouterr().out.splitlines() == [
        "base: evaluate", "plain-s0: train", "laser-s0: train", "plain-s1: train", "laser-s1: train",
    ]  # fmt: skip


def sweep_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "x.yaml"
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_settings_are_laid_base_then_run_then_command_line(tmp_path):
    file = sweep_file(tmp_path, """
        base: {steps: 7, optim.lr: 0.1, optim: {weight_decay: 0.5}}
        runs: {a: {optim.lr: 0.2}, b: {reward: {type: laser, target: 9}, reward.target: 10}}
        """)  # fmt: skip
    sweep, overrides = load_sweep(file, ["steps=3", "seeds=[4]"])
    a, b = plan(sweep, tmp_path / "out", overrides)
    assert a.config and b.config and a.evaluation is None
    assert (a.config.steps, a.config.seed, a.config.optim.lr, a.config.optim.weight_decay) == (3, 4, 0.2, 0.5)
    assert b.config.reward.model_dump()["target"] == 10
    assert (a.kind, b.kind, b.folder.name) == ("plain", "shaped", "b-s4")


def test_grids_are_multiplied_out(tmp_path):
    file = sweep_file(tmp_path, """
        base: {steps: 7}
        runs: {laser: {recipe: laser, grid: {reward.target: [40, 60], advantage: [grpo, {type: raw}]}}, grid: {prompts: [2, 4]}}
        """)  # fmt: skip
    runs = plan(load_sweep(file)[0], tmp_path / "out")
    assert [r.name for r in runs] == [
        *(f"laser-target={t}-advantage={a}-s0" for t in (40, 60) for a in ("grpo", "raw")),
        "prompts=2-s0", "prompts=4-s0",
    ]  # fmt: skip
    config = runs[3].config
    assert config and config.reward.model_dump()["target"] == 60 and config.advantage.type == "raw"


@pytest.mark.parametrize("text, message", [
    ("runs: {a: {stepz: 3}}", "run 'a'.*stepz.*did you mean 'steps'"),
    ("runs: {a: {reward: {type: lazer}}}", "run 'a'.*laser"),
    ("runs: {base: {}}", "run 'base': a name is"),
    ("runs: {a: {grid: {steps: 3}}}", "run 'a': grid is .*write grid: {key: \\[values\\]}"),
    ("runs: {a: {grid: {steps: [3, 3]}}}", "run 'a-steps=3': stands there twice"),
    ("runs: {a: 3}", "runs.a"),
    ("runs: {}", "runs"),
    ("runs: {a: {}}\nseeds: [1, 1]", "each seed once"),
    ("runs: {a: {}}\nevaluate: {}", "did you mean 'evaluation'"),
    ("runs: {a: {}}\nevaluation: {sample: 3}", "did you mean 'samples'"),
])  # fmt: skip
def test_a_bad_sweep_file_is_named_before_anything_starts(tmp_path, text, message):
    with pytest.raises(TautError, match=f"(?s){message}"):
        sweep, overrides = load_sweep(sweep_file(tmp_path, text))
        plan(sweep, tmp_path / "out", overrides)


def test_the_sweeps_that_ship_are_right(tmp_path):
    for name, at_least in (("front", 5), ("table", 7)):
        runs = plan(load_sweep(name)[0], tmp_path)
        assert [r.kind for r in runs].count("base") == 1
        assert len({r.configuration for r in runs if r.config}) >= at_least
    with pytest.raises(TautError, match="did you mean 'front'"):
        load_sweep("frnt")


def test_the_live_table_holds_every_run(tmp_path, stand_in):
    from rich.console import Console

    runs = {r.name: r for r in plan(load_sweep(str(tmp_path / "s.yaml"))[0], tmp_path / "out")}
    jobs = [sweep_jobs.make_job(r) for r in runs.values()]
    jobs[1].state, jobs[1].stage = "running", "train"
    (tmp_path / "out/plain-s0").mkdir(parents=True)
    row = {"step": 2, "accuracy": 0.75, "tokens": 33.0, "time/step": 30.0}
    (tmp_path / "out/plain-s0/metrics.jsonl").write_text(json.dumps(row) + "\n")
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(LiveBoard(runs, 1).table(jobs))
    text = console.export_text()
    for part in ("plain-s0", "2/4", "0.750", "33.0", "1:00", "laser-s1", "waiting", "0 of 5 runs done"):
        assert part in text
    board = Board(runs, 1)
    board.look(jobs[1])
    assert "about 7:00 left" in board.summary(jobs)  # 14 steps of 30 s


@pytest.mark.slow
def test_a_real_small_sweep_on_the_embedded_model(tmp_path):
    file = sweep_file(tmp_path, """
        base:
          {recipe: overthinker, steps: 2, prompts: 4, sampling.samples: 4, sampling.max_tokens: 64, rollout.engine: transformers}
        runs: {plain: {}, laser: {reward: {type: laser, target: 40, wrong: 0.0, format: false}}}
        evaluation: {samples: 2, problems: 12}
        """)  # fmt: skip
    command = [sys.executable, "-m", "taut", "sweep", file, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "out/front.png")
    rows = {r["name"]: r for r in csv.DictReader((tmp_path / "out/front.csv").open())}
    assert set(rows) == {"base", "plain", "laser"} and all(r["problems"] == "12" for r in rows.values())
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and again.stdout.count("finished before") == 3


@pytest.mark.slow
def test_a_sweep_whose_run_is_killed_and_that_is_killed_itself_ends_with_the_same_table(tmp_path):
    file = sweep_file(tmp_path, """
        base:
          {recipe: overthinker, steps: 3, prompts: 2, sampling.samples: 4, sampling.max_tokens: 32, checkpoint.every: 1,
           rollout.engine: transformers}
        runs: {laser: {reward: {type: laser, target: 20, wrong: 0.0, format: false}}}
        evaluation: {samples: 2, problems: 8}
        """)  # fmt: skip

    def sweep(out: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "taut", "sweep", file, "--out", str(tmp_path / out), "--jobs", "1"]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def at_step(step: int) -> int:
        """The process of the run when it has done so many steps."""
        run = tmp_path / "killed/laser-s0"
        follower = Follower(run / "metrics.jsonl", 3)
        until = time.monotonic() + 180
        while follower.step < step:
            assert time.monotonic() < until, f"the run did not get to step {step}"
            time.sleep(0.02)
            follower.look()
        return json.loads((run / "status.json").read_text())["pid"]

    whole = sweep("whole")
    told, _ = whole.communicate()
    assert whole.returncode == 0, told
    shutil.copytree(tmp_path / "whole/base", tmp_path / "killed/base")  # the base model is the same, and made once
    killed = sweep("killed")
    os.kill(at_step(1), signal.SIGKILL)
    at_step(2)
    killed.kill()
    told, _ = killed.communicate()
    assert "laser-s0: failed (train: killed by SIGKILL); it is tried once more" in told
    again = sweep("killed")
    told, _ = again.communicate()
    assert again.returncode == 0 and "base: finished before" in told, told
    assert (tmp_path / "killed/front.csv").read_text() == (tmp_path / "whole/front.csv").read_text()
