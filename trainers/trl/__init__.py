"""Taut's rewards and advantages inside TRL's GRPOTrainer: `from trainers.trl import TautReward`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.trl.reward import TautReward

__all__ = ["TautReward"]


def __getattr__(name: str) -> Any:
    if name == "TautReward":  # TRL is imported when it is asked for, not before
        from trainers.trl.reward import TautReward

        return TautReward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
