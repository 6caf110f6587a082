"""Checkpoints and run folders: whole or not at all, damage is named, and nothing good is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rewards import TautError
from trainers import checkpoint
from trainers.run import Run
from trainers.settings import load_config


def fill(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_bytes(bytes(range(256)) * 40)


def saved(run: Path, step: int, keep: int = 5) -> Path:
    return checkpoint.save(run, step, {"step": step, "config": {}}, fill, keep)


def test_round_trip_and_rotation(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 3]
    assert checkpoint.load_state(checkpoint.folder(tmp_path, 3)) == {"step": 3, "config": {}}
    saved(tmp_path, 3)  # a resumed run passes the same step again
    assert checkpoint.steps(tmp_path) == [2, 3]


def test_damage_is_named_with_a_way_out(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    path = saved(tmp_path, 2)
    weights = path / "model" / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(
        TautError,
        match=r"weights\.bin: 10239 bytes, 10240 were written.*remove .*step-000002 to resume from .*step-000001",
    ):
        checkpoint.load_state(path)
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(TautError, match=r"weights\.bin: its content changed"):
        checkpoint.load_state(path)
    weights.unlink()
    with pytest.raises(TautError, match=r"weights\.bin: missing"):
        checkpoint.load_state(path)
    (path / "manifest.json").write_text('{"a": 1}')
    with pytest.raises(TautError, match="not a Taut checkpoint"):
        checkpoint.load_state(path)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    # A real write error: the child may not write files past 4 KiB (as on a full disk, the write call fails).
    saved(tmp_path, 1)
    code = (
        "import resource, signal, sys; from pathlib import Path; from trainers import checkpoint; "
        "from tests.test_checkpoint import fill; from rewards import TautError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: checkpoint.save(Path(sys.argv[1]), 2, {'step': 2}, fill, 5)\n"
        "except TautError as error: print(error)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    ).stdout
    assert "step-000002: the checkpoint cannot be written" in shown and "MiB are free" in shown
    assert "last good checkpoint is" in shown and "step-000001" in shown and "taut train resume=" in shown
    assert checkpoint.steps(tmp_path) == [1] and not list((tmp_path / "checkpoints").glob(".*"))
    checkpoint.load_state(checkpoint.folder(tmp_path, 1))


def run_folder(tmp_path: Path, *arguments: str) -> Run:
    return Run.start(load_config([f"out={tmp_path / 'run'}", *arguments]))


def test_a_run_folder_is_taken_once(tmp_path: Path) -> None:
    run_folder(tmp_path).close()
    run = run_folder(tmp_path)  # the first has done nothing yet: the same command may be given again
    with pytest.raises(TautError, match="another process is writing this run"):
        run_folder(tmp_path)
    run.log({"step": 1})
    with pytest.raises(TautError, match="holds a run already; go on with it"):
        run_folder(tmp_path)
    with pytest.raises(TautError, match="another process is writing this run"):
        Run.resume(run.path)
    run.close()
    assert Run.resume(run.path).step == 0


def test_resume_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    for step in (1, 2, 3):
        run.log({"step": step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "accur')  # killed in mid-write
    for step in (1, 2, 3):
        (run.path / f"rollouts/step-{step:06d}.parquet").parent.mkdir(exist_ok=True)
        (run.path / f"rollouts/step-{step:06d}.parquet").touch()
    from trainers.settings import to_mapping

    checkpoint.save(run.path, 2, {"step": 2, "config": to_mapping(run.config)}, fill, 2)
    run.close()
    again = Run.resume(run.path)
    assert again.step == 2 and [row["step"] for row in again.rows] == [1, 2]
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert sorted(p.stem for p in (run.path / "rollouts").iterdir()) == ["step-000001", "step-000002"]


def test_a_changed_reward_is_refused_on_resume(tmp_path: Path) -> None:
    from trainers.settings import to_mapping

    run = run_folder(tmp_path, "reward=laser", "reward.target=60")
    checkpoint.save(run.path, 2, {"step": 2, "config": to_mapping(run.config)}, fill, 2)
    run.close()
    with pytest.raises(TautError, match=r"reward\.target=50: a resumed run keeps what decides its numbers"):
        Run.resume(run.path, ["reward.target=50"])
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("target: 60", "target: 50"))
    with pytest.raises(TautError, match=r"was made with reward\.target=60, but config\.yaml says 50"):
        Run.resume(run.path)
    config.write_text(config.read_text().replace("target: 50", "target: 60"))
    longer = Run.resume(run.path, ["steps=80"])  # how far to go may change
    assert longer.config.steps == 80 and "steps: 80" in config.read_text()


def test_no_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TautError, match=r"no config\.yaml there, so no run to resume"):
        Run.resume(tmp_path)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TautError, match=r"out=.*cannot be created"):
        Run.start(load_config([f"out={tmp_path / 'file' / 'run'}"]))


def test_versions_are_saved(tmp_path: Path) -> None:
    found = json.loads((run_folder(tmp_path).path / "versions.json").read_text())
    assert {"python", "packages", "revision"} <= found.keys() and "torch" in found["packages"]
