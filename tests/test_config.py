"""Configuration: layers, overrides, round trips, and errors that name the place, the value and the remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rewards import Laser, Sum, TautError
from rollout.paths import locate
from taut import main
from trainers.config import TrainConfig
from trainers.settings import load_config, recipe, recipes, resolve, to_yaml


def test_no_arguments_mean_the_embedded_benchmark() -> None:
    config = load_config([])
    assert config.model == "benchmarks:overthinker/checkpoint" and config.steps == 40
    assert (locate(config.data).parent / "heldout.jsonl").is_file()


def test_overrides_reach_every_depth() -> None:
    config = load_config(["reward=laser", "reward.target=60", "optim.lr=1e-4", "sampling.samples=4", "heldout.every=5"])
    assert config.reward == Laser(target=60) and config.optim.lr == 1e-4 and config.sampling.samples == 4
    config = load_config(
        [
            "reward={type: sum, terms: [correct, {type: weight, weight: 1, term: linear_length}]}",
            "reward.terms.1.weight=-2",
        ]
    )
    assert isinstance(config.reward, Sum) and config.reward.terms[1].weight == -2  # type: ignore[attr-defined]


def test_a_model_of_ones_own_starts_from_the_defaults() -> None:
    config = load_config(["model=m", "data=d.jsonl", "sampling.samples=2"])
    assert config.heldout.data is None and config.prompt.template is None and config.sampling.samples == 2


def test_a_new_type_replaces_the_whole_piece(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("reward: {type: laser, target: 60}\nadvantage: {type: grpo, ddof: 0}\n")
    (tmp_path / "b.yaml").write_text("reward: {type: arora_zanette, alpha: 0.1}\nadvantage: {type: grpo, eps: 0.1}\n")
    config = load_config([f"recipe={tmp_path / 'a.yaml'}", f"recipe={tmp_path / 'b.yaml'}"])
    assert config.reward.type == "arora_zanette"
    assert (config.advantage.ddof, config.advantage.eps) == (0, 0.1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_resolves_and_survives_yaml(name: str) -> None:
    values = {"model": "m", "data": "d"} | recipe(name)
    config = resolve(TrainConfig, values, name)
    assert resolve(TrainConfig, yaml.safe_load(to_yaml(config)), name) == config


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stesp=3"], "stesp: unknown key; did you mean 'steps'?"),
        (["optim.lrr=3"], "optim.lrr: unknown key; did you mean 'lr'?"),
        (["difficulty.hihg=1"], "difficulty.hihg: unknown key; did you mean 'high'?"),
        (["steps=many"], 'steps: .*got "many"'),
        (["steps=0"], "steps: .*got 0"),
        (["sampling.max_tokens=-5"], "max_tokens: -5 tokens is negative"),
        (["reward=lasr"], "unknown reward 'lasr'; did you mean 'laser'"),
        (["reward=laser", "reward.target=-60"], "target: -60 tokens is negative"),
        (["reward=laser", "reward.targt=60"], "no setting 'targt'; did you mean 'target'"),
        (["advantage=grop"], "unknown advantage 'grop'; did you mean 'grpo'"),
        (["objective.clip_lo=1"], "no setting 'clip_lo'; did you mean 'clip_low'"),
        (["recipe=lazer"], "recipe=lazer: unknown"),
        (["recipe=nowhere.yaml"], "nowhere.yaml: no such file"),
        (["steps"], "'steps': expected key=value"),
        (["model=m"], "data: missing; give data="),
        (["steps.x=1"], "steps: is 40, so it has no 'x' inside"),
        (
            ["reward={type: sum, terms: [correct]}", "reward.terms.3.weight=1"],
            "reward.terms.3: '3' is no position in a list of 1",
        ),
        (["reward={type"], "not valid YAML"),
        (["seed=.nan"], "seed"),
    ],
)
def test_bad_settings_name_place_value_and_remedy(arguments: list[str], says: str) -> None:
    with pytest.raises(TautError, match=says.replace("(", r"\(")):
        load_config(arguments)


def test_bad_yaml_files_are_named(tmp_path: Path) -> None:
    for name, text, says in [("a.yaml", "x: [", "not valid YAML"), ("b.yaml", "- 1\n", "expected `key: value`")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(TautError, match=f"{name}.*{says}"):
            recipe(str(tmp_path / name))
    (tmp_path / "c.yaml").write_bytes(b"x: \xff\n")
    with pytest.raises(TautError, match=r"c\.yaml"):
        recipe(str(tmp_path / "c.yaml"))


def test_dry_run_prints_what_would_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "--dry-run", "reward=laser", "reward.target=60", f"out={tmp_path / 'run'}"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["reward"] == {"type": "laser", "target": 60} and not (tmp_path / "run").exists()
    assert resolve(TrainConfig, printed, "printed") == load_config(
        ["reward=laser", "reward.target=60", f"out={tmp_path / 'run'}"]
    )


def test_the_command_line_prints_errors_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "stesp=3"]) == 2
    shown = capsys.readouterr().err
    assert "did you mean 'steps'" in shown and "Traceback" not in shown


def test_locate(tmp_path: Path) -> None:
    assert locate(tmp_path) == tmp_path and locate("a/b") == Path("a/b")
    with pytest.raises(TautError, match="no installed package 'nopackage'"):
        locate("nopackage:x")


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollout").mkdir()
    (tmp_path / "rollout" / "__init__.py").touch()
    home = Path(__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(home)!r}]; import taut; taut.main(['methods'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1 and f"'rollout' is found at {tmp_path / 'rollout'}" in done.stderr
    assert "that folder is in the way" in done.stderr and "Traceback" not in done.stderr
