"""Engines sample what they say they sample: seeds decide draws, log-probs are the trainer's, weights arrive."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rewards.errors import TautError
from rollout import choose as engines
from rollout.choose import choose_engine, make_engine
from rollout.engine import Engine, EngineConfig
from rollout.sync import Canary, sync
from rollout.types import Prompt
from tests import tiny

TEMPERATURE = 0.8
ROOT = Path(__file__).resolve().parents[1]
CANARY = Canary(tuple(range(20, 44)))
slow_vllm = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny.qwen3(folder / "a", 0), tiny.qwen3(folder / "b", 1)


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=slow_vllm)])
def started(request: pytest.FixtureRequest, models: tuple[Path, Path]) -> Iterator[Engine]:
    config = EngineConfig(
        engine=request.param, temperature=TEMPERATURE, batch_size=16, max_num_seqs=16, sleep=request.param == "vllm"
    )
    engine = make_engine(config, str(models[0]), tiny.STOPS)
    yield engine
    engine.close()


@pytest.fixture
def engine(started: Engine, models: tuple[Path, Path]) -> Engine:
    """The engine of the module, at the weights of model a and version 0."""
    started.load_weights(tiny.weights(models[0]), 0)
    return started


def test_a_seed_decides_the_draws_and_nothing_else_does(engine: Engine) -> None:
    asked = tiny.prompts(6, 4, (3, 60))
    first = engine.generate(asked)
    assert engine.generate(asked) == first  # bit for bit
    tiny.assert_same(list(reversed(engine.generate(asked[::-1]))), first, 1e-5)
    tiny.assert_same([engine.generate([p])[0] for p in asked[:6]], first[:6], 1e-5)
    reseeded = engine.generate([Prompt(p.ids, p.max_tokens, p.seed + 500) for p in asked])
    assert sum(a.token_ids == b.token_ids for a, b in zip(first, reseeded, strict=True)) < len(asked) / 2


@hypothesis_settings(max_examples=10)
@given(order=st.permutations(range(12)), size=st.integers(1, 12))
def test_any_part_of_a_batch_in_any_order_gives_the_same_draws(
    order: list[int], size: int, transformers_engine: Engine
) -> None:
    asked = tiny.prompts(4, 3, (2, 5, 30), seed=3)
    whole = transformers_engine.generate(asked)
    part = transformers_engine.generate([asked[i] for i in order[:size]])
    tiny.assert_same(part, [whole[i] for i in order[:size]], 1e-5)


@pytest.fixture(scope="module")
def transformers_engine(models: tuple[Path, Path]) -> Engine:
    config = EngineConfig(engine="transformers", temperature=TEMPERATURE, batch_size=5)
    return make_engine(config, str(models[0]), tiny.STOPS)


def test_a_stop_token_ends_a_completion_and_belongs_to_it(engine: Engine) -> None:
    asked = tiny.prompts(8, 4, (1, 20, 200), seed=1)
    given = engine.generate(asked)
    assert {c.finish_reason for c in given} == {"stop", "length"}
    for prompt, completion in zip(asked, given, strict=True):
        assert not set(completion.token_ids[:-1]) & set(tiny.STOPS)
        assert (completion.token_ids[-1] in tiny.STOPS) == (completion.finish_reason == "stop")
        assert len(completion.token_ids) <= prompt.max_tokens
        assert completion.finish_reason == "stop" or len(completion.token_ids) == prompt.max_tokens
        assert len(completion.log_probs) == len(completion.versions) == len(completion.token_ids)


@pytest.mark.parametrize("temperature", [None, 1.0, 1.7])
def test_log_probs_are_those_of_a_forward_pass_at_the_temperature(
    engine: Engine, models: tuple[Path, Path], temperature: float | None
) -> None:
    score = tiny.trainer_scores(models[0], temperature or TEMPERATURE)
    asked = tiny.prompts(6, 3, (1, 80), seed=2)
    given = engine.generate(asked, temperature)
    assert tiny.largest_gap(score, asked, given) < 1e-5
    if temperature is None:
        ids = asked[0].ids + given[0].token_ids
        assert engine.score(ids) == pytest.approx(score(ids), abs=1e-5)


def test_tokens_are_drawn_as_often_as_the_softmax_says(engine: Engine, models: tuple[Path, Path]) -> None:
    prompt, draws = (11, 12, 13), 1500
    given = engine.generate([Prompt(prompt, 1, seed) for seed in range(draws)])
    score = tiny.trainer_scores(models[0], TEMPERATURE)
    for token in range(0, tiny.VOCABULARY, 5):
        p = math.exp(score((*prompt, token))[-1])
        seen = sum(c.token_ids[0] == token for c in given)
        assert abs(seen - draws * p) <= 4.5 * math.sqrt(draws * p * (1 - p)) + 1


def test_weights_replace_all_that_was_there(engine: Engine, models: tuple[Path, Path]) -> None:
    asked = tiny.prompts(4, 4, (40,), seed=4)
    before, score = engine.generate(asked), tiny.trainer_scores(models[1], TEMPERATURE)
    gap = sync(engine, tiny.weights(models[1]), 3, CANARY, score)
    assert 0 <= gap < 1e-5 and engine.version == 3
    after = engine.generate(asked)
    assert tiny.largest_gap(score, asked, after) < 1e-5
    assert all(set(c.versions) == {3} for c in after)
    engine.load_weights(tiny.weights(models[0]), 0)
    assert engine.generate(asked) == before


def test_an_engine_that_rests_wakes_when_it_is_asked(engine: Any, models: tuple[Path, Path]) -> None:
    """On a CPU vLLM stops but keeps its memory; what it is asked to do is the same as on a GPU."""
    asked = tiny.prompts(4, 4, (40,), seed=5)
    want, scored = engine.generate(asked), engine.score(CANARY.ids)
    for _ in range(2):
        engine.rest()
    assert engine.name != "vllm" or engine.llm.llm_engine.is_sleeping()
    assert engine.generate(asked) == want
    engine.rest()
    assert engine.score(CANARY.ids) == scored
    engine.rest()
    assert sync(engine, tiny.weights(models[1]), 3, CANARY, tiny.trainer_scores(models[1], TEMPERATURE)) < 1e-5
    assert engine.name != "vllm" or not engine.llm.llm_engine.is_sleeping()


def test_only_vllm_sleeps(models: tuple[Path, Path]) -> None:
    with pytest.raises(
        TautError, match=r"rollout\.sleep=true: the transformers engine \(rollout\.engine=transformers\)"
    ):
        make_engine(EngineConfig(engine="transformers", sleep=True), str(models[0]), tiny.STOPS)


def test_a_canary_dies_when_engine_and_trainer_differ(engine: Engine, models: tuple[Path, Path]) -> None:
    score = tiny.trainer_scores(models[1], TEMPERATURE)  # the trainer is at b, the engine is given a
    with pytest.raises(TautError, match=rf"engine {engine.name} .* version 5, more than 0\.0001"):
        sync(engine, tiny.weights(models[0]), 5, CANARY, score)
    with pytest.raises(TautError, match="nan nats"):
        sync(engine, tiny.weights(models[0]), 5, CANARY, lambda ids: [0.0, math.nan, *engine.score(ids)[2:]])


def test_the_head_dim_that_vllm_cannot_do_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64, "num_attention_heads": 4}))
    assert engines.head_dim(str(tmp_path)) == 16


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt((), 5, 1), "prompt 1 of 2 is empty"),
        (Prompt((20,), 0, 1), "prompt 1 of 2: max_tokens=0"),
        (
            Prompt((20,) * 500, 50, 1),
            "prompt 1 of 2: 500 tokens and max_tokens=50 .* context of 512; set max_tokens to 12",
        ),
        (Prompt((20,) * 600, 5, 1), "prompt 1 of 2: its 600 tokens fill the context of 512; use a shorter prompt"),
        (Prompt((20, 136), 5, 1), "prompt 1 of 2: token id 136 is outside the model's vocabulary of 136"),
    ],
)
def test_a_request_that_cannot_be_met_names_its_place(engine: Engine, prompt: Prompt, message: str) -> None:
    with pytest.raises(TautError, match=message):
        engine.generate([Prompt((20,), 5, 1), prompt])
    with pytest.raises(TautError, match="temperature=0"):
        engine.generate([Prompt((20,), 5, 1)], 0.0)


def test_weights_of_another_model_are_refused(transformers_engine: Engine, models: tuple[Path, Path]) -> None:
    good = tiny.weights(models[0])
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(TautError, match=rf"1 missing \['{name}'\]"):
        transformers_engine.load_weights({k: v for k, v in good.items() if k != name}, 1)
    with pytest.raises(TautError, match="1 unknown"):
        transformers_engine.load_weights(good | {"x.weight": good[name]}, 1)
    with pytest.raises(TautError, match=rf"{name} has shape"):
        transformers_engine.load_weights(good | {name: good[name][:3]}, 1)


def test_a_draw_is_never_a_token_of_probability_zero() -> None:
    import torch

    from rollout.transformers_engine import sample

    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 1.0, -math.inf]]).repeat(4, 1)
    uniforms = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    tokens, log_probs = sample(logits, 1.0, uniforms)
    assert tokens.tolist() == [1, 1, 3, 3]
    assert log_probs.tolist() == pytest.approx([math.log(0.5)] * 4)
    with pytest.raises(TautError, match="not finite"):
        sample(torch.full((1, 3), math.nan), 1.0, uniforms[:1])


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_other_families_are_sampled_right(tmp_path: Path, family: str) -> None:
    """Learned positions; a sliding window shorter than the sequences."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "mistral": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"intermediate_size": 64, "sliding_window": 9, "max_position_embeddings": 64},
    }[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=tiny.VOCABULARY, initializer_range=0.2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    engine = make_engine(EngineConfig(engine="transformers"), str(tmp_path), tiny.STOPS)
    asked = [Prompt(p.ids[:20], p.max_tokens, p.seed) for p in tiny.prompts(6, 3, (2, 44))]
    assert tiny.largest_gap(tiny.trainer_scores(tmp_path, 1.0), asked, engine.generate(asked)) < 1e-5


def test_auto_takes_vllm_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, gpu, gcc = True, False, "/usr/bin/gcc"
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    monkeypatch.setattr(engines.shutil, "which", lambda name: gcc)
    auto, vllm = EngineConfig(), EngineConfig(engine="vllm")
    assert choose_engine(auto, str(tmp_path))[0] == "vllm"
    (tmp_path / "config.json").write_text(json.dumps({"head_dim": 16}))
    assert choose_engine(auto, str(tmp_path)) == (
        "transformers",
        "vLLM is installed, but cannot do head_dim=16 on a CPU",
    )
    tiny.qwen3(tmp_path, 0)
    assert choose_engine(auto, str(tmp_path)) == ("transformers", "faster than vLLM on a CPU at 0.4 M parameters")
    monkeypatch.setattr(engines, "CPU_SMALL", 100_000)
    assert choose_engine(auto, str(tmp_path))[0] == "vllm"
    gcc = None
    assert "gcc is missing" in choose_engine(auto, str(tmp_path))[1]
    gpu = True
    assert choose_engine(auto, str(tmp_path))[0] == "vllm"
    installed = False
    assert choose_engine(auto, str(tmp_path)) == ("transformers", "vLLM is not installed")
    with pytest.raises(TautError, match="vLLM is not installed"):
        choose_engine(vllm, str(tmp_path))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TautError, match=f"model={tmp_path}"):
        make_engine(EngineConfig(engine="transformers"), str(tmp_path), ())


