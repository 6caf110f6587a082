"""Length-filtered vote, length-controlled win rate, and the two edits of weights on the embedded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from benchmarks.analyses import length_vote, win_rate
from benchmarks.analyses.length_vote import LengthVote, accuracy, best_steps
from benchmarks.analyses.win_rate import LengthControlledWinRate
from rewards import Batch, TautError
from rollout.log import write_rollouts
from rollout.paths import locate
from rollout.types import Problem, Request, Rollout
from trainers.edits import cot_valve, thinkedit
from trainers.edits.responses import thinking

MODEL = locate("benchmarks:overthinker/checkpoint")
OPEN, CLOSE, EOS = 100, 101, 97  # of the embedded tokenizer


# ---- length-filtered vote ------------------------------------------------------------------------------------------


def test_length_vote_by_hand() -> None:
    # bins of 10 tokens: 0 [a a b], 1 [b b], 2 [c], 3 [d e]: entropies 0.64, 0, (one candidate), 0.69
    answers, lengths = ["a", "a", "b", "b", "b", "c", "d", "e"], [1, 2, 3, 10, 19, 25, 30, 31]
    assert LengthVote(width=10, bins=1).compute(answers, lengths) == "b"
    assert LengthVote(width=10, bins=2).compute(answers, lengths) == "b"
    assert LengthVote(width=10, bins=1, min_count=1).compute(answers, lengths) == "b"  # entropy 0 twice: the fuller bin
    assert LengthVote(width=10, bins=1, min_count=3).compute(answers, lengths) == "a"
    assert (
        LengthVote(width=10, bins=1, min_count=9).compute(answers, lengths) == "b"
    )  # no bin is large enough: all vote


def test_length_vote_ties_and_the_silent() -> None:
    vote = LengthVote(width=100)
    assert vote.compute([], []) is None and vote.compute([None, " "], [3, 4]) is None
    assert vote.compute([None, " 7 ", "7"], [3, 4, 5]) == "7"
    assert vote.compute(["long", "short"], [90, 10]) == "short"  # of equal votes the shorter answer
    assert vote.compute(["b", "a"], [10, 10]) == "a"
    with pytest.raises(TautError, match="2 answers, 1 lengths"):
        vote.compute(["a", "b"], [1])
    with pytest.raises(TautError, match="negative"):
        vote.compute(["a"], [-1])
    with pytest.raises(ValueError, match="greater than 0"):
        LengthVote(width=0)


@given(
    data=st.lists(st.tuples(st.sampled_from([None, "1", "2", "3"]), st.integers(0, 60)), max_size=24), seed=st.randoms()
)
def test_order_of_candidates_never_matters(data: list[tuple[str | None, int]], seed: Any) -> None:
    vote, mixed = LengthVote(width=10, bins=2), list(data)
    seed.shuffle(mixed)
    got = vote.compute([a for a, _ in data], [n for _, n in data])
    assert got == vote.compute([a for a, _ in mixed], [n for _, n in mixed])
    assert (got is None) == all(a is None for a, _ in data)


def test_best_number_of_steps() -> None:
    assert best_steps(8, 4, 64) == pytest.approx(5.282, abs=1e-3)
    for t, m, c in ((8.0, 4.0, 64.0), (1.0, 1.0, 100.0), (50.0, 7.0, 60.0), (3.0, 0.5, 400.0)):
        best = best_steps(t, m, c)
        around = [accuracy(n, t, m, c) for n in (best * 0.999, best, best * 1.001)]
        assert max(around) == around[1] and best > t / m
    assert best_steps(8, 4, 64) < best_steps(16, 4, 64) and best_steps(8, 4, 64) > best_steps(8, 8, 64)
    assert np.isfinite([best_steps(1e-9, 1, 1e9), best_steps(1 - 1e-12, 1, 1)]).all()
    with pytest.raises(TautError, match="0 < T < C"):
        best_steps(64, 4, 64)


def log(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A rollout log of rows: problem, answer, verdict, text, ids."""
    names = sorted({row["problem"] for row in rows})
    rollouts = [
        Rollout(
            request=Request(Problem(r["problem"], "?", "1"), names.index(r["problem"]), i, "p", 400),
            prompt_ids=tuple(r.get("prompt", (5, 6))), token_ids=tuple(r["ids"]), log_probs=(0.0,) * len(r["ids"]),
            finish_reason="stop", versions=(0,) * len(r["ids"]), text=r.get("text", ""), answer=r.get("answer", ""),
        )
        for i, r in enumerate(rows)
    ]  # fmt: skip
    batch = Batch(
        group=[r.request.group for r in rollouts],
        problem_id=[r.request.problem.id for r in rollouts],
        length=[len(r.token_ids) for r in rollouts],
        verdict=[r["verdict"] for r in rows],
    )
    write_rollouts(path, rollouts, batch, {"step": 0})
    return path


