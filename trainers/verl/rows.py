"""From verl's rows to Taut's rollouts. Imports nothing of verl: a row is a mapping of what its queue holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewards.batch import Verdict
from rewards.errors import TautError
from rollout.sampler import well_formed
from rollout.types import Problem, Request, Rollout
from trainers.config import TrainConfig
from trainers.seams import DATA, from_data

FIELDS = ("prompts", "responses", "extra_fields", "extra_info", "reward_model", "data_source")
LOG_PROBS = "rollout_log_probs"


def problem_of(
    extra_info: Mapping[str, Any], reward_model: Mapping[str, Any], data_source: str, prompt: str
) -> Problem:
    """The problem of a row. Its id is extra_info.id, or data_source/split/index. Raises TautError where neither is there."""
    name = extra_info.get("id")
    if name is None and extra_info.get("index") is not None:
        name = f"{data_source}/{extra_info.get('split', '')}/{extra_info['index']}"
    if name is None:
        raise TautError(
            f"data: a row of {data_source!r} has neither extra_info.id nor extra_info.index, by which state is kept; add one"
        )
    if reward_model.get("ground_truth") is None:
        raise TautError(f"data: row {name!r} has no reward_model.ground_truth, which is the answer; add it")
    extra = {column: value for column in DATA if (value := extra_info.get(column)) is not None}
    return Problem(
        str(name), str(extra_info.get("problem") or prompt), str(reward_model["ground_truth"]),
        str(extra_info.get("level") or ""), str(data_source), extra,
    )  # fmt: skip


class Rows:
    """Reads a run's rows. Problems are known again by their prompts: one id for two prompts is refused."""

    def __init__(self, recipe: TrainConfig, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.required = from_data(recipe)
        self._prompts: dict[str, str] = {}

    def rollouts(
        self, keys: Sequence[str], rows: Sequence[Mapping[str, Any]], first: int, version: int, origin: str
    ) -> tuple[list[Rollout], list[int]]:
        """(rollouts, position of each among `keys`): groups together, by problem and session, sample ids from `first` on.

        keys: `{uid}_{session}_{output}` of verl. origin: "train", or that of rows that say no other. Raises TautError for
        sessions of several outputs, and for rows that another reward manager has judged.
        """
        groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, key in enumerate(keys):
            uid, session, output = key.rsplit("_", 2)
            if output != "0":
                raise TautError(f"verl's row {key}: a session of several outputs; Taut compares single responses")
            groups[uid].append((int(session), i))
        built = {i: self._rollout(rows[i], version, origin) for i in range(len(keys))}
        order = sorted(groups.values(), key=lambda members: (built[members[0][1]].request.problem.id, members[0][1]))
        out, places = [], []
        for group, members in enumerate(order):
            for _, i in sorted(members):
                rollout = built[i]
                rollout.request = replace(rollout.request, group=first + group, sample_id=first + len(out))
                out.append(rollout)
                places.append(i)
        return out, places

    def _rollout(self, row: Mapping[str, Any], version: int, origin: str) -> Rollout:
        prompt_ids, ids = (tuple(int(t) for t in row[name]) for name in ("prompts", "responses"))
        prompt = self.tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
        extra = row["extra_info"] or {}
        problem = problem_of(extra, row["reward_model"] or {}, str(row["data_source"]), prompt)
        if self._prompts.setdefault(problem.id, prompt) != prompt:
            raise TautError(
                f"data: id {problem.id!r} stands for two prompts; state is kept by id: give each problem its own extra_info.id"
            )
        for column in self.required:
            if column not in problem.extra:
                raise TautError(f"data: row {problem.id!r} has no extra_info.{column}, which the recipe reads; add it")
        judged = (row["extra_fields"] or {}).get("reward_extra_info") or {}
        if "taut_verdict" not in judged:
            raise TautError(
                "verl's rows hold no verdict of Taut's reward manager; set reward.reward_manager as `taut verl` prints it"
            )
        if origin != "train" and extra.get("origin") == "monitor":
            origin = "monitor"
        told = row.get(LOG_PROBS)
        log_probs = [float("nan")] * len(ids) if told is None else [float(x) for x in told][: len(ids)]
        budget = problem.extra.get("budget")
        text = str(judged["taut_text"])
        return Rollout(
            Request(problem, 0, 0, prompt, self.max_tokens, budget=None if budget is None else int(budget), origin=origin),
            prompt_ids, ids, tuple(log_probs), "length" if judged["truncated"] else "stop", (version,) * len(ids), text,
            tags=well_formed(str(judged["taut_opened"]) + text), verdict=Verdict(int(judged["taut_verdict"])),
            reason=str(judged["taut_reason"]), answer=str(judged["taut_answer"]), format_ok=bool(judged["format_ok"]),
        )  # fmt: skip
