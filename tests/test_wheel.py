"""A wheel of this checkout, installed in an empty place: everything is inside and nothing comes from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rewards", "rollout", "trainers", "benchmarks")
SHIPPED = {".py", ".yaml", ".json", ".jsonl", ".jinja", ".safetensors"}

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment | variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made of, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "taut.py"):
        shutil.copy(ROOT / name, copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    (file,) = out.glob("taut-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; dependencies come from the one that runs the tests, its editable Taut does not."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=place)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    # a folder named by a .pth file is searched, but its own .pth files, the editable install among them, are not read
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place


def test_the_wheel_holds_every_file_of_the_packages(source: Path, wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [file for package in PACKAGES for file in (source / package).rglob("*") if file.is_file()]
    expected = {file.relative_to(source).as_posix() for file in files if file.suffix in SHIPPED} | {"taut.py"}
    assert expected - inside == set()
    assert any(name.startswith("trainers/recipes/") and name.endswith(".yaml") for name in inside)
    assert "benchmarks/overthinker/checkpoint/model.safetensors" in inside
    assert not [name for name in inside if name.startswith("tests/") or name == "bootstrap.py"]


def test_it_is_imported_from_where_it_was_installed(installed: Path, tmp_path: Path):
    code = "import importlib; print(*(importlib.import_module(m).__file__ for m in {!r}), sep='\\n')"
    files = run(installed / "bin" / "python", "-c", code.format((*PACKAGES, "taut")), cwd=tmp_path).split()
    assert len(files) == len(PACKAGES) + 1
    assert all(Path(file).is_relative_to(installed) for file in files), files


def test_the_commands_run_in_an_empty_folder(installed: Path, tmp_path: Path):
    taut = installed / "bin" / "taut"
    assert "sweep" in run(taut, "--help", cwd=tmp_path)
    assert "laser" in run(taut, "methods", cwd=tmp_path)
    resolved = run(taut, "train", "recipe=overthinker", "--dry-run", cwd=tmp_path)
    assert "reward" in resolved
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_inside_loads(installed: Path, tmp_path: Path):
    code = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from benchmarks.overthinker import CHECKPOINT
AutoTokenizer.from_pretrained(CHECKPOINT)
model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
print(CHECKPOINT, sum(p.numel() for p in model.parameters()))
"""
    folder, parameters = run(installed / "bin" / "python", "-c", code, cwd=tmp_path).split()
    assert Path(folder).is_relative_to(installed)
    assert int(parameters) > 10_000
