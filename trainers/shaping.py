"""A recipe's reward and advantage in any trainer's hands: Taut's own, and those of other frameworks that sample and update by
themselves (trainers/trl, trainers/verl)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.base import Scores
from rewards.batch import Batch, Floats
from rewards.errors import TautError
from rewards.progress import Progress
from rollout.log import write_rollouts
from rollout.sampler import to_batch
from rollout.types import Rollout
from trainers.checks import lone
from trainers.config import TrainConfig
from trainers.monitor import alarms, heldout_metrics, rollout_metrics, score_metrics, zero_signal
from trainers.run import Run, flat, versions, write_text
from trainers.settings import load_config, to_mapping, to_yaml

log = logging.getLogger("taut")
VERSION = 1  # of the state
# what may be said in `recipe`
OURS = ("recipe", "reward", "advantage", "drop_zero_signal", "verifier", "alarms")
DECIDES = ("reward", "advantage", "drop_zero_signal", "verifier")  # what a state belongs to


def shape(config: TrainConfig, batch: Batch, progress: Progress) -> tuple[Scores, Floats]:
    """(scores, advantage) of a step's batch. Pure: the reward's state is moved by `observe`, afterwards.

    With `drop_zero_signal` the groups without signal are left out; decided on raw verdicts, never on shaped rewards.
    """
    scores = config.reward.score(batch, progress)
    if config.drop_zero_signal:
        scores = Scores(scores.total, scores.terms, scores.keep & ~zero_signal(batch)[batch.group_index])
    return scores, config.advantage(batch, scores, progress)


def recipe_of(arguments: Sequence[str]) -> TrainConfig:
    """The recipe that `recipe=NAME reward.w=0.5 ...` names, as it is; its model and data are the other trainer's (`Host`).

    Raises TautError for a setting that the other framework decides.
    """
    for argument in arguments:
        key = argument.partition("=")[0]
        if key.split(".")[0] not in OURS:
            raise TautError(
                f"{argument}: the other trainer decides this, in its own settings; here only {', '.join(OURS)} can be set"
            )
    return load_config(["model=MODEL", "data=DATA", *arguments], refused=False)


@dataclass(frozen=True)
class Host:
    """What another trainer's settings say of a run: model and data in words, steps in all, groups a step, rollouts a group, cap
    in tokens, temperature, and the folder for Taut's log (None: no log)."""

    model: str
    data: str
    steps: int
    prompts: int
    samples: int
    max_tokens: int
    temperature: float
    seed: int
    out: str | None


@dataclass(frozen=True)
class Shaped:
    """A step that was scored: (N,) or (N, T) advantage, and the row of its metrics."""

    batch: Batch
    scores: Scores
    advantage: Floats
    row: dict[str, Any]


