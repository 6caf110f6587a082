"""Adapters: analyses and edits of weights."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.conformance.judge import Adapter, Case, Pair


def thinkedit_projection(case: Case) -> Iterator[Pair]:
    """A head's output weight (head dim, hidden) with a direction projected out."""
    import torch

    from trainers.edits.thinkedit import project_out

    weight, direction = (torch.tensor(case["inputs"][k]) for k in ("head_output_weight", "direction"))
    yield project_out(weight, direction, case["params"]["strength"]), case["expected"]["edited_weight"]


def lc_alpacaeval(case: Case) -> Iterator[Pair]:
    """Win rates, error and weights; the preference of the file is AlpacaEval's, 1 the baseline's and 2 the model's."""
    from benchmarks.analyses.win_rate import LengthControlledWinRate

    inputs, want = case["inputs"], case["expected"]
    got = LengthControlledWinRate(
        baseline_weight=case["params"]["baseline_weight"] or 0, splits=case["params"]["n_splits"]
    ).compute(
        inputs["baseline_chars"],
        inputs["model_chars"],
        [None if p is None else p - 1 for p in inputs["preference_1_to_2"]],
        inputs["instruction_difficulty"],
        inputs["gamed"],
    )
    yield got.length_controlled, want["length_controlled_winrate"]
    yield got.raw, want["raw_winrate"]
    yield got.standard_error, want["standard_error"]
    yield [got.weights[term] for term in ("difficulty", "model", "length")], want["weights"]  # by sorted official name


ADAPTERS: dict[str, Adapter] = {"thinkedit_projection": thinkedit_projection, "lc_alpacaeval": lc_alpacaeval}
