"""Settings that are each valid but make no sense together are refused with the reason and the remedy, before anything heavy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from rewards import TautError
from rollout.length_controller import LengthController
from taut import main
from tests.runs import SMALL
from trainers import assemble
from trainers.checks import ALWAYS, MEASURED, _places, inversion, reasons, refuse_without_think_end
from trainers.config import TrainConfig
from trainers.objectives.clipped_token import ClippedToken
from trainers.settings import load_config, to_yaml
from trainers.update import MEASURED as BY_THE_PASS

DRPO = "objective=drpo"
PAIRED = "sampling={type: modes, modes: [{name: think, share: 0.5}, {name: no_think, share: 0.5}]}"
HALVES = "sampling={type: modes, modes: [{name: long, share: 0.5}, {name: short, share: 0.5}]}"
CONSTRAINED = (
    "reward={type: constrained, maximise: {type: weight, weight: -1, term: linear_length}, "
    "subject_to: [{term: correct, at_least: 0.6}]}"
)
SHAPED = "reward={type: sum, terms: [correct, {type: weight, weight: -0.5, term: linear_length}]}"


class Blind(ClippedToken):
    """A user's objective that looks at verdicts alone."""

    type: str = "tests.test_checks:Blind"  # type: ignore[assignment]
    reads_advantage: ClassVar[bool] = False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # correctness twice
        (["reward={type: sum, terms: [correct, {type: laser, target: 60}]}"], "correct and laser each contain correctness"),
        (["reward={type: sum, terms: [{type: correct, name: right}, hapo]}"], "right and hapo each .*allow_wholes"),
        # a reward that the objective does not look at
        ([DRPO, "reward={type: laser, target: 60}"], "objective drpo: .* reward laser would be ignored; set reward=correct"),
        ([DRPO, SHAPED], "objective drpo: .* reward sum would be ignored"),
        (["objective=disco", "reward=arora_zanette"], "objective disco: .* reward arora_zanette would be ignored"),
        (["objective=tests.test_checks:Blind", SHAPED], "objective tests.test_checks:Blind: .*such as clipped_token"),
        (["objective={type: mode_switch, inner: drpo}", SHAPED, HALVES], "objective mode_switch: .* would be ignored"),
        # columns that nothing fills in
        (["reward=l1_exact"], "reward l1_exact: needs the column 'budget', which nothing .*sampling.budget=N"),
        (["reward={type: sum, terms: [{type: weight, weight: 1, term: adaptive_deep_reasoning}]}"],
         "reward sum/weight/adaptive_deep_reasoning: needs the column 'mode'.*type: modes"),
        (["reward=adaptthink", PAIRED], "reward adaptthink: needs the column 'reference_accuracy'.*reference=FILE"),
        (["reward=o1_pruner"], "'reference_length'.*taut eval model=... data=... samples=8 reference=FILE"),
        # modes of other names
        (["reward=adaptthink", "reference=r.jsonl", HALVES],
         "reward adaptthink: goes by mode 'no_think', but sampling gives long, short; name one of sampling.modes"),
        (["reward=autothink", "sampling={type: modes, read: {quick: empty_thinking}, otherwise: slow}"],
         "reward autothink: goes by mode 'no_think', but sampling gives quick, slow"),
        (["objective=adaptthink", "advantage=raw", HALVES], "objective adaptthink: goes by mode 'no_think'"),
        (["objective=mode_switch"], "objective mode_switch: goes by mode 'long' and mode 'short'.*sampling gives no modes"),
        (["objective={type: mode_switch, inner: {type: adaptthink, nothinking: quick}}", HALVES], "mode 'quick', but"),
        # multipliers that a std would undo
        ([CONSTRAINED, "advantage=grpo"], "advantage grpo: .*undoes the multipliers of the reward constrained; use advantage=raw"),
        ([CONSTRAINED, "advantage=length_rank"], "advantage length_rank: .*undoes"),
        # groups of one
        (["sampling.samples=1", "advantage=raw", "reward=arora_zanette"], "reward arora_zanette: compares .*sampling.samples is 1"),
        (["sampling.samples=1", "advantage=grpo"], "advantage grpo: compares .*sampling.samples is 1, so it would be 0 everywhere"),
        (["sampling.samples=1", "advantage=canon"], "advantage canon: compares"),
        # an engine that cannot rest
        (["rollout.sleep=true", "mode=overlap"], "rollout.sleep=true, mode=overlap: .*set mode=sync"),
        (["rollout.sleep=true", "rollout.workers=1", "rollout.weights=broadcast"], "NCCL does not .*rollout.weights=store"),
    ],
)  # fmt: skip
def test_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(TautError, match=f"(?s)configuration:.*{says}"):
        load_config(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["reward={type: sum, allow_wholes: true, terms: [correct, {type: laser, target: 60}]}"],
        [DRPO],
        [
            DRPO,
            "reward={type: keep, when: finished, term: {type: correct, wrong: -1}}",
        ],  # what is left out is no shaping
        ["objective={type: mode_switch, inner: clipped_token}", SHAPED, HALVES],
        ["objective={type: adaptthink, nothinking: short}", "advantage=raw", HALVES],
        ["reward=l1_exact", "sampling.budget=60"],
        ["reward=l1_exact", "reward.target=60"],
        ["reward=l1_exact", "sampling={type: random_budget, low: 20, high: 100, max_tokens: 120}"],
        ["reward=adaptive_deep_reasoning", HALVES],
        ["reward=autothink", "sampling={type: modes, read: {no_think: empty_thinking}, otherwise: think}"],
        ["reward=adaptthink", PAIRED, "reference=made-later.jsonl"],
        ["reward=pear"],
        ["advantage={type: canon, metric: entropy}"],
        [CONSTRAINED, "advantage=raw"],
        [CONSTRAINED, "advantage=dr_grpo"],
        ["sampling.samples=1", "advantage=raw"],
        ["sampling.samples=1", "advantage={type: grpo, singleton: raw}"],
        ["sampling.samples=1", "advantage=raw", "reward={type: normalise, over: step, term: correct}"],
        ["sampling.samples=1", DRPO],
    ],
    ids=str,
)
def test_not_refused(arguments: list[str]) -> None:
    load_config(arguments)


