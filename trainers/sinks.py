"""Optional places that a step's numbers also go to. metrics.jsonl is written whatever happens here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from rewards.errors import TautError


class Sink(Protocol):
    """Takes numbers by name, a step at a time."""

    def log(self, row: dict[str, Any], step: int) -> None:
        """Numbers of one step."""
        ...

    def close(self) -> None:
        """Flush."""
        ...


class _TensorBoard:
    def __init__(self, run: Path, project: str, config: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, row: dict[str, Any], step: int) -> None:
        """See Sink."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See Sink."""
        self.writer.close()


class _Wandb:
    def __init__(self, run: Path, project: str, config: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        identifier = "".join(c if c.isalnum() else "-" for c in str(run.resolve()))[-64:]
        self.run = wandb.init(
            project=project, name=run.name, id=identifier, resume="allow", dir=str(run), config=config
        )

    def log(self, row: dict[str, Any], step: int) -> None:
        """See Sink."""
        self.run.log(row, step=step)

    def close(self) -> None:
        """See Sink."""
        self.run.finish()


_SINKS = {"tensorboard": _TensorBoard, "wandb": _Wandb}


def open_sinks(names: list[Any], run: Path, project: str, config: dict[str, Any]) -> list[Sink]:
    """The sinks asked for. Raises TautError where the package is missing."""
    sinks: list[Sink] = []
    for name in names:
        try:
            sinks.append(_SINKS[name](run, project, config))
        except ImportError as error:
            raise TautError(
                f"log.sinks: {name} is not installed ({error}); pip install {name}, or take it out of log.sinks"
            ) from error
    return sinks


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """What of a row is a number."""
    return {k: float(v) for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
