"""Sweeps on a Ray cluster: real clusters of this machine, with a stand-in for the trainer where it will do."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import pareto, ray_jobs
from benchmarks.jobs import run_jobs
from benchmarks.ray_jobs import Ground, RayConfig, RayPlace, RayProcess, Resources, ray_places
from benchmarks.sweep import main
from benchmarks.sweep_plan import load_sweep
from rewards.errors import TautError
from tests.runs import ray_head
from tests.test_sweep import REPOSITORY, SWEEP, Silent, install, script_job, sweep_file, wait_for


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether the process ends in time; a zombie has ended."""
    stat, until = Path(f"/proc/{pid}/stat"), time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("text, message", [
    ("resources: {cpus: 0}", "resources.cpus"),
    ("resources: {gpus: 1.5}", "1.5: above 1 it is a whole number"),
    ("resources: {cpu: 1}", "did you mean 'cpus'"),
    ("ray: {address: 'ray://head:10001'}", "start the sweep on a machine of the cluster"),
])  # fmt: skip
def test_bad_resources_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TautError, match=f"(?s){message}"):
        load_sweep(sweep_file(tmp_path, "runs: {a: {}}\n" + text))


def test_jobs_is_a_number_or_ray(tmp_path: Path) -> None:
    for jobs in ("rya", "0", "-1"):
        with pytest.raises(TautError, match=f"--jobs {jobs}: give how many"):
            main([sweep_file(tmp_path, "runs: {a: {}}"), f"--jobs={jobs}"])


def test_resources_are_laid_by_the_command_line() -> None:
    sweep, common = load_sweep("front", ["resources.cpus=2", "ray.address=auto"])
    assert (sweep.resources.cpus, sweep.resources.gpus, sweep.ray.address, common) == (2, None, "auto", [])


def test_a_node_holds_what_fits_and_sees_the_folder_or_is_named(tmp_path: Path) -> None:
    have = {"CPU": 8.0, "GPU": 2.0}
    assert [ray_jobs._holds(have, c, g) for c, g in ((1, 0), (3, 0), (1, 1), (5, 1), (0.1, 0.5), (9, 0))] == [
        8, 2, 2, 1, 4, 0,
    ]  # fmt: skip
    ground = Ground(tmp_path / "mark", "word", tmp_path)
    assert "does not see" in ground.missing() and "file system that all nodes share" in ground.missing()
    ground.mark.write_text("of another sweep")
    assert "does not see" in ground.missing()
    ground.mark.write_text("word")
    assert ground.missing() == "" and ray_jobs._unfit(ground, "") == ""
    assert "has no" in Ground(ground.mark, "word", tmp_path / "elsewhere").missing()


HEARS = """
import os, pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
def asked(*_):
    with (folder / "asked").open("a") as f: f.write("x")
    sys.exit(130)
signal.signal(signal.SIGINT, asked)
(folder / "pid").write_text(str(os.getpid()))
(folder / "ready").touch()
time.sleep(60)
"""


def ended(process: RayProcess) -> int | None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    return process.poll()


@pytest.mark.slow
def test_on_ray_stages_have_what_is_declared_and_end_with_their_actor(tmp_path: Path) -> None:
    """One cluster for all: two at a time, a kill of the command and of its actor, a node too small, one that sees nothing."""
    plain = script_job(
        tmp_path, "plain", "done.write_text(os.getcwd() + os.environ['OMP_NUM_THREADS'] + os.environ['RAY_ADDRESS'])"
    )
    code = "me = done.with_suffix('.pid')\nif me.exists(): done.touch(); sys.exit()\n"
    code += "me.write_text(f'{os.getpid()} {os.getppid()}'); {how}; time.sleep(60)"
    killed = script_job(tmp_path, "killed", code.replace("{how}", "os.kill(os.getpid(), 9)"))
    bereft = script_job(tmp_path, "bereft", code.replace("{how}", "os.kill(os.getppid(), 9)"))
    meeting = "pathlib.Path('{0}').touch()\nwhile not pathlib.Path('{1}').exists(): time.sleep(.01)\ndone.touch()"
    a, b = tmp_path / "a", tmp_path / "b"
    together = [script_job(tmp_path, n, meeting.format(m, o)) for n, m, o in (("j0", a, b), ("j1", b, a))]
    lost = script_job(tmp_path, "lost", "done.touch()")
    with ray_places(RayConfig(), Resources(cpus=1), tmp_path) as places:
        assert len(places) == len(os.sched_getaffinity(0)) and {p.gpus for p in places} == {0.0}
        assert run_jobs([plain, killed, bereft, *together], places, Silent(), poll_s=0.05)
        with pytest.raises(TautError, match=r"takes 999 CPUs .* no node of the Ray cluster has them \(nodes: "):
            ray_jobs.room(999, 0)
        heard = places[0].start([sys.executable, "-c", HEARS.format(folder=str(tmp_path))], tmp_path / "heard.txt")
        wait_for(tmp_path / "ready", 120)  # and nothing is asked of it: that it began is not known to us yet
        waits = RayPlace(len(places), 0, places[0].ground).start(["true"], tmp_path / "waits.txt")  # for room
        waits.interrupt()
        assert ended(waits) == -signal.SIGINT
        heard.interrupt()
        assert ended(heard) == 130 and (tmp_path / "asked").read_text() == "x"
        places[0].ground.mark.unlink()
        with pytest.raises(TautError, match=r"Ray node .* does not see"):
            run_jobs([lost], places, Silent(), poll_s=0.05)
        with pytest.raises(TautError, match=r"Ray node .* does not see"):
            ray_jobs._check_nodes(places[0].ground, 1, 0)
    assert (tmp_path / "plain.done").read_text() == f"{Path.cwd()}1local"
    assert [j.state for j in (plain, killed, bereft, *together)] == ["finished"] * 5
    assert killed.failures == bereft.failures == ["train: killed by SIGKILL"]
    assert "ActorDiedError" in bereft.log.read_text() and "ActorDiedError" not in killed.log.read_text()
    assert gone(int((tmp_path / "bereft.pid").read_text().split()[0]), 0.5)
    assert not list(tmp_path.glob(".ray-*"))