def test_all_reasons_are_said_at_once() -> None:
    with pytest.raises(TautError) as error:
        load_config(["reward=o1_pruner", DRPO, "sampling.samples=1"])
    lines = str(error.value).splitlines()
    assert lines[0] == "configuration:" and len(lines) == 4
    assert {line.split(":")[0].strip() for line in lines[1:]} == {"objective drpo", "reward o1_pruner"}


def test_columns_of_the_data_itself_count(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    row = {"id": "a", "problem": "1+1", "answer": "2", "reference_accuracy": 0.5}
    data.write_text(json.dumps(row) + "\n")
    load_config(["reward=adaptthink", PAIRED, f"data={data}"])
    data.write_text(json.dumps(row | {"reference_accuracy": None}) + "\n")
    with pytest.raises(TautError, match="reference_accuracy"):
        load_config(["reward=adaptthink", PAIRED, f"data={data}"])


def test_what_the_loop_measures_is_what_counts_as_measured() -> None:
    assert MEASURED == BY_THE_PASS and MEASURED < ALWAYS


def test_phases_need_the_tag_in_the_tokenizer() -> None:
    for arguments in (["reward=pear"], ["reward={type: sum, terms: [{type: weight, weight: 1, term: pear}]}"]):
        config = load_config(arguments)
        refuse_without_think_end(config, 7)
        with pytest.raises(
            TautError, match=r"pear: reads the entropy of thinking and answer apart, but the tokenizer of model="
        ):
            refuse_without_think_end(config, None)
    refuse_without_think_end(load_config(["advantage={type: canon, metric: entropy}"]), None)  # the whole response's


def test_assembly_refuses_a_tokenizer_without_the_tag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = assemble.load_tokenizer

    def without(source: Any) -> Any:
        tokenizer = real(source)
        known = type(tokenizer).convert_tokens_to_ids
        monkeypatch.setattr(
            type(tokenizer), "convert_tokens_to_ids", lambda self, t: None if t == "</think>" else known(self, t)
        )
        return tokenizer

    monkeypatch.setattr(assemble, "load_tokenizer", without)
    run = SimpleNamespace(config=load_config([*SMALL, "reward=pear"]), source=None, state=None, step=0, path=tmp_path)
    with pytest.raises(TautError, match="has no token </think>"):
        assemble.assemble(run)  # type: ignore[arg-type]


# ---- strict, and the check of a configuration ------------------------------------------------------------------------


def test_strict_refuses_a_witness_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    laser = ["reward=laser", "reward.target=60"]
    assert not load_config(laser).strict
    with pytest.raises(TautError, match=r"(?s)strict: a wrong rollout can outscore.*witness: .*format_ok.*<- more"):
        load_config([*laser, "strict=true"])
    load_config([*laser, "reward.format=false", "strict=true"])  # proved
    load_config(
        ["reward={type: adaptthink}", PAIRED, "reference=r.jsonl", "strict=true"]
    )  # none found: no proof, no refusal
    assert main(["train", "--dry-run", *laser, "strict=true"]) == 2
    assert "taut train: configuration:\n  strict:" in capsys.readouterr().err
    assert yaml.safe_load(to_yaml(load_config(laser)))["strict"] is False


def test_the_check_knows_the_run() -> None:
    l1 = ["reward=l1_exact", "sampling.max_tokens=3400"]
    assert str(inversion(load_config([*l1, "sampling.budget=1700"]))).startswith("proved")
    assert str(inversion(load_config([*l1, "sampling.budget=3399"]))).startswith("witness")
    low = ["sampling={type: random_budget, low: 1600, high: 1800, max_tokens: 3400}", "reward=l1_exact"]
    assert str(inversion(load_config(low), effort=0.1)).startswith("none found")
    late = ["steps=40", "reward=l1_exact", "reward.target={type: piecewise, from_steps: [0, 20], values: [9000, 1700]}",
            "sampling.max_tokens=3400"]  # fmt: skip
    config = load_config(late)
    assert str(inversion(config)).startswith("witness") and str(inversion(config, first=20)).startswith("proved")
    assert inversion(config, first=40).__class__.__name__ == "Proved"  # a finished run


def test_every_cap_that_a_controller_may_reach_is_looked_at() -> None:
    plan = LengthController(
        samples=8, max_tokens=100, min_tokens=30, reduction=40, strategy="monitor_clip_ratio", target_acc_times=1
    )
    config = load_config(["steps=4"]).model_copy(update={"sampling": plan})
    assert [(p.step, p.max_length) for p in _places(config, 0)] == [
        (0, 100), (1, 100), (1, 60), (2, 100), (2, 60), (2, 30), (3, 100), (3, 60), (3, 30),
    ]  # fmt: skip
    plan = plan.model_copy(update={"strategy": "interval_reduction", "interval": 2})
    config = config.model_copy(update={"sampling": plan})
    assert [p.max_length for p in _places(config, 0)] == [plan.cap(p) for p in _places(config, 0)]


def test_reasons_of_a_good_configuration_are_none() -> None:
    assert list(reasons(load_config([]))) == [] and isinstance(load_config([]), TrainConfig)