def test_what_an_engine_is_can_be_imported_without_torch() -> None:
    code = "import rollout.choose, rollout.sync, rollout.pool, sys; print({'torch', 'ray', 'vllm'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


RESTARTED = """
import json, sys
from rollout.choose import make_engine
from rollout.engine import EngineConfig
from tests import tiny
engine = make_engine(EngineConfig(engine=sys.argv[1], temperature=0.8, batch_size=16, max_num_seqs=16), sys.argv[2], tiny.STOPS)
given = engine.generate(tiny.prompts(6, 4, (3, 60), seed=9))
json.dump([[c.token_ids, c.log_probs] for c in given], open(sys.argv[3], "w"))
engine.close()
"""


@pytest.mark.slow
def test_another_process_at_the_same_weights_samples_the_same_bits(
    engine: Engine, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """What resuming a killed run needs: a fresh engine that loads b, and one that was given b on the way, are one."""
    engine.generate(tiny.prompts(5, 3, (50,), seed=8))
    engine.load_weights(tiny.weights(models[1]), 1)
    here = engine.generate(tiny.prompts(6, 4, (3, 60), seed=9))
    out = tmp_path / "out.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RESTARTED, engine.name, str(models[1]), str(out)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    there = [(tuple(tokens), tuple(log_probs)) for tokens, log_probs in json.loads(out.read_text())]
    assert there == [(c.token_ids, c.log_probs) for c in here]
