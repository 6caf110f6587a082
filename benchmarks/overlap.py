"""Steps a minute: sampling and training in turn, on one core and on both, against sampling the next step while one trains.

    python -m benchmarks.overlap                 # about eight minutes on two cores

`taut train` on the embedded model in steps of its own benchmark, 10 problems x 8 rollouts of at most 320 tokens, in which sampling
and training cost about the same. Processes in turn: `sync` with one thread, `sync` with both cores in both phases, and
`mode=overlap rollout.workers=1`: a Ray actor samples on one core with one thread while the trainer uses one thread of the other.
Medians over the processes, each the mean of its steps after the first; the pairs' range in brackets.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.peers.programs import Work, taut
from benchmarks.tables import publish
from benchmarks.timing import in_turn
from rewards.errors import TautError
from rollout.paths import locate

COMMON = ("reward.type=correct", "objective.importance=truncate")
OVERLAP = ("mode=overlap", "rollout.workers=1")
KINDS = {
    "sync, one thread": (1, ()),
    "sync, both cores": (2, ()),
    "overlap, one thread each": (1, OVERLAP),
}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: steps a minute, what the phases took, and how many times as fast overlap is."""
    lines = [
        "| | steps a minute | sampling, s | training, s | overlap is faster by |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    last = list(found)[-1]
    for name, runs in found.items():
        mean = statistics.median(one["mean"] for one in runs)
        sample, update = (statistics.median(one[key] for one in runs) for key in ("sample", "update"))
        cells = [name, f"{60 / mean:.1f}", f"{sample:.3f}" + (" (waiting)" if name == last else ""), f"{update:.3f}"]
        pairs = [a["mean"] / b["mean"] for a, b in zip(runs, found[last], strict=True)]
        mine = statistics.median(one["mean"] for one in found[last])
        cells.append("" if name == last else f"{mean / mine:.2f} [{min(pairs):.2f}, {max(pairs):.2f}]")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.overlap", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="of a process, after one that warms up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="put the table there, below the text before the mark")
    given = parser.parse_args(argv)
    model = str(locate("benchmarks:overthinker/checkpoint"))
    work = Work(model, "benchmarks:overthinker/data/train.jsonl", 10, 8, 320, given.steps, 12)
    programs = {name: partial(taut, work, threads, *COMMON, *more) for name, (threads, more) in KINDS.items()}
    found = in_turn(programs, given.repeats, "{mean:.3f} s a step".format_map)
    publish(table(found) + "\n", given.out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TautError as error:
        sys.exit(f"overlap: {error}")
