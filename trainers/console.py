"""What a person sees of a run: one line a step; on a terminal a live line with phase, step and ETA below them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def describe(row: dict[str, Any], steps: int) -> str:
    """A step's row in one line."""
    parts = [
        f"step {row['step']:>{len(str(steps))}}/{steps}",
        f"accuracy {_number(row['accuracy'], '.3f')}",
        f"tokens {_number(row['tokens'], '.1f')}",
        f"(correct {_number(row['tokens_correct'], '.0f')}, wrong {_number(row['tokens_wrong'], '.0f')})",
        f"cut {_number(row['truncated'], '.0%')}",
        f"no signal {_number(row['zero_signal'], '.0%')}",
    ]
    if "heldout/accuracy" in row:
        parts.append(
            f"| held out: accuracy {_number(row['heldout/accuracy'], '.3f')}, tokens {_number(row['heldout/tokens'], '.1f')}"
        )
    return " ".join(parts)


class Display:
    """Prints to the terminal or, in plain lines, to a log."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.done, self.began, self.first = steps, done, time.monotonic(), done
        self.console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
        self.live = (
            Live(console=self.console, transient=True, refresh_per_second=4) if self.console.is_terminal else None
        )
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show the phase and add its seconds to `seconds`."""
        if self.live:
            self.live.update(
                Text(f"  step {min(self.done + 1, self.steps)}/{self.steps}  {name} ...  ETA {self.eta()}", style="dim")
            )
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take_seconds(self) -> dict[str, float]:
        """Seconds by phase since the last call, as `time/<phase>`."""
        taken, self.seconds = {f"time/{k}": round(v, 4) for k, v in self.seconds.items()}, {}
        return taken

    def eta(self) -> str:
        """Time left at the mean speed so far."""
        if self.done == self.first:
            return "?"
        left = (time.monotonic() - self.began) / (self.done - self.first) * (self.steps - self.done)
        return f"{int(left) // 60}:{int(left) % 60:02d}"

    def step(self, row: dict[str, Any], warnings: list[str]) -> None:
        """A step is done."""
        self.done = row["step"]
        self.console.print(f"{describe(row, self.steps)}  {row['time/step']:.1f} s, ETA {self.eta()}")
        for warning in warnings:
            self.warn(warning)

    def say(self, text: str) -> None:
        """A plain line."""
        self.console.print(text)

    def warn(self, text: str) -> None:
        """A line that should be seen."""
        self.console.print(Text(f"ALARM {text}", style="bold yellow"))
