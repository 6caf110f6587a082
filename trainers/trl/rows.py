"""From what TRL hands to a reward function to Taut's rollouts, and to whole groups of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewards.errors import TautError
from rollout.types import Problem, Request, Rollout
from trainers.config import TrainConfig
from trainers.seams import DATA, from_data

COLUMNS = {name: name for name in ("id", "answer", "problem", "level", "source", "origin", *DATA)}


class Rows:
    """Reads one data set's rows for one recipe. columns: its names of Taut's columns, where they differ."""

    def __init__(self, recipe: TrainConfig, columns: Mapping[str, str]) -> None:
        if unknown := sorted({*columns} - COLUMNS.keys()):
            raise TautError(f"columns: {unknown[0]!r} is none of Taut's columns {', '.join(COLUMNS)}")
        self.columns = COLUMNS | dict(columns)
        self.required = ("id", "answer", *from_data(recipe))
        self._prompts: dict[str, str] = {}  # problem id -> the prompt that it was first met with

    def rollouts(
        self,
        trainer: Any,
        prompts: Sequence[Any],
        ids: Sequence[Sequence[int]],
        columns: Mapping[str, Any],
        version: int,
    ) -> list[Rollout]:
        """One a row, not judged; `grouped` gives groups and sample ids once those of all processes are together.

        A response is truncated where its last id ends nothing. Its text is decoded from the ids, without the end token.
        """
        values = {name: columns.get(there, [None] * len(prompts)) for name, there in self.columns.items()}
        for name in self.required:
            if None in values[name]:
                there, row = self.columns[name], list(values[name]).index(None)
                raise TautError(
                    f"data set: row {row} of the batch has no column {there!r}, which is Taut's {name!r}; add it, or say where "
                    f"it is: columns={{{name!r}: ...}}"
                )
        rendered: dict[str, tuple[tuple[int, ...], str]] = {}
        out = []
        for i, prompt in enumerate(prompts):
            if (key := repr(prompt)) not in rendered:
                (encoded,), *_ = trainer._tokenize_prompts([prompt])
                rendered[key] = tuple(encoded), trainer.processing_class.decode(encoded, skip_special_tokens=False)
            row = {name: column[i] for name, column in values.items()}
            out.append(self._rollout(trainer, *rendered[key], tuple(ids[i]), row, version))
        return out

    def _rollout(
        self,
        trainer: Any,
        prompt_ids: tuple[int, ...],
        prompt: str,
        ids: tuple[int, ...],
        row: dict[str, Any],
        version: int,
    ) -> Rollout:
        extra = {name: row[name] for name in DATA if row[name] is not None}
        texts = {
            name: "" if row[name] is None else str(row[name]) for name in ("id", "problem", "answer", "level", "source")
        }
        problem = Problem(**(texts | {"problem": texts["problem"] or prompt}), extra=extra)
        origin = "train" if trainer.model.training else "monitor" if row["origin"] == "monitor" else "validation"
        budget = None if "budget" not in extra else int(extra["budget"])
        stops = {*trainer.eos_token_ids}
        ended = bool(ids) and ids[-1] in stops | {trainer._tokenizer.pad_token_id}
        shown = list(ids[:-1] if ids and ids[-1] in stops else ids)
        return Rollout(
            Request(problem, 0, 0, prompt, trainer.max_completion_length, budget=budget, origin=origin),
            prompt_ids,
            ids,
            (float("nan"),) * len(ids),  # TRL tells a reward function of no log-probs
            "stop" if ended else "length",
            (version,) * len(ids),
            trainer.processing_class.decode(shown, skip_special_tokens=False),
        )

    def grouped(self, rollouts: Sequence[Rollout], size: int, first: int) -> list[Rollout]:
        """The same with groups of `size` and sample ids from `first` on. Raises TautError where neighbours are not of one
        prompt, or one id stands for several prompts."""
        if len(rollouts) % size:
            raise TautError(
                f"{len(rollouts)} rollouts came, and a group has num_generations={size}; none may be cut in two"
            )
        for start in range(0, len(rollouts), size):
            members = [(r.request.problem.id, r.request.prompt) for r in rollouts[start : start + size]]
            if len({*members}) > 1:
                raise TautError(
                    f"rollouts {start} to {start + size - 1} should be one group (num_generations={size}), but are of problems "
                    f"{', '.join(sorted({name for name, _ in members})[:3])}, or of several prompts; keep TRL's own order"
                )
            name, prompt = members[0]
            if self._prompts.setdefault(name, prompt) != prompt:
                raise TautError(
                    f"data set: id {name!r} stands for two prompts; state is kept by id: give each problem its own"
                )
        for i, rollout in enumerate(rollouts, first):
            rollout.request = replace(rollout.request, group=i // size, sample_id=i)
        return list(rollouts)
