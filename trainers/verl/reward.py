"""The reward manager that verl calls for every response: Taut's verdict, and what the sampler needs of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from rewards.batch import Batch
from rewards.progress import Progress
from rewards.verifier import Verifier
from rollout.prompts import model_configs, stop_ids, thinking_open
from trainers.verl.recipe import recipe_in
from trainers.verl.rows import problem_of

log = logging.getLogger("taut")
TIMEOUT_S = 600.0  # of one verdict, whatever the verifier's own deadline


class TautRewardManager(RewardManagerBase):
    """reward_score: 1 for a correct response, else 0; what is trained on is written by the sampler, which sees whole groups.

    reward_extra_info: acc, unknown (1 where there is no verdict), length (tokens), truncated, format_ok and, where the recipe's
    reward looks at one response alone and has no state, shaped, what it pays: these become verl's validation metrics. And, as
    text, what the sampler reads: taut_verdict, taut_reason, taut_answer, taut_text, taut_opened. It never raises: verl would drop
    the response in silence. What cannot be judged is unknown, with the reason.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, *_: Any, **__: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.recipe = recipe_in(config)
        self.verifier = Verifier(**vars(self.recipe.verifier))
        self.text: Any = tokenizer
        self.stops = stop_ids(tokenizer, *model_configs(config.actor_rollout_ref.model.path))[0]
        self.cap = int(config.data.max_response_length)
        self.unknown: Counter[str] = Counter()
        reward = self.recipe.reward
        self.pointwise = reward.scope == "rollout" and not reward.state_dict() and reward.needs <= {"format_ok"}

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The verdict on one response."""
        try:
            info = await self._judge(data[0])
        except Exception as error:
            reason = f"error: {type(error).__name__}"
            self.unknown[reason] += 1
            log.warning("no verdict (%s so far): %s: %s", self.unknown[reason], type(error).__name__, error)
            info = self._info(-1, reason, "", "", "", 0, False, False, 0)
        return {"reward_score": info["acc"], "reward_extra_info": info}

    async def _judge(self, row: Any) -> dict[str, Any]:
        width = row.batch["prompts"].shape[-1]
        mask = row.batch["attention_mask"]
        prompt = row.batch["prompts"][mask[:width].bool()].tolist()
        ids = row.batch["responses"][: int(mask[width:].sum())].tolist()
        ended = bool(ids) and ids[-1] in self.stops
        text = self.text.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
        asked = self.text.decode(prompt, skip_special_tokens=False)
        extra = row.non_tensor_batch
        problem = problem_of(extra.get("extra_info") or {}, extra["reward_model"], str(extra["data_source"]), asked)
        opened = "<think>" if thinking_open(asked) else ""
        told = self.verifier.averify(problem.answer, text, "stop" if ended else "length", bool(opened))
        judgement = await asyncio.wait_for(told, TIMEOUT_S)
        verdict = int(judgement.verdict)
        if verdict < 0:
            self.unknown[judgement.reason] += 1
        step = max(int(extra.get("global_steps", 1)) - 1, 0)
        return self._info(
            verdict, judgement.reason, judgement.answer, text, opened, len(ids), not ended, judgement.format_ok, step
        )

    def _info(
        self, verdict: int, reason: str, answer: str, text: str, opened: str, length: int, truncated: bool, format_ok: bool,
        step: int,
    ) -> dict[str, Any]:  # fmt: skip
        out: dict[str, Any] = {
            "acc": float(verdict == 1), "unknown": float(verdict < 0), "length": float(length),
            "truncated": float(truncated), "format_ok": float(format_ok),
            "taut_verdict": str(verdict), "taut_reason": reason, "taut_answer": answer, "taut_text": text, "taut_opened": opened,
        }  # fmt: skip
        if self.pointwise:
            batch = Batch([0], [length], [verdict], truncated=[truncated], max_tokens=[self.cap], format_ok=[format_ok])
            out["shaped"] = float(self.recipe.reward.score(batch, Progress(step, max_length=self.cap)).total[0])
        return out
