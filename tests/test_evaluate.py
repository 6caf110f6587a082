"""taut eval: settings that follow from the model, what is written, and what is refused."""

import numpy as np
import pyarrow.parquet as parquet
import pytest

from benchmarks.evaluate import level_table, load_evaluate_config, main, read_evaluation
from benchmarks.statistics import Samples
from rewards.errors import TautError
from trainers.config import recipe

EMBEDDED = recipe("overthinker")


def run_folder(tmp_path, model=True):
    run = tmp_path / "run"
    (run / ("model" if model else "checkpoints")).mkdir(parents=True)
    (run / "config.yaml").write_text(
        "prompt: {template: 'Q: {problem}'}\nrollout: {temperature: 0.6, engine: transformers}\n"
        "sampling: {type: group, max_tokens: 77}\nheldout: {data: held.jsonl}\n"
    )
    return run


def test_without_a_model_the_embedded_benchmark_is_measured():
    config = load_evaluate_config([])
    assert (config.model, config.data, config.max_tokens) == (EMBEDDED["model"], EMBEDDED["heldout"]["data"], 320)
    assert config.prompt.template == "{problem}" and config.temperature == 1.0


@pytest.mark.parametrize("inside", ["", "model"])
def test_a_run_is_measured_as_it_was_trained(tmp_path, inside):
    run = run_folder(tmp_path)
    config = load_evaluate_config([f"model={run / inside}", "samples=8", "--temperature", "0.9"])
    assert config.model == str(run / "model") and config.data == "held.jsonl"
    assert (config.max_tokens, config.samples, config.temperature) == (77, 8, 0.9)
    assert config.prompt.template == "Q: {problem}" and config.rollout.engine == "transformers"


def test_a_schedule_stands_where_the_run_ended(tmp_path):
    run = run_folder(tmp_path)
    (run / "config.yaml").write_text(
        "sampling: {type: group, max_tokens: {type: piecewise, from_steps: [0, 4], values: [90, 60]}, "
        "budget: {type: drops, start: 64, factor: 0.5, every: 3}}\nsteps: 6\nheldout: {data: held.jsonl}\n"
    )
    config = load_evaluate_config([f"model={run}"])
    assert (config.max_tokens, config.budget) == (60, 32)
    (run / "config.yaml").write_text("sampling: {type: random_budget, low: 20, high: 100}\nheldout: {data: h.jsonl}\n")
    config = load_evaluate_config([f"model={run}", "max_tokens=50"])
    assert (config.max_tokens, config.budget) == (50, 60)


def test_a_foreign_model_takes_nothing_from_a_run(tmp_path):
    config = load_evaluate_config([f"model={tmp_path}", "data=x.jsonl", "prompt.system=Be brief."])
    assert config.prompt.template is None and config.prompt.system == "Be brief." and config.max_tokens == 1024


@pytest.mark.parametrize("arguments, message", [
    (["model=x"], "data: missing"),
    (["sample=3"], "did you mean 'samples'"),
    (["samples=0"], "samples.*greater than or equal to 1, got 0"),
    (["--reference"], "--reference: a value is missing"),
    (["temperature=-1"], "temperature"),
])  # fmt: skip
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(TautError, match=f"(?s){message}"):
        load_evaluate_config(arguments)


def test_an_unfinished_run_a_file_in_the_way_and_a_bad_reference_are_refused(tmp_path):
    with pytest.raises(TautError, match="taut train resume="):
        load_evaluate_config([f"model={run_folder(tmp_path, model=False)}"])
    (tmp_path / "e.parquet").touch()
    with pytest.raises(TautError, match="exists already"):
        main([f"out={tmp_path / 'e.parquet'}"])
    with pytest.raises(TautError, match=r"name it \.jsonl"):
        main([f"out={tmp_path / 'f.parquet'}", "reference=r.csv"])


def test_the_table_has_every_level_and_all():
    samples = Samples(
        np.array(["a", "b", "c"]), np.array([1, 2, 3]), np.array([1, 0, 1]), level=np.array(["1", "1", "2"])
    )
    lines = level_table(samples).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "2", "all"] and "0.667" in lines[-1]


@pytest.mark.slow
def test_evaluating_the_embedded_model_twice_gives_the_same_samples(tmp_path, capsys):
    arguments = ["problems=12", "samples=2", "max_tokens=48", "rollout.engine=transformers"]
    for name in ("a", "b"):
        assert main([*arguments, f"out={tmp_path / name}.parquet"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(tmp_path / "b.parquet")
    a, b = (parquet.read_table(tmp_path / f"{name}.parquet") for name in "ab")
    assert a.column("token_ids") == b.column("token_ids")
    samples, about = read_evaluation(tmp_path / "a.parquet")
    assert len(samples) == 24 and samples.length.max() <= 48
    assert (about["temperature"], about["samples"], about["max_tokens"]) == (1.0, 2, 48)
