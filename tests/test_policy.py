"""The policy pass equals the naive full computation; micro-batches, weights, loading and saving."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaConfig, Qwen3Config

from rewards.errors import TautError
from trainers.objectives import MiniBatch, build_objective
from trainers.policy import Policy, micro_batches

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "tied": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "untied": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "softcapped": Gemma2Config(**SIZES, final_logit_softcapping=2.0),
    "scaled": GraniteConfig(**SIZES, logits_scaling=3.0),
}


def make(name: str = "tied", logit_chunk: int = 7, attention: str = "sdpa") -> Policy:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=attention)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)  # farther from uniform
    return Policy(model, logit_chunk)


def sequences(n: int = 6, seed: int = 0, vocab: int = 40) -> tuple[list[list[int]], list[list[int]]]:
    rng = random.Random(seed)
    return tuple([[rng.randrange(vocab) for _ in range(rng.randint(1, top))] for _ in range(n)] for top in (6, 15))  # type: ignore[return-value]


def naive(policy: Policy, prompt: list[int], response: list[int], temperature: float) -> tuple[Tensor, Tensor]:
    """(log-probs, entropies) of one unpadded sequence from the model's own logits."""
    logits = policy.model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    log_p = torch.log_softmax(logits / temperature, -1)
    return log_p[range(len(response)), response], -(log_p.exp() * log_p).sum(-1)


