"""The short way through a decoding step: what the model itself computes, or it is not taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rollout.cache import growing_cache
from rollout.choose import make_engine
from rollout.decoder import Decoder, bias_of
from rollout.engine import EngineConfig
from tests import tiny

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
PLAIN = {
    "llama": {}, "llama, yarn": {"rope_parameters": YARN}, "qwen2": {"tie_word_embeddings": True}, "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": None, "head_dim": 8},
}  # fmt: skip
OTHER = {
    "gemma2": {"head_dim": 8}, "mistral": {"sliding_window": 4}, "gpt_neox": {}, "phi3": {"pad_token_id": 0},
    "cohere": {}, "granite": {"embedding_multiplier": 3.0},
}  # fmt: skip


def make(kind: str, more: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.partition(",")[0], **{**SIZES, **more})
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@torch.inference_mode()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", PLAIN)
def test_steps_are_those_of_the_model(kind: str, padded: bool) -> None:
    """Eight tokens one after the other, against one pass without a cache: to 1e-5 of the largest logit."""
    model = make(kind, PLAIN[kind])
    assert Decoder.fits(model)
    ids = torch.randint(0, 60, (3, 13))
    mask = torch.ones(3, 13, dtype=torch.bool)
    mask[1, : 2 * padded] = False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    want = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    cache = growing_cache(model.config)
    model(input_ids=ids[:, :5], attention_mask=mask[:, :5], position_ids=positions[:, :5], past_key_values=cache)
    decoder = Decoder(model, 13)
    for at in range(5, 13):
        bias = bias_of(mask[:, : at + 1], torch.float32) if padded else None
        got = decoder.step(ids[:, at], positions[:, at], cache.layers, bias)
        assert (got - want[:, at]).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("kind", OTHER)
def test_what_computes_otherwise_is_declined(kind: str) -> None:
    assert not Decoder.fits(make(kind, OTHER[kind]))


def test_half_precision_is_taken_too() -> None:
    assert Decoder.fits(make("qwen3", PLAIN["qwen3"], torch.bfloat16))


def test_both_ways_sample_the_same(tmp_path: Path) -> None:
    engine: Any = make_engine(EngineConfig(engine="transformers"), str(tiny.qwen3(tmp_path / "model", 0)), tiny.STOPS)
    asked = tiny.prompts(6, 4, (3, 60))
    assert engine.plain
    short = engine.generate(asked)
    engine.plain = False
    tiny.assert_same(engine.generate(asked), short, 1e-5)


def test_borrowed_weights_are_the_givers(tmp_path: Path) -> None:
    """Where it borrows, the engine samples from the tensors it was given; otherwise from a copy."""
    folder = tiny.qwen3(tmp_path / "model", 0)
    for borrows in (True, False):
        engine: Any = make_engine(EngineConfig(engine="transformers"), str(folder), tiny.STOPS)
        engine.borrows = borrows
        weights = {name: tensor.clone() for name, tensor in tiny.weights(tiny.qwen3(tmp_path / "other", 1)).items()}
        engine.load_weights(weights, 1)
        same = [engine.model.state_dict()[name].data_ptr() == tensor.data_ptr() for name, tensor in weights.items()]
        assert all(same) if borrows else not any(same)
        asked = tiny.prompts(3, 2, (3, 20))
        scores = tiny.trainer_scores(tmp_path / "other", 1.0)
        assert tiny.largest_gap(scores, asked, engine.generate(asked)) < 1e-5
        assert engine.model.lm_head.weight is engine.model.model.embed_tokens.weight  # still tied