class Shaping:
    """Scores every step of another trainer's run by a recipe, moves the reward's state, and writes Taut's run folder. Raises
    TautError where groups of one are to be compared.

    One owner calls `train` once a step with all its rollouts, judged; with those of a validation `watch`, once all are there,
    and `test`. Rollouts of origin "monitor" in a validation are what LASER-D watches; plain validation moves nothing.
    """

    def __init__(self, recipe: TrainConfig, host: Host) -> None:
        changes = {
            "model": host.model,
            "data": host.data,
            "steps": host.steps,
            "prompts": host.prompts,
            "seed": host.seed,
            "out": host.out or "",
            "sampling": {"type": "group", "samples": host.samples, "max_tokens": host.max_tokens},
            "rollout": {"temperature": host.temperature},
            "heldout": {},
            "reference": None,
            "difficulty": None,
        }
        self.config = TrainConfig.model_validate(to_mapping(recipe) | changes)
        if lines := list(lone(self.config)):
            raise TautError("\n".join(lines))
        self.host, self.step = host, 0
        self.history: list[dict[str, Any]] = []  # rows of the steps so far, which alarms look back at
        self._run: Run | None = None
        self._opened = 0  # the step at which this process went on
        self._watched = -1  # the last step before which the reward observed what it watches

    def open(self) -> None:
        """Begin at `step`, as `load_state_dict` left it: what the run folder holds of later steps is dropped."""
        self._opened = self.step
        if self.host.out is None:
            return
        path = Path(self.host.out)
        if not self.step and (path / "metrics.jsonl").exists() and (path / "metrics.jsonl").stat().st_size:
            raise TautError(
                f"out={path}: holds a run already; resume from a checkpoint of that run, or choose another folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        self._run = Run(self.config, {"step": self.step} if self.step else None, None)
        if not self.step:
            write_text(path / "versions.json", json.dumps(versions(), indent=1))
            write_text(path / "config.yaml", to_yaml(self.config))
        self._run.status("running")
        self.history = list(self._run.rows)

    def status(self, state: str) -> None:
        """How the run stands, for its folder: finished, interrupted."""
        if self._run is not None:
            self._run.status(state, step=self.step)

    def close(self, state: str = "finished") -> None:
        """Let the run folder go."""
        self.status(state)
        if self._run is not None:
            self._run.close()
            self._run = None

    def progress(self) -> Progress:
        """Where the run stands."""
        return Progress(self.step, self.host.steps, self.host.max_tokens, self.host.seed)

    def train(self, rollouts: Sequence[Rollout], **columns: Any) -> Shaped:
        """Score the next step and move the reward's state. columns: what was measured elsewhere (`mean_log_prob`)."""
        progress, reward = self.progress(), self.config.reward
        wanted = reward.monitor()
        if wanted is not None and progress.step % wanted.every == 0 and self._watched != progress.step:
            raise TautError(
                f"reward {reward.title}: watches {wanted.problems} fixed problems, {wanted.samples} samples each, before the first "
                f"step and every {wanted.every}; none came before step {progress.step}. Have them validated then, as rows with "
                "the column origin: monitor (docs/frameworks.md)"
            )
        state = {"reward": reward.state_dict(), "sampling": {}}
        batch = to_batch(rollouts, **columns)
        scores, advantage = shape(self.config, batch, progress)
        reward.observe(batch, progress)
        self.step += 1
        row: dict[str, Any] = {"step": self.step, **rollout_metrics(batch, rollouts)}
        row |= score_metrics(batch, scores, advantage) | {"max_tokens": progress.max_length}
        row["alarms"] = alarms(row, self.history, self.config.alarms)
        if self._run is not None:
            meta = {"step": self.step, "progress": vars(progress), "state": state, "config": to_mapping(self.config)}
            path = self._run.path / f"rollouts/step-{self.step:06d}.parquet"
            write_rollouts(path, rollouts, batch, meta, scores, advantage)
        return Shaped(batch, scores, advantage, row)

    def log(self, row: dict[str, Any]) -> None:
        """Write a step's row, with what the other trainer says of the same step."""
        self.history.append(row)
        for alarm in row["alarms"]:
            log.warning("step %s: %s", row["step"], alarm)
        if self._run is not None:
            self._run.log(row)

    def watch(self, rollouts: Sequence[Rollout]) -> None:
        """Those of origin "monitor" in a whole validation go to the reward, where it asks for them at this step."""
        progress, wanted = self.progress(), self.config.reward.monitor()
        monitored = [r for r in rollouts if r.request.origin == "monitor"]
        if monitored and wanted is not None and progress.step % wanted.every == 0:
            self.config.reward.observe(to_batch(monitored), progress)
            self._watched = progress.step

    def test(self, rollouts: Sequence[Rollout]) -> dict[str, Any]:
        """What the plain rollouts of a validation say, {} where there are none. Moves nothing. Written to the log, but for one
        that a resumed run begins with: a run that was not interrupted has none there."""
        if not (plain := [r for r in rollouts if r.request.origin != "monitor"]):
            return {}
        batch = to_batch(plain)
        logged = self._run if self.step > self._opened or not self.step else None
        if logged is not None:
            path = logged.path / f"heldout/step-{self.step:06d}.parquet"
            write_rollouts(path, plain, batch, {"step": self.step, "temperature": self.host.temperature})
        row = heldout_metrics(batch, plain)
        if logged is not None:
            logged.amend(self.step, row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the step, the reward's state and what it belongs to."""
        settings = to_mapping(self.config)
        return {
            "version": VERSION,
            "step": self.step,
            "watched": self._watched,
            "reward": self.config.reward.state_dict(),
            "settings": {key: settings[key] for key in DECIDES},
        }

    def load_state_dict(self, state: dict[str, Any], source: str) -> None:
        """Take back what `state_dict` gave. Raises TautError where it belongs to other settings; source: where it was read."""
        if state.get("version") != VERSION:
            raise TautError(
                f"{source}: Taut's state has version {state.get('version')!r}, {VERSION} is needed; use the version of Taut that "
                "wrote it, or start a new run"
            )
        now = to_mapping(self.config)
        before, after = flat(state["settings"]), flat({key: now[key] for key in DECIDES})
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                raise TautError(
                    f"{source}: was made with {key}={before.get(key)!r}, now it is {after.get(key)!r}; put the old value back, "
                    "or start a new run"
                )
        self.config.reward.load_state_dict(state["reward"])
        self.step, self._watched = int(state["step"]), int(state["watched"])