def gradients(policy: Policy) -> dict[str, Tensor]:
    out = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return out


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference relative to the largest gradient."""
    assert a.keys() == b.keys()
    top = max(float(g.abs().max()) for g in a.values())
    return max(float((a[k] - b[k]).abs().max()) for k in a) / top


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_naive_computation(name: str, attention: str) -> None:
    """float32: values to 2e-6 (they reach 10 nats), gradients to 2e-6 of the largest."""
    policy, temperature, tolerance = make(name, attention=attention), 1.0 if name == "untied" else 0.6, 2e-6
    prompts, responses = sequences()
    out = policy.log_probs(prompts, responses, temperature, entropy=True, entropy_untempered=True, grad=True)
    assert out.entropy is not None and out.entropy_untempered is not None
    wanted = [naive(policy, p, r, temperature) for p, r in zip(prompts, responses, strict=True)]
    for i, (log_prob, entropy) in enumerate(wanted):
        n = len(responses[i])
        assert torch.allclose(out.log_prob[i, :n], log_prob, atol=tolerance) and not out.log_prob[i, n:].any()
        assert torch.allclose(out.entropy[i, :n], entropy, atol=tolerance)
        untempered = naive(policy, prompts[i], responses[i], 1.0)[1]
        assert torch.allclose(out.entropy_untempered[i, :n], untempered, atol=tolerance)
        assert out.mask[i].tolist() == [True] * n + [False] * (out.mask.shape[1] - n)
    weight = torch.linspace(0.5, 1.5, out.log_prob.shape[1])
    (out.log_prob * weight + 0.3 * out.entropy * weight * out.mask).sum().backward()
    got = gradients(policy)
    sum((weight[: len(lp)] * (lp + 0.3 * h)).sum() for lp, h in wanted).backward()  # type: ignore[union-attr]
    assert far(got, gradients(policy)) < tolerance


def test_chunks_do_not_matter_and_bound_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, responses = sequences()
    results, seen = [], []
    logits = Policy._logits
    monkeypatch.setattr(Policy, "_logits", lambda self, h: seen.append(h.shape[0]) or logits(self, h))
    for chunk in (1, 5, 10_000):
        policy = make(logit_chunk=chunk)
        seen.clear()
        out = policy.log_probs(prompts, responses, 0.7, grad=True)
        out.log_prob.sum().backward()
        assert max(seen) <= chunk
        results.append((out.log_prob.detach(), gradients(policy)))
    for log_prob, gradient in results[1:]:
        assert torch.allclose(log_prob, results[0][0], atol=1e-6) and far(gradient, results[0][1]) < 1e-6


def test_large_vocabularies_shrink_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.policy.MAX_LOGITS", {"cpu": 40 * 3})
    assert make(logit_chunk=4096).chunk == 3


def test_same_call_same_bits() -> None:
    prompts, responses = sequences(12)
    runs = []
    for _ in range(2):
        policy = make()
        policy.log_probs(prompts, responses, grad=True).log_prob.sum().backward()
        runs.append(gradients(policy))
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


def test_entropy_without_gradient_and_no_graph() -> None:
    policy = make()
    prompts, responses = sequences()
    out = policy.log_probs(prompts, responses, 0.5, entropy=True, grad=True, entropy_grad=False)
    assert out.entropy is not None and not out.entropy.requires_grad and out.log_prob.requires_grad
    assert not policy.log_probs(prompts, responses, entropy=True).log_prob.requires_grad


def test_probes() -> None:
    policy = make()
    prompts, responses = [[1, 2], [3]], [[4, 5, 6], [7]]
    out = policy.log_probs(prompts, responses, 0.8, probes=[(0, 4), (0, 9), (2, 6)], grad=True)
    assert out.probes is not None and out.probes.shape == (2, 3)
    got = out.probes.tolist()
    assert got[0][0] == pytest.approx(out.log_prob[0, 0].item(), abs=1e-6)
    assert got[0][2] == pytest.approx(out.log_prob[0, 2].item(), abs=1e-6)
    assert got[1][1] == pytest.approx(naive(policy, [3], [9], 0.8)[0].item(), abs=1e-6)
    assert got[1][2] != got[1][2], "no third token: NaN"
    out.probes[:, 0].sum().backward()
    assert all(g.isfinite().all() for g in gradients(policy).values())


def test_score_is_the_log_prob_of_each_next_token() -> None:
    policy = make()
    assert policy.score([1, 2, 3, 4], 0.7) == pytest.approx(naive(policy, [1], [2, 3, 4], 0.7)[0].tolist(), abs=1e-6)


def test_empty_prompt_and_empty_responses() -> None:
    policy = make()
    with pytest.raises(ValueError, match="empty prompt"):
        policy.log_probs([[]], [[1]])
    out = policy.log_probs([[1], [2]], [[], [3]], entropy=True)
    assert out.mask.tolist() == [[False], [True]] and out.rows(out.log_prob)[0].numel() == 0
    assert policy.log_probs([[1]], [[]], grad=True).log_prob.shape == (1, 0)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_micro_batches(lengths: list[int], max_tokens: int) -> None:
    groups = micro_batches(lengths, max_tokens)
    assert sorted(i for g in groups for i in g) == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= max_tokens for g in groups)
    assert groups == micro_batches(lengths, max_tokens)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum_constant"])
def test_loss_and_gradient_do_not_depend_on_the_split(aggregation: str) -> None:
    """The whole path: policy, mini-batch, objective; one, several and single-rollout micro-batches."""
    policy = make()
    prompts, responses = sequences(8)
    rng = random.Random(0)
    old = [
        [x + rng.gauss(0, 0.3) for x in policy.score([*p[-1:], *r])] for p, r in zip(prompts, responses, strict=True)
    ]
    data = MiniBatch.build(
        old_log_prob=old,
        ref_log_prob=old,
        advantage=[rng.gauss(0, 1) for _ in responses],
        group=[i // 4 for i in range(8)],
        verdict=[1] * 8,
        keep=[i != 3 for i in range(8)],
        max_length=20,
    )
    objective = build_objective(
        {"type": "clipped_token", "aggregation": aggregation, "kl_coef": 0.1, "entropy_coef": 0.1}
    )
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    seen: list[tuple[float, dict[str, Tensor]]] = []
    for max_tokens in (10_000, 45, 1):
        total = 0.0
        for rows in micro_batches(lengths, max_tokens):
            out = policy.log_probs(
                [prompts[i] for i in rows], [responses[i] for i in rows], 0.9, entropy=True, grad=True
            )
            loss, _ = objective.loss(data.micro(rows, out.log_prob, out.entropy), objective.plan(data))
            loss.backward()
            total += loss.item()
        seen.append((total, gradients(policy)))
    for total, gradient in seen[1:]:
        assert total == pytest.approx(seen[0][0], abs=1e-6) and far(gradient, seen[0][1]) < 1e-6


def test_weights_name_tied_ones_once() -> None:
    assert "lm_head.weight" not in make("tied").weights()
    weights = make("untied").weights()
    assert "lm_head.weight" in weights and not any(w.requires_grad for w in weights.values())
    policy = make("tied")
    next(iter(policy.weights().values())).zero_()
    assert not next(iter(policy.weights().values())).any(), "views, not copies"


def test_save_and_load(tmp_path: Path) -> None:
    policy = make("tied")
    policy.save(tmp_path / "model")
    names = {f.name for f in (tmp_path / "model").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors"} <= names
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    again = Policy.load(tmp_path / "model", device="cpu")
    assert again.model.dtype == torch.float32 and again.score([1, 2, 3]) == policy.score([1, 2, 3])


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    make().save(tmp_path)
    prompts, responses = sequences()
    seen = []
    for on in (False, True):
        policy = Policy.load(tmp_path, device="cpu", gradient_checkpointing=on)
        policy.log_probs(prompts, responses, grad=True).log_prob.sum().backward()
        seen.append(gradients(policy))
    assert far(*seen) < 1e-6


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(TautError, match=r"no config\.json"):
        Policy.load(tmp_path)
    with pytest.raises(TautError, match=r"no config\.json"):
        Policy.load(tmp_path / "missing")
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["tied"].to_dict()))
    with pytest.raises(TautError, match="no weights"):
        Policy.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(TautError, match="cannot be loaded"):
        Policy.load(tmp_path)
    with pytest.raises(TautError, match="dtype 'float8'"):
        Policy.load(tmp_path, dtype="float8")


def test_logits_that_are_not_the_heads_are_refused() -> None:
    policy = make()
    policy.head.register_forward_hook(lambda *_: _[2] + 0)  # harmless
    forward = policy.model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out

    policy.model.forward = shifted
    with pytest.raises(TautError, match="Qwen3ForCausalLM changes its logits"):
        Policy(policy.model)