def test_length_vote_of_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(problem: str, answer: str, verdict: int | None, length: int) -> dict[str, Any]:
        return {"problem": problem, "answer": answer, "verdict": verdict, "ids": [7] * length}

    rows = [row("x", "1", 1, 12), row("x", "1", 1, 14), row("x", "8", None, 15)]  # the unknown one is absent
    rows += [row("x", str(n), 0, 20 + n % 2) for n in (2, 2, 2, 3, 3)]  # majority wrong, and of higher entropy
    rows += [row("y", "1", 1, 12), row("z", "1", None, 3)]
    log(tmp_path / "step-0.parquet", rows)
    got = length_vote.compare(tmp_path, LengthVote(width=10, bins=1))
    assert got == {"problems": 2, "mean": (2 / 7 + 1) / 2, "majority": 0.5, "length_filtered": 1.0}
    assert length_vote.main([str(tmp_path), "--width", "10", "--bins", "1"]) == 0
    assert "majority 0.5000, length-filtered 1.0000" in capsys.readouterr().out
    assert length_vote.main([str(tmp_path / "no"), "--width", "10"]) == 2
    assert length_vote.main([str(tmp_path), "--width", "-1"]) == 2 and "width" in capsys.readouterr().err


# ---- length-controlled win rate ------------------------------------------------------------------------------------


def test_equal_length_takes_the_advantage_of_length_away() -> None:
    rng = np.random.default_rng(0)
    base, model = rng.integers(50, 500, 300), rng.integers(50, 900, 300)
    gap = base - model
    wins = 1 / (1 + np.exp(2 * np.tanh(gap / gap.std(ddof=1))))  # the judge looks at the length alone
    got = LengthControlledWinRate().compute(base.tolist(), model.tolist(), wins.tolist())
    assert got.raw > 60 and abs(got.length_controlled - 50) < 1
    assert got.weights["length"] == pytest.approx(-2, rel=0.05) and set(got.weights) == {"length", "model"}


def test_win_rate_of_ties_and_of_the_unrated() -> None:
    same = LengthControlledWinRate().compute([9] * 10, [9] * 10, [0.5] * 10, [0.0] * 10)
    assert same.raw == 50 and same.length_controlled == pytest.approx(50) and same.standard_error == pytest.approx(0)
    rated = [1, 0, 1, 1, 0, 1, 1, None, float("nan")]
    got = LengthControlledWinRate().compute([9] * 9, [8, 7, 9, 9, 9, 9, 9, 9, 9], rated)
    assert got.raw == pytest.approx(500 / 7)
    with pytest.raises(TautError, match="4 rated pairs; 5 folds"):
        LengthControlledWinRate().compute([1] * 5, [2] * 5, [1, 1, 0, 0, None])
    with pytest.raises(TautError, match="one value a pair"):
        LengthControlledWinRate().compute([1] * 5, [2] * 5, [1] * 6)
    with pytest.raises(TautError, match=r"preference 2 is outside \[0, 1\]"):
        LengthControlledWinRate().compute([1] * 5, [2] * 5, [1, 1, 1, 1, 2])


def test_win_rate_of_two_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(verdict: int, size: int) -> list[dict[str, Any]]:
        texts = [{"problem": f"p{i}", "verdict": verdict, "ids": [1], "text": "x" * (size + i)} for i in range(6)]
        return [*texts, {"problem": "p0", "verdict": None, "ids": [1], "text": "x" * 10_000}]

    old, new = log(tmp_path / "old.parquet", rows(0, 20)), log(tmp_path / "new.parquet", rows(1, 10))
    base, model, preference = win_rate.paired([old], [new])
    assert base.tolist() == [20, 21, 22, 23, 24, 25] and model[0] == 10 and set(preference) == {1.0}
    assert win_rate.main([str(old), str(new)]) == 0 and "win rate 100.00 %" in capsys.readouterr().out
    assert win_rate.main([str(old), str(tmp_path / "no")]) == 2


