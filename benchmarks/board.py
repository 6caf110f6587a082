"""What a person sees of a sweep: a live table on a terminal, plain lines in a log; read from the runs' metrics.jsonl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.jobs import Job, tail

LINE_EVERY_S = 30.0  # plain lines: how often the running jobs are told
COLORS = {"finished": "green", "failed": "bold red", "running": "cyan", "interrupted": "yellow", "waiting": "dim"}


class Run(Protocol):
    """What the board reads of a planned run."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        ...

    @property
    def config(self) -> Any:
        """Its training configuration; None where the model is evaluated only."""
        ...


@dataclass
class Follower:
    """Reads what a run appends to its metrics.jsonl; a torn last line is left for the next look."""

    path: Path
    steps: int
    offset: int = 0
    row: dict[str, Any] | None = None
    seconds: float = 0.0  # a step's, smoothed

    def look(self) -> None:
        """Take in the rows written since the last look; from the start when the file became shorter (a resume)."""
        try:
            if self.path.stat().st_size < self.offset:
                self.offset, self.row = 0, None
            with self.path.open("rb") as file:
                file.seek(self.offset)
                new = file.read()
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            try:
                self.row = json.loads(line)
            except ValueError:
                continue
            taken = float((self.row or {}).get("time/step") or 0.0)
            self.seconds = taken if not self.seconds else 0.8 * self.seconds + 0.2 * taken

    @property
    def step(self) -> int:
        """The last finished step."""
        return int((self.row or {}).get("step", 0))

    @property
    def left(self) -> float | None:
        """Seconds to the last step, None before the first."""
        return None if self.row is None else max(self.steps - self.step, 0) * self.seconds

    def value(self, name: str, form: str) -> str:
        """A metric of the last step, formatted; empty where there is none."""
        found = (self.row or {}).get(name)
        return "" if found is None else format(found, form)


class Board:
    """Plain lines, one an event and one a running job every half minute."""

    def __init__(self, runs: Mapping[str, Run], places: int) -> None:
        self.places, self.told = places, time.monotonic()
        self.followers = {
            name: Follower(run.folder / "metrics.jsonl", run.config.steps)
            for name, run in runs.items()
            if run.config is not None
        }

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def changed(self, job: Job) -> None:
        """A line on what happened; of a failed job also the end of its log."""
        if job.state == "waiting":
            self.say(
                f"{job.name}: failed ({job.error}); it is tried once more. End of {job.log}:\n{_indent(tail(job.log))}"
            )
        elif job.state == "failed":
            self.say(f"{job.name}: FAILED ({job.error}); the others go on. End of {job.log}:\n{_indent(tail(job.log))}")
        elif job.skipped:
            self.say(f"{job.name}: finished before")
        elif job.state == "finished":
            self.say(f"{job.name}: finished in {clock(job.seconds)}{self._numbers(job)}")
        else:
            self.say(f"{job.name}: {job.stage if job.state == 'running' else 'stopping'}")

    def tick(self, jobs: Sequence[Job]) -> None:
        """Tell of the running jobs, now and then."""
        if time.monotonic() - self.told >= LINE_EVERY_S:
            self.told = time.monotonic()
            for job in jobs:
                if job.state == "running":
                    self.look(job)
                    self.say(f"{job.name}: {job.stage} {self.step(job)}{self._numbers(job)}{self._eta(job)}")
            self.say(self.summary(jobs))

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def look(self, job: Job) -> None:
        """Bring a job's numbers up to date."""
        if follower := self.followers.get(job.name):
            follower.look()

    def step(self, job: Job) -> str:
        """`12/40`."""
        follower = self.followers.get(job.name)
        return f"{follower.step}/{follower.steps}" if follower else ""

    def summary(self, jobs: Sequence[Job]) -> str:
        """How many are done, and about how long the rest will take."""
        done = sum(j.state in ("finished", "failed") for j in jobs)
        left = self.left(jobs)
        return f"{done} of {len(jobs)} runs done" + (f", about {clock(left)} left" if left else "")

    def left(self, jobs: Sequence[Job]) -> float | None:
        """Seconds until all jobs are done, from the steps left and the pace of those seen; None before the first step."""
        paces = [f.seconds for f in self.followers.values() if f.seconds]
        if not paces:
            return None
        pace, total = sum(paces) / len(paces), 0.0
        for job in jobs:
            follower = self.followers.get(job.name)
            if follower and job.state in ("waiting", "running") and job.stage != "evaluate":
                total += (follower.steps - follower.step) * (follower.seconds or pace)
        return total / self.places

    def _numbers(self, job: Job) -> str:
        self.look(job)
        follower = self.followers.get(job.name)
        if follower is None or follower.row is None:
            return ""
        return f", accuracy {follower.value('accuracy', '.3f')}, tokens {follower.value('tokens', '.1f')}"

    def _eta(self, job: Job) -> str:
        follower = self.followers.get(job.name)
        left = follower.left if follower and job.stage == "train" else None
        return "" if left is None else f", ETA {clock(left)}"


class LiveBoard(Board):
    """A table that is drawn anew; drawn from the caller's thread, so no other thread runs when a process is started."""

    def __init__(self, runs: Mapping[str, Run], places: int) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(runs, places)
        self.live = Live(console=Console(), auto_refresh=False, transient=False)
        self.jobs: Sequence[Job] = ()

    def __enter__(self) -> LiveBoard:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.update(self.table(self.jobs), refresh=True)
        self.live.stop()

    def changed(self, job: Job) -> None:
        """Above the table: failures only; all else stands in it."""
        self.look(job)
        if job.state in ("failed", "waiting"):
            super().changed(job)

    def say(self, text: str) -> None:
        """Print above the table."""
        self.live.console.print(text, highlight=False, markup=False)

    def tick(self, jobs: Sequence[Job]) -> None:
        """Draw the table, twice a second at most."""
        self.jobs = jobs
        if time.monotonic() - self.told < 0.5:
            return
        self.told = time.monotonic()
        self.live.update(self.table(jobs), refresh=True)

    def table(self, jobs: Sequence[Job]) -> Any:
        """One row a job."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.summary(jobs), title_justify="left", expand=False)
        for name in ("run", "state", "step", "accuracy", "tokens", "time", "ETA"):
            table.add_column(name, justify="left" if name in ("run", "state") else "right")
        for job in jobs:
            self.look(job)
            follower = self.followers.get(job.name)
            numbers = [follower.value("accuracy", ".3f"), follower.value("tokens", ".1f")] if follower else ["", ""]
            state = Text(job.stage if job.state == "running" else job.state, style=COLORS[job.state])
            left = self._eta(job).removeprefix(", ETA ") if job.state == "running" else ""
            spent = clock(job.seconds) if job.seconds else ""
            table.add_row(job.name, state, self.step(job), *numbers, spent, left)
        return table


def make_board(runs: Mapping[str, Run], places: int) -> Board:
    """A live table on a terminal, plain lines elsewhere."""
    return LiveBoard(runs, places) if sys.stdout.isatty() else Board(runs, places)


def clock(seconds: float) -> str:
    """`1:05`, `1:02:03`."""
    s = round(seconds)
    return f"{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
