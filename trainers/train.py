"""A run from its start or its last checkpoint to its end, over the loss of ranks of the trainer."""

from __future__ import annotations

import logging
from typing import Any

from rewards.errors import TautError
from trainers import checkpoint
from trainers.grpo import Trainer
from trainers.run import Run
from trainers.share import RankLost

log = logging.getLogger("taut.trainers")

MAX_RESTARTS = 3  # from one checkpoint


def train(run: Run) -> str:
    """Train a run to its end; see Trainer.train. Where a rank of the trainer is lost, it goes on from the last checkpoint."""
    events: list[dict[str, Any]] = []
    while True:
        try:
            told = [event for row in run.rows for event in row.get("events", ())]
            return _train(run, [event for event in events if event not in told])
        except RankLost as error:
            lost = [e for e in events if e["from_step"] == (checkpoint.steps(run.path) or [0])[-1]]
            if len(lost) == MAX_RESTARTS:
                raise TautError(
                    f"trainer.ranks={run.config.trainer.ranks}: lost ranks {len(lost) + 1} times since the last checkpoint; "
                    f"the last time: {error.reason}. Is there memory enough? Try a smaller micro_tokens, "
                    f"trainer.gradient_checkpointing=true or more ranks, then: taut train resume={run.path}"
                ) from error
            log.warning(
                "%s; going on from the last checkpoint%s", error.reason, f"\n{error.stack}" if error.stack else ""
            )
            run = Run.resume(run.path)
            event = {"kind": "trainer_restarted", "from_step": run.step, "reason": error.reason}
            events.append(event | ({"stack": error.stack} if error.stack else {}))


def _train(run: Run, events: list[dict[str, Any]]) -> str:
    trainer = None
    try:
        trainer = Trainer(run, events)
        return trainer.train()
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if trainer:
            trainer.patience = 2.0
        run.status(state, step=trainer.step_number if trainer else run.step, error=str(error))
        raise
    finally:
        if trainer:
            trainer.close()
        run.close()