@pytest.mark.slow
def test_stages_run_on_a_cluster_that_is_there(tmp_path: Path) -> None:
    """Joined by its address, as a user would on a cluster; it goes on when the sweep has left it."""
    with ray_head(tmp_path) as (address, head):
        for name in ("first", "again"):
            job = script_job(tmp_path, name, "done.write_text(os.environ['RAY_ADDRESS'])")
            with ray_places(RayConfig(address=address), Resources(cpus=1), tmp_path) as places:
                assert len(places) == 1 and run_jobs([job], places, Silent(), poll_s=0.05)
            assert job.state == "finished" and head.poll() is None


@pytest.mark.slow
def test_where_something_else_listens(tmp_path: Path) -> None:
    """Ray by itself tries for minutes."""
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as other:  # mute
        config = RayConfig(address=f"127.0.0.1:{other.getsockname()[1]}")
        silence = rf"ray\.address={config.address}: no Ray cluster answers there \(timed"
        with pytest.raises(TautError, match=silence), ray_places(config, Resources(cpus=1), tmp_path):
            pass
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_sweep_on_ray_is_that_of_local_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the stand-in: the same commands, the same table, and nothing made again by either."""
    monkeypatch.setattr(pareto, "draw_picture", lambda *_: None)
    call, calls = install(tmp_path, monkeypatch, SWEEP)
    assert call("--jobs", "ray", "seeds=[0]") == 0
    assert "runs side by side, each with 1 CPUs and 0 GPUs" in capsys.readouterr().out
    assert len(calls()) == 2 + 3
    front = (tmp_path / "out/front.csv").read_text()
    assert call("seeds=[0]") == 0 and calls() == [] and (tmp_path / "out/front.csv").read_text() == front


DRIVER = """
import sys, pathlib
from benchmarks.jobs import Job, Stage, run_jobs
from benchmarks.ray_jobs import RayConfig, Resources, ray_places
folder, code = pathlib.Path({folder!r}), {code!r}
class Silent:
    def changed(self, job): pass
    def tick(self, jobs): pass
never = Stage("train", lambda: [sys.executable, "-S", "-c", code], lambda: False)
jobs = [Job(name, [never], folder / "log.txt") for name in ("j0", "j1")]
with ray_places(RayConfig(), Resources(), folder) as places:
    print(run_jobs(jobs, places[:1], Silent(), poll_s=0.05), [j.state for j in jobs])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopping_a_sweep_on_ray_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    code = DRIVER.format(folder=str(tmp_path), code=HEARS.format(folder=str(tmp_path)))
    driver = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for(tmp_path / "ready", 120)
    if how == signal.SIGINT:
        os.killpg(driver.pid, how)  # as a terminal does it: all of the sweep's own group hear it
    else:
        driver.kill()
    out = driver.communicate(timeout=60)[0]
    assert gone(int((tmp_path / "pid").read_text()))
    if how == signal.SIGINT:
        assert (tmp_path / "asked").read_text() == "x"
        assert out.strip().splitlines()[-1] == "False ['interrupted', 'waiting']"


@pytest.mark.slow
def test_a_real_sweep_on_ray_one_run_of_which_is_killed(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, """
        base:
          {recipe: overthinker, steps: 1, prompts: 2, sampling.samples: 2, sampling.max_tokens: 32, rollout.engine: transformers}
        runs: {plain: {}}
        evaluation: {samples: 2, problems: 4}
        """)  # fmt: skip
    command = [sys.executable, "-m", "taut", "sweep", file, "--out", str(tmp_path / "out"), "--jobs", "ray"]
    sweep = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    status = tmp_path / "out/plain-s0/status.json"
    wait_for(status, 120)
    os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
    told, _ = sweep.communicate()
    assert sweep.returncode == 0, told
    assert "plain-s0: failed (train: killed by SIGKILL); it is tried once more" in told
    assert (
        "failed once (train: killed by SIGKILL), finished at the second attempt"
        in (tmp_path / "out/report.md").read_text()
    )
    assert {r["name"] for r in csv.DictReader((tmp_path / "out/front.csv").open())} == {"base", "plain"}
