"""Taut on the command line: a table of contents, nothing else."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

HOME = Path(__file__).resolve().parent


def check_home() -> None:
    """Exit with an error when a folder of the user's shadows one of Taut's packages."""
    for package in ("rewards", "rollout", "trainers", "benchmarks"):
        spec = importlib.util.find_spec(package)
        found = (
            Path(next(iter(spec.submodule_search_locations))).resolve()
            if spec and spec.submodule_search_locations
            else None
        )
        if found != HOME / package:
            sys.exit(
                f"taut: the package {package!r} is found at {found}, but Taut's own is {HOME / package}; "
                "that folder is in the way: rename it, or start taut from another folder"
            )


def train(arguments: list[str]) -> int:
    """train a model: [recipe=NAME] model=FOLDER data=FILE [key=value ...], or resume=RUN"""
    from rewards.errors import TautError
    from trainers.run import Run
    from trainers.settings import load_config, to_yaml

    dry = "--dry-run" in arguments
    rest = [a for a in arguments if a != "--dry-run"]
    resumed = [a.removeprefix("resume=") for a in rest if a.startswith("resume=")]
    if resumed and dry:
        raise TautError(
            f"--dry-run shows what a new run would be; this one's settings are in {resumed[-1]}/config.yaml"
        )
    if resumed:
        run = Run.resume(Path(resumed[-1]), [a for a in rest if not a.startswith("resume=")])
    else:
        config = load_config(rest)
        if dry:
            print(to_yaml(config), end="")
            return 0
        run = Run.start(config)
    if run.step >= run.config.steps:
        print(f"{run.path} is finished ({run.step} steps); to go on: taut train resume={run.path} steps={2 * run.step}")
        return 0
    path = run.path
    from trainers.train import train as run_training  # heavy: only once the configuration is known to be good

    try:
        state = run_training(run)
    except KeyboardInterrupt:
        state = "interrupted"
    except Exception:
        if run.rows:  # before the first step there is nothing to lose: the same command may be given again
            print(f"stopped by an error; once it is mended: taut train resume={path}", file=sys.stderr)
        raise
    if state == "interrupted":
        print(f"interrupted; resume with: taut train resume={path}")
        return 130
    print(f"finished; the model is in {path / 'model'}, metrics in {path / 'metrics.jsonl'}")
    return 0


def evaluate(arguments: list[str]) -> int:
    """accuracy and tokens of a model: model=FOLDER data=FILE [samples=4 temperature=1 ...]"""
    from benchmarks.evaluate import main

    return main(arguments)


def data(arguments: list[str]) -> int:
    """a public data set as problems: NAME [--out FILE] [--split S] [--from FILE ...]; without a name, the list of them"""
    from benchmarks.data import main

    return main(arguments)


def verify(arguments: list[str]) -> int:
    """verdicts on the responses of a file, against its labels: FILE [gold=COLUMN response=COLUMN label=COLUMN --out FILE]"""
    from benchmarks.verify_file import main

    return main(arguments)


def sweep(arguments: list[str]) -> int:
    """several runs and their front: [FILE.yaml] [--out DIR] [--jobs N] (default: the embedded benchmark)"""
    from benchmarks.sweep import main

    return main(arguments)


def replay(arguments: list[str]) -> int:
    """what another reward would have done: LOG... [recipe=NAME reward=... configs=FILE.yaml] [--out DIR]"""
    from benchmarks.replay import main

    return main(arguments)


def search(arguments: list[str]) -> int:
    """configurations on the front that a log predicts, as a sweep to train: LOG SWEEP.yaml --out FILE.yaml"""
    from benchmarks.search import main

    return main(arguments)


def pareto(arguments: list[str]) -> int:
    """the front of finished runs: RUN ... --out DIR"""
    from benchmarks.pareto import main

    return main(arguments)


def report(arguments: list[str]) -> int:
    """one run as a page: RUN [--out FILE.html]: curves, alarms, settings, rollouts before and after"""
    from benchmarks.run_report import main

    return main(arguments)


def plan(arguments: list[str]) -> int:
    """step time of a cluster before it is rented: run=RUN measure=true workers=1,8,64, or numbers of your own"""
    from benchmarks.plan import main

    return main(arguments)


def check(arguments: list[str]) -> int:
    """can a wrong answer outscore a correct one: [recipe=NAME] [key=value ...] [--effort N]"""
    from trainers.checks import main

    return main(arguments)


def methods(arguments: list[str]) -> int:
    """every reward, condition, schedule, advantage, objective, sampling plan and recipe: [NAME] (one of them in full)"""
    from trainers.catalogue import main

    return main(arguments)


def verl(arguments: list[str]) -> int:
    """a recipe as overrides of verl's own trainer: recipe=NAME [reward.key=value ...] [--cpu]"""
    from trainers.verl.command import main

    return main(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "data": data,
    "verify": verify,
    "sweep": sweep,
    "replay": replay,
    "search": search,
    "pareto": pareto,
    "report": report,
    "plan": plan,
    "check": check,
    "methods": methods,
    "verl": verl,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. User errors are printed without a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    lines = [f"  {name:<8} {command.__doc__}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        "taut", description="Train reasoning models to think no longer than they must.", add_help=True,
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog="commands:\n" + "\n".join(lines),
    )  # fmt: skip
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    parsed = parser.parse_args(arguments[:1])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a second OpenMP thread stalls on barriers when cores are shared
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")  # vLLM's own, at import
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    check_home()
    from rewards.errors import TautError

    try:
        return COMMANDS[parsed.command](arguments[1:])
    except TautError as error:
        print(f"taut {parsed.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `taut methods | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