def test_win_rate_intervals_hold_the_value_and_narrow_with_the_pairs() -> None:
    def width(n: int) -> float:
        rng = np.random.default_rng(n)
        base, model = rng.integers(50, 200, (2, n))
        wins = np.clip(0.6 + 0.2 * np.sign(model - base) + 0.2 * rng.standard_normal(n), 0, 1)
        got = LengthControlledWinRate().compute(base.tolist(), model.tolist(), wins.tolist(), resamples=100)
        assert got.low < got.length_controlled < got.high and got.raw_low < got.raw < got.raw_high
        assert got == LengthControlledWinRate().compute(base.tolist(), model.tolist(), wins.tolist(), resamples=100)
        return got.high - got.low

    assert width(400) < 0.6 * width(50)


# ---- CoT-Valve -----------------------------------------------------------------------------------------------------


def test_betas_of_cot_valve() -> None:
    batch = Batch(group=[0, 1, 0, 0, 1, 2], length=[100, 40, 300, 200, 40, 7], verdict=[1] * 6)
    np.testing.assert_allclose(cot_valve.betas(batch), [1, 1, 0, 0.5, 1, 1])


@given(alpha=st.floats(-2, 3), seed=st.integers(0, 99))
def test_interpolation(alpha: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        long, short = (torch.randn(5, 3, generator=generator).to(dtype) for _ in range(2))
        got = cot_valve.interpolate(long, short, alpha)
        want = (long.double() + alpha * (short.double() - long.double())).to(dtype)
        assert got.dtype == dtype and torch.allclose(got.double(), want.double(), rtol=1e-2, atol=1e-3)
        assert cot_valve.interpolate(long, short, 0.0).equal(long) and cot_valve.interpolate(long, short, 1.0).equal(
            short
        )


def copy(out: Path, change: Any = lambda weights: weights, **config: Any) -> Path:
    """The embedded model with other weights or another configuration."""
    shutil.copytree(MODEL, out)
    save_file(change(load_file(MODEL / "model.safetensors")), out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps({**json.loads((MODEL / "config.json").read_text()), **config}))
    return out


def test_valve_on_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    base = load_file(MODEL / "model.safetensors")

    # the other end stores its tied output head as well, in another file and another dtype
    def other(weights: dict[str, Any]) -> dict[str, Any]:
        doubled = {name: (2 * tensor).to(torch.bfloat16) for name, tensor in weights.items()}
        return {**doubled, "lm_head.weight": doubled["model.embed_tokens.weight"].clone()}

    short = copy(tmp_path / "short", other)
    assert cot_valve.main([str(MODEL), str(short), "--alpha", "1.5", "--out", str(tmp_path / "new")]) == 0
    new = load_file(tmp_path / "new" / "model.safetensors")
    assert new.keys() == base.keys() and {t.dtype for t in new.values()} == {torch.float32}
    for name, tensor in base.items():
        torch.testing.assert_close(new[name], 2.5 * tensor, rtol=2e-2, atol=2e-2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert json.loads((tmp_path / "new" / "cot_valve.json").read_text())["alpha"] == 1.5
    assert (tmp_path / "new" / "tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()
    assert cot_valve.main([str(MODEL), str(short), "--out", str(tmp_path / "new")]) == 2
    assert "exists already" in capsys.readouterr().err
    cot_valve.valve(short, MODEL, tmp_path / "back", 1.0)  # a stored tied head follows the other's embeddings
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back["lm_head.weight"].equal(base["model.embed_tokens.weight"].to(torch.bfloat16))


def test_valve_of_shards(tmp_path: Path) -> None:
    weights = load_file(MODEL / "model.safetensors")
    shards = tmp_path / "shards"
    shutil.copytree(MODEL, shards)
    (shards / "model.safetensors").unlink()
    parts = {f"model-{i + 1:05d}-of-00002.safetensors": sorted(weights)[i::2] for i in range(2)}
    for file, names in parts.items():
        save_file({name: weights[name].half() for name in names}, shards / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    cot_valve.valve(shards, MODEL, tmp_path / "new", 1.0)  # other files and another dtype at the other end
    for file, names in parts.items():
        new = load_file(tmp_path / "new" / file)
        assert sorted(new) == names and all(new[name].equal(weights[name].half()) for name in names)
    save_file({"model.norm.weight": torch.ones(96)}, shards / "extra.safetensors")
    with pytest.raises(TautError, match=r"both hold 'model\.norm\.weight'"):
        cot_valve.valve(shards, MODEL, tmp_path / "other", 1.0)


def test_valve_refuses_by_name(tmp_path: Path) -> None:
    norm, out = "model.norm.weight", tmp_path / "new"
    lacks = copy(tmp_path / "lacks", lambda w: {k: v for k, v in w.items() if k != norm})
    wide = copy(tmp_path / "wide", lambda w: {**w, norm: torch.ones(7)})
    ints = copy(tmp_path / "ints", lambda w: {**w, "steps": torch.tensor([1])})
    more = copy(tmp_path / "more", lambda w: {**w, "steps": torch.tensor([2])})
    untied = copy(
        tmp_path / "untied", lambda w: {**w, "lm_head.weight": torch.ones(136, 96)}, tie_word_embeddings=False
    )
    huge = copy(tmp_path / "huge", lambda w: {**w, norm: torch.full((96,), 3e38)})
    broken = copy(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no")
    (tmp_path / "bare").mkdir()
    for base, short, says in (
        (MODEL, lacks, f"one side lacks {norm}"),
        (lacks, MODEL, f"one side lacks {norm}"),
        (MODEL, wide, rf"{norm} \(96,\) and \(7,\)"),
        (ints, more, r"steps \(torch.int64\)"),
        (MODEL, untied, r"lm_head.weight \(not in"),
        (huge, MODEL, f"{norm}: not finite"),
        (MODEL, broken, "cannot be read as safetensors"),
        (MODEL, tmp_path / "bare", "no config.json"),
    ):
        with pytest.raises(TautError, match=says):
            cot_valve.valve(base, short, out, -9.0)
        assert not out.exists() and not list(tmp_path.glob(".*"))


# ---- ThinkEdit -----------------------------------------------------------------------------------------------------


def test_projection() -> None:
    weight, direction = torch.randn(4, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    unit = direction / direction.norm()
    assert torch.allclose(thinkedit.project_out(weight, direction) @ unit, torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(thinkedit.project_out(weight, direction, 2.0) @ unit, -(weight @ unit))
    assert thinkedit.project_out(weight, direction, 0.0).equal(weight)
    assert thinkedit.project_out(weight, torch.zeros(8)).equal(weight)
    assert thinkedit.project_out(weight.bfloat16(), direction).dtype == torch.bfloat16
    o_proj = torch.randn(8, 12)  # 3 heads of 4
    edited = thinkedit.edit_heads(o_proj, [1], 3, direction, 1.0)
    assert edited[:, :4].equal(o_proj[:, :4]) and edited[:, 8:].equal(o_proj[:, 8:])
    assert torch.allclose(unit.float() @ edited[:, 4:8], torch.zeros(4), atol=1e-6)


def test_where_the_thinking_is() -> None:
    assert thinking([1, 7, 8, 2, 9], [1], [2]) == (1, 3)
    assert thinking([7, 8, 2, 9], [1], [2]) == (0, 2)  # the prompt opened it
    assert thinking([1, 7, 8], [1], [2]) is None and thinking([1, 2, 9], [1], [2]) is None
    assert thinking([7, 3, 4, 9], [1], [3, 4]) == (0, 1)


def write_responses(path: Path) -> Path:
    rng = np.random.default_rng(0)
    sizes = [70, 80, 90, 5, 6, 7, 50]
    bodies = [[OPEN, *rng.integers(1, 90, n), CLOSE, 17, EOS] for n in sizes] + [[OPEN, *[9] * 100]]
    rows = [{"problem": "x", "verdict": 1, "ids": [int(i) for i in ids]} for ids in bodies]
    return log(path, rows)


def test_thinkedit_on_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(MODEL).encode("<think></think>") == [OPEN, CLOSE]
    source = write_responses(tmp_path / "log" / "step-0.parquet").parent
    arguments = [f"model={MODEL}", f"log={source}", f"out={tmp_path / 'new'}", "long=60", "short=40", "heads=2"]
    assert thinkedit.main(arguments) == 0
    assert "3 long and 3 short responses of 8" in capsys.readouterr().out
    note = json.loads((tmp_path / "new" / "thinkedit.json").read_text())
    old, new = (load_file(folder / "model.safetensors") for folder in (MODEL, tmp_path / "new"))
    changed = {name for name in old if not old[name].equal(new[name])}
    assert changed == {f"model.layers.{e['layer']}.self_attn.o_proj.weight" for e in note["edited"]}
    assert len(note["edited"]) == 2 and note["edited"][0]["contribution"] >= note["edited"][1]["contribution"]
    assert thinkedit.main(arguments) == 2 and "exists already" in capsys.readouterr().err
    still = thinkedit.ThinkEditConfig(model=str(MODEL), log=str(source), out=str(tmp_path / "same"), long=60, short=40)
    thinkedit.edit(still.model_copy(update={"strength": 0.0}), say=lambda _: None)
    same = load_file(tmp_path / "same" / "model.safetensors")
    assert all(same[name].equal(tensor) for name, tensor in old.items())


def test_measured_as_written(tmp_path: Path) -> None:
    """Direction and contributions against sums over tokens and heads, one state at a time."""
    from trainers.policy import Policy

    model = Policy.load(MODEL).model
    long, short = [([*range(5, 40)], 3, 33)], [([*range(60, 90)], 4, 20), ([*range(20, 31)], 2, 9)]
    got = thinkedit.measure(model, long, short)
    layer, head, size, seen = 2, 1, 32, {}
    attention = model.model.layers[layer].self_attn
    hooks = [
        attention.o_proj.register_forward_hook(lambda _, i, o: seen.update(heads=i[0][0])),
        model.model.layers[layer].post_attention_layernorm.register_forward_hook(
            lambda _, i, o: seen.update(state=i[0][0])
        ),
    ]
    means, outputs = [], []
    for ids, start, end in [*long, *short]:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
        means.append(seen["state"][start - 1 : end - 1].mean(0))
        part = slice(head * size, (head + 1) * size)
        outputs.append((seen["heads"][:, part] @ attention.o_proj.weight[:, part].T)[start - 1 : end - 1].mean(0))
    for hook in hooks:
        hook.remove()
    direction = means[0] - (means[1] + means[2]) / 2
    torch.testing.assert_close(got.directions[layer].float(), direction, rtol=1e-4, atol=1e-5)
    minus = -direction / direction.norm()
    want = ((outputs[1] @ minus + outputs[2] @ minus) / 2).item()
    assert got.contributions[layer, head] == pytest.approx(want, rel=1e-3, abs=1e-4)
    assert got.names[layer] == "model.layers.2.self_attn.o_proj.weight"


def test_thinkedit_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_responses(tmp_path / "log.parquet")
    out, model = f"out={tmp_path / 'new'}", f"model={MODEL}"
    for arguments, says in (
        ([model, out], "give log=PARQUET or data=PROBLEMS"),
        ([model, out, f"log={source}", "data=x.jsonl"], "one of them"),
        (
            [model, out, f"log={source}", "long=60", "short=3"],
            "closes after 5 to 90 tokens: none is short; choose another short",
        ),
        ([model, out, f"log={source}", "long=50", "short=90"], "a response would be both"),
        ([model, out, f"log={tmp_path / 'no'}"], "cannot be read as parquet"),
        ([model, out, f"log={source}", "strenght=2"], "did you mean 'strength'"),
    ):
        assert thinkedit.main(arguments) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(TautError, match="Tiny: needs layers"):
        thinkedit.measure(type("Tiny", (), {"base_model": None})(), [], [])
    assert thinkedit.main([]) == 0 and "strength" in capsys.readouterr().out


def test_thinkedit_samples_what_it_measures(tmp_path: Path) -> None:
    from benchmarks.overthinker import __file__ as here

    lines = (Path(here).parent / "data" / "train.jsonl").read_text().splitlines()[:12]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines) + "\n")
    arguments = [f"model={MODEL}", f"data={tmp_path / 'problems.jsonl'}", f"out={tmp_path / 'new'}", "samples=4"]
    arguments += ["long=60", "short=40", "max_tokens=320", "rollout.engine=transformers", "rollout.temperature=1"]
    assert thinkedit.main([*arguments, 'prompt.template="{problem}"']) == 0
    assert len(json.loads((tmp_path / "new" / "thinkedit.json").read_text())["edited"]) == 1
