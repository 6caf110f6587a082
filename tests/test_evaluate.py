"""taut eval: settings that follow from the model, what is written, and what is refused."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import benchmarks.evaluate
from benchmarks.arguments import positional
from benchmarks.evaluate import evaluate, load_evaluate_config, main
from benchmarks.evaluation_file import Parts, read_evaluation, read_lines
from benchmarks.evaluation_report import extra_tables, level_table, report, write_report
from benchmarks.statistics import Samples
from rewards.errors import TautError
from rollout.paths import locate
from trainers.settings import recipe

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
    with pytest.raises(TautError, match=r"name the samples \.parquet"):
        main([f"out={tmp_path / 'f.json'}"])
    with pytest.raises(TautError, match=r"name it \.jsonl"):
        main([f"out={tmp_path / 'f.parquet'}", "reference=r.csv"])


def test_the_table_has_every_level_and_all():
    samples = Samples(
        np.array(["a", "b", "c"]), np.array([1, 2, 3]), np.array([1, 0, 1]), level=np.array(["1", "1", "2"])
    )
    lines = level_table(samples).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "2", "all"] and "0.667" in lines[-1]


def test_several_data_sets_have_a_table_of_their_own():
    samples = Samples(
        np.array(["a", "b", "c"]), np.array([1, 2, 3]), np.array([1, 0, 1]), source=np.array(["x", "y", "y"])
    )
    assert [line.split("|")[1].strip() for line in level_table(samples).splitlines()[-2:]] == ["x", "y"]


def judged(problems=40, k=4) -> Samples:
    rng = np.random.default_rng(0)
    n = problems * k
    verdict = rng.integers(0, 2, n)
    verdict[3] = -1
    return Samples(
        np.repeat([f"p{i:02}" for i in range(problems)], k), rng.integers(5, 200, n), verdict, level=np.repeat(["1", "2"], n // 2),
        source=np.tile(["a", "b"], n // 2), answer=np.where(verdict == 1, "7", rng.choice(["", "8", "9"], n)),
    )  # fmt: skip


def test_the_report_agrees_with_what_it_is_made_of(tmp_path):
    samples = judged()
    whole, *others = parts = report(samples)
    assert [(p["by"], p["name"]) for p in others] == [("level", "1"), ("level", "2"), ("source", "a"), ("source", "b")]
    known = samples.take(samples.known)
    assert (whole["problems"], whole["samples"], whole["unknown"]) == (40, 160, 1)
    assert whole["tokens"]["median"] == np.median(known.length)
    assert list(whole["pass_at"]) == list(whole["maj_at"]) == ["1", "2", "3"]  # one problem has three known samples
    assert whole["pass_at"]["1"][0] == pytest.approx(whole["accuracy"][0], abs=1e-6)
    assert whole["pass_at"]["3"][0] > whole["pass_at"]["2"][0] > whole["pass_at"]["1"][0]
    assert [b[0] for b in whole["by_budget"]] == [16, 32, 64, 128, 256]
    assert whole["by_budget"][-1][1:] == pytest.approx(whole["accuracy"], abs=1e-5)
    assert all(
        8 * 2**i <= n < 8 * 2**i + 4 for i, (_, _, _, n) in enumerate(whole["shortest"].values())
    )  # equal lengths all count
    right = known.length[known.verdict == 1]
    assert whole["tokens_correct"]["p90"] == pytest.approx(np.quantile(right, 0.9))
    write_report(tmp_path / "e.json", parts)
    assert json.loads((tmp_path / "e.json").read_text())["parts"] == parts
    lines = extra_tables(parts).splitlines()
    assert "pass@3" in lines[0] and "maj@3" in lines[0] and lines[-1].startswith("| accuracy")


@pytest.mark.parametrize("verdict", [[-1, -1], [1, 0]])
def test_a_report_of_almost_nothing_has_no_numbers_made_up(verdict):
    whole = report(Samples(np.array(["a", "a"]), np.array([3, 9]), np.array(verdict)))[0]
    assert whole["accuracy"][1:] == [None, None] and whole["maj_at"] == {} and extra_tables([whole])
    assert (whole["tokens"]["median"] is None) == (verdict == [-1, -1])


def write(path, **columns):
    rows = {
        "problem_id": ["a", "a", "b"],
        "sample_id": [0, 1, 2],
        "length": [3, 4, 5],
        "verdict": [1, 0, None],
    } | columns
    parquet.write_table(pa.table({name: values for name, values in rows.items() if values is not None}), path)
    return path


@pytest.mark.parametrize("columns, message", [
    ({"length": [3, None, 5]}, "row 2 has no length"),
    ({"length": [3.0, -1.0, 5.0]}, "row 2: length -1.0 is no number of tokens"),
    ({"verdict": [1, 0, 7]}, "row 3: verdict 7; 1 is correct, 0 wrong"),
    ({"sample_id": [0, 0, 2]}, "sample 0 of problem 'a' stands in rows 1 and 2"),
    ({"verdict": None}, "no column verdict"),
    ({"problem_id": [], "sample_id": [], "length": [], "verdict": []}, "holds no sample"),
])  # fmt: skip
def test_a_bad_evaluation_is_named_by_file_row_and_remedy(tmp_path, columns, message):
    with pytest.raises(TautError, match=f"e.parquet: .*{message}"):
        read_evaluation(write(tmp_path / "e.parquet", **columns))


def test_a_torn_evaluation_is_named(tmp_path):
    path = write(tmp_path / "e.parquet")
    assert len(read_evaluation(path)[0]) == 3 and read_lines(path) == []
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TautError, match=r"e\.parquet: cannot be read as parquet .*Evaluate again"):
        read_evaluation(path)


def test_chunks_made_otherwise_or_torn_are_refused(tmp_path):
    parts = Parts(tmp_path / "e.parquet", {"samples": 4, "rollout": {"engine": "vllm", "workers": 0}})
    parts.begin()
    Parts(tmp_path / "e.parquet", parts.made).begin()
    with pytest.raises(
        TautError, match=r"e\.parquet\.parts: begun with rollout\.workers=0, now it is 2; .*remove the folder"
    ):
        Parts(tmp_path / "e.parquet", {"samples": 4, "rollout": {"engine": "vllm", "workers": 2}}).begin()
    assert parts.size(0) is None
    parts.file(0).write_text("torn")
    with pytest.raises(TautError, match=r"00000\.parquet: cannot be read .*remove this file"):
        parts.size(0)


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


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["plain", "refine"])
def test_a_killed_evaluation_goes_on_to_the_same_samples(tmp_path, monkeypatch, capsys, strategy):
    monkeypatch.setattr(benchmarks.evaluate, "FEWEST", 8)
    config = [
        "problems=12",
        "samples=2",
        "max_tokens=40",
        "rollout.engine=transformers",
        f"strategy={strategy}",
        "rollout.max_num_seqs=4",
    ]
    assert main([*config, f"out={tmp_path / 'a.parquet'}"]) == 0

    def killed(line):
        if line.startswith("16/24"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(load_evaluate_config([*config, f"out={tmp_path / 'b.parquet'}"]), killed)
    with pytest.raises(TautError, match="begun with samples=2, now it is 3"):
        main([*config, "samples=3", f"out={tmp_path / 'b.parquet'}"])
    capsys.readouterr()
    assert main([*config, f"out={tmp_path / 'b.parquet'}"]) == 0
    assert f"going on: {16 if strategy == 'plain' else 48} calls" in capsys.readouterr().out
    a, b = (parquet.read_table(tmp_path / f"{name}.parquet") for name in "ab")
    assert a.equals(b) and not (tmp_path / "b.parquet.parts").exists()
    assert len(read_evaluation(tmp_path / "b.parquet")[0]) == 24
    assert len(read_lines(tmp_path / "b.parquet")) == (0 if strategy == "plain" else 3)


@pytest.mark.slow
def test_two_data_sets_are_told_apart_and_one_problem_is_warned_of(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "problem": "1+1", "answer": "2"}) + "\n")
    config = ["samples=2", "max_tokens=40", "rollout.engine=transformers"]
    both = f"data={tmp_path / 'one.jsonl'},{tmp_path / 'two.jsonl'}"
    assert main([*config, both, f"out={tmp_path / 'a.parquet'}"]) == 0
    assert set(read_evaluation(tmp_path / "a.parquet")[0].source) == {"one", "two"}
    assert "data set" in capsys.readouterr().out
    assert main([*config, f"data={tmp_path / 'one.jsonl'}", f"out={tmp_path / 'b.parquet'}"]) == 0
    assert "one.jsonl: one problem; no interval can be made" in capsys.readouterr().out


def test_models_without_a_key_are_several_and_must_have_names_of_their_own(capsys):
    assert positional(["runs/a", "--samples", "2", "runs/b/model", "data=x.jsonl"]) == (
        ["runs/a", "runs/b/model"],
        ["samples=2", "data=x.jsonl"],
    )
    with pytest.raises(TautError, match=r"two of them are called a; .* out=FILE"):
        main(["one/a", "two/a/model", "data=x.jsonl"])


@pytest.mark.slow
def test_several_models_are_measured_one_after_the_other_and_only_once(tmp_path, capsys):
    models = [str(tmp_path / name) for name in ("first", "second")]
    for model in models:
        shutil.copytree(locate("benchmarks:overthinker/checkpoint"), model)
    settings = [
        "data=benchmarks:overthinker/data/heldout.jsonl", "problems=2", "samples=1", "max_tokens=32",
        "rollout.engine=transformers", f"out={tmp_path / 'evals'}",
    ]  # fmt: skip
    assert main([*models, *settings]) == 0
    made = {f.name for f in (tmp_path / "evals").glob("*.parquet")}
    assert made == {"first.parquet", "second.parquet"}
    assert "taut pareto" in capsys.readouterr().out
    (tmp_path / "evals" / "second.parquet").unlink()
    assert main([*models, *settings]) == 0
    assert capsys.readouterr().out.count("finished before") == 1
