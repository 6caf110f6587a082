"""Small random models for the engine tests, and what a trainer would say of their tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.types import Completion, Prompt

STOPS = (7, 8)
VOCABULARY = 136


def qwen3(folder: Path, seed: int, heads: int = 3, kv_heads: int = 1) -> Path:
    """A 0.4M-parameter Qwen3 in `folder`: grouped queries and tied embeddings, a head size that vLLM can do on a CPU."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=32,
        intermediate_size=256,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=STOPS[0],
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of a model folder by their Hugging Face names."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def trainer_scores(folder: Path, temperature: float):
    """A function: log-probs of ids[1:] by one forward pass of the model in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def score(ids: Sequence[int]) -> list[float]:
        row = torch.tensor([list(ids)])
        with torch.no_grad():
            logits = model(input_ids=row).logits[0, :-1] / temperature
        return torch.log_softmax(logits, -1).gather(-1, row[0, 1:, None])[:, 0].tolist()

    return score


def prompts(groups: int, samples: int, max_tokens: Sequence[int], seed: int = 0) -> list[Prompt]:
    """`groups` random prompts of 3 to 40 tokens, `samples` requests of each; caps drawn from `max_tokens`."""
    draw = random.Random(seed)
    requests = []
    for group in range(groups):
        ids = tuple(draw.randrange(10, VOCABULARY) for _ in range(draw.randrange(3, 40)))
        requests += [
            Prompt(ids, draw.choice(max_tokens), 1000 * seed + group * samples + sample) for sample in range(samples)
        ]
    return requests


def largest_gap(score: Any, asked: Sequence[Prompt], given: Sequence[Completion]) -> float:
    """The largest gap between the completions' log-probs and the trainer's."""
    gap = 0.0
    for prompt, completion in zip(asked, given, strict=True):
        want = score(prompt.ids + completion.token_ids)[len(prompt.ids) - 1 :]
        gap = max(gap, *(abs(a - b) for a, b in zip(completion.log_probs, want, strict=True)))
    return gap


def assert_same(got: Sequence[Completion], want: Sequence[Completion], gap: float) -> None:
    """The same tokens and ends, and log-probs that differ by rounding only."""
    assert [c.token_ids for c in got] == [c.token_ids for c in want]
    assert [c.finish_reason for c in got] == [c.finish_reason for c in want]
    pairs = [(a, b) for x, y in zip(got, want, strict=True) for a, b in zip(x.log_probs, y.log_probs, strict=True)]
    assert max(abs(a - b) for a, b in pairs) <= gap
