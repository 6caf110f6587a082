"""What the checkpoint is like: accuracy of single lines, and accuracy, tokens and passes of whole traces at T=1."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel

from benchmarks.overthinker.problems import LEVELS, below, draw, generate, operands, split_of
from benchmarks.overthinker.teacher import MAX_NEW, NEVER_WRONG, PLAIN, Trace, conclude, parts, solve
from benchmarks.overthinker.tokenizer import EOS, IDS, PAD, decode, encode, prompt

DEV_ROWS, DEV_WIDTH = 24, 352


class Packed(NamedTuple):
    """A batch of packed rows, (rows, width) each; mask is (rows, 1, width, width), true where attention is allowed."""

    ids: torch.Tensor
    kinds: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor


def batches(stream: Iterator[Trace], rows: int, width: int, misses: int = 6) -> Iterator[list[list[Trace]]]:
    """Batches of packed rows: a trace goes to the first row with room; those that fit nowhere wait for the next batch.

    A batch is closed after `misses` traces that did not fit. None is dropped: that would thin out the long ones.
    """
    waiting: list[Trace] = []
    while True:
        packed: list[list[Trace]] = [[] for _ in range(rows)]
        room = [width] * rows
        queue, waiting = waiting, []
        while len(waiting) < misses:
            trace = queue.pop(0) if queue else next(stream)
            index = next((i for i in range(rows) if room[i] >= len(trace.ids)), None)
            if index is None:
                waiting.append(trace)
            else:
                packed[index].append(trace)
                room[index] -= len(trace.ids)
        waiting += queue
        yield packed


def to_tensors(rows: list[list[Trace]], width: int) -> Packed:
    """Tensors of packed rows; a token sees the earlier tokens of its own trace only."""
    ids = torch.full((len(rows), width), IDS[PAD])
    kinds = torch.full((len(rows), width), -1)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    segment = torch.full((len(rows), width), -1)
    for r, row in enumerate(rows):
        start = 0
        for number, trace in enumerate(row):
            end = start + len(trace.ids)
            ids[r, start:end] = torch.tensor(trace.ids)
            kinds[r, start:end] = torch.tensor(trace.kinds)
            positions[r, start:end] = torch.arange(end - start)
            segment[r, start:end] = number
            kinds[r, start] = -1  # the first token follows another trace: nothing may be learned there
            start = end
    same = segment[:, :, None] == segment[:, None, :]
    return Packed(ids, kinds, positions, (same & torch.ones(width, width).tril().bool())[:, None])


def one_pass(style: str, rng: random.Random) -> Iterator[Trace]:
    """Right one-pass traces of levels 3 to 6 in one style."""
    while True:
        level = 3 + below(rng, 4)
        problem = draw(level, rng)
        if split_of(problem) != "train":
            continue
        trace = Trace()
        trace.add(prompt(problem) + "<think>")
        trace.kinds = [-1] * len(trace.ids)
        values = operands(problem)
        cuts = [parts(abs(value), style, rng) for value in values[1:]]
        conclude(trace, "So {}\n", solve(trace, values, cuts, NEVER_WRONG, rng), PLAIN)
        yield trace


def line_sets() -> dict[str, Packed]:
    """The fixed development sets: one with whole-operand lines, one with the finest."""
    return {
        style: to_tensors(
            next(batches(one_pass(style, random.Random(f"lines:{style}")), DEV_ROWS, DEV_WIDTH)), DEV_WIDTH
        )
        for style in ("whole", "digits")
    }


@torch.no_grad()
def line_accuracy(model: PreTrainedModel, sets: dict[str, Packed]) -> dict[str, float]:
    """Probability at T=1 of a line's whole right result, given a right context, by the operand's number of parts."""
    out: dict[str, float] = {}
    for name, style, kind in (("one", "digits", 1), ("two", "whole", 2), ("three", "whole", 3)):
        batch = sets[style]
        logits = model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).logits[:, :-1]
        right = logits.log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
        chosen = batch.kinds[:, 1:] == kind
        # A result's tokens are neighbours and no two results touch, so a running count of starts numbers them.
        before = left_neighbour(chosen)
        number = (chosen & ~before).flatten().cumsum(0)[chosen.flatten()] - 1
        total = torch.zeros(int(number.max()) + 1).index_add_(0, number, right[chosen])
        out[name] = total.exp().mean().item()
    return out


def left_neighbour(chosen: torch.Tensor) -> torch.Tensor:
    """Each position's left neighbour, False at the row's start."""
    return torch.cat([torch.zeros_like(chosen[:, :1]), chosen[:, :-1]], dim=1)


@torch.no_grad()
def sample(
    model: PreTrainedModel, problems: list[str], seed: int, max_new: int = MAX_NEW, greedy: bool = False
) -> list[list[int]]:
    """New token ids per problem, the end token included, at T=1 from the untruncated distribution (or greedily)."""
    torch.manual_seed(seed)
    prompts = [encode(prompt(problem)) for problem in problems]
    width = max(map(len, prompts))
    ids = torch.tensor([[IDS[PAD]] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    out = cast(Any, model).generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=max_new,
        eos_token_id=IDS[EOS], pad_token_id=IDS[PAD], **options,
    )  # fmt: skip
    rows = [row[width:].tolist() for row in out]
    return [row[: row.index(IDS[EOS]) + 1] if IDS[EOS] in row else row for row in rows]


def boxed(text: str) -> str | None:
    """What the last box after the thinking holds, or None."""
    _, mark, tail = text.rpartition("</think>")
    start, end = tail.rfind("\\boxed{"), tail.rfind("}")
    return tail[start + 7 : end] if mark and 0 <= start < end else None


def evaluate(model: PreTrainedModel, count: int, seed: int, greedy: bool = False) -> dict[str, Any]:
    """Accuracy, mean tokens and mean passes on `count` held-out problems, one sample each, over all and by level."""
    model.eval()
    rows = sorted(generate("heldout", count, seed), key=lambda row: row["level"])
    outs: list[list[int]] = []
    for start in range(0, count, 100):  # neighbours are of one level: little is spent on waiting for the longest
        outs += sample(model, [row["problem"] for row in rows[start : start + 100]], seed + start, greedy=greedy)
    table: dict[str, Any] = {}
    for name in ("all", *(str(level) for level in LEVELS)):
        chosen = [i for i, row in enumerate(rows) if name == "all" or str(row["level"]) == name]
        texts = [decode(outs[i]) for i in chosen]
        hits = [boxed(text) == rows[i]["answer"] for i, text in zip(chosen, texts, strict=True)]
        table[name] = {
            "problems": len(chosen),
            "accuracy": round(sum(hits) / max(len(hits), 1), 4),
            "tokens": round(sum(len(outs[i]) for i in chosen) / max(len(chosen), 1), 1),
            "passes": round(sum(1 + text.count("Wait") for text in texts) / max(len(chosen), 1), 2),
            "truncated": sum(IDS[EOS] not in outs[i] for i in chosen),
        }
    return table
