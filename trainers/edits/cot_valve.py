"""CoT-Valve (Ma et al., 2502.09601): one direction in weight space as a valve of the thinking's length.

python -m trainers.edits.cot_valve BASE SHORT --alpha 0.5 --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rewards.batch import Batch, Floats
from rewards.errors import TautError
from rollout.paths import locate
from trainers.edits.folders import free, load, rewrite, tensors

if TYPE_CHECKING:
    from torch import Tensor


def interpolate(long: Tensor, short: Tensor, alpha: float) -> Tensor:
    """theta_long + alpha * (theta_short - theta_long), in float32 at least, rounded to `long`'s dtype.

    alpha 0 gives `long` and 1 gives `short` to the last bit; beyond 1 and below 0 it extrapolates (shorter, longer).
    """
    import torch

    wide = torch.promote_types(long.dtype, torch.float32)
    return torch.lerp(long.to(wide), short.to(wide), alpha).to(long.dtype)


def betas(batch: Batch) -> Floats:
    """(N,) CoT-Valve++: beta = 1 - (m - m_min) / (m_max - m_min), m the solution's tokens, by group (question): the shortest 1,
    the longest 0. The sample is then trained at theta + beta * delta. Solutions of equal length, where the paper divides by
    zero: 1, as for the shortest (our choice)."""
    low, high = batch.group_min(batch.length), batch.group_max(batch.length)
    share = (batch.length - low[batch.group_index]) / np.maximum(high - low, 1)[batch.group_index]
    return 1.0 - share


def valve(base: Path, short: Path, out: Path, alpha: float) -> None:
    """Write to `out` the model alpha of the way from folder `base` (long thinking) to folder `short`.

    Layout, dtype, configuration and tokenizer are `base`'s. Tied weights: an output head that only one of the folders
    stores counts as the other's embeddings where that one is tied. The paper trains the difference as a LoRA: merge it
    first. Raises TautError naming the tensors that one side lacks, that differ in shape, or that are no numbers to mix.
    """
    free(out)
    mine, theirs = tensors(base), tensors(short)
    partner = {name: name if name in theirs else _tied(short, name, theirs) for name in mine}
    lacking = [f"{name} (not in {short})" for name, other in partner.items() if other is None]
    # what `base` has no place for may be left out only where it is a copy on both sides
    extra = [
        name for name in theirs if name not in mine and not (_tied(base, name, mine) and _tied(short, name, theirs))
    ]
    lacking += [f"{name} (not in {base})" for name in extra]
    _refuse(lacking, base, short, "one side lacks")

    def change(name: str, tensor: Tensor) -> Tensor:
        other = str(partner[name])
        end = load(theirs[other], other)
        if end.shape != tensor.shape:
            _refuse([f"{name} {tuple(tensor.shape)} and {tuple(end.shape)}"], base, short, "shapes differ:")
        if not tensor.is_floating_point():
            if not tensor.equal(end):
                _refuse([f"{name} ({tensor.dtype})"], base, short, "values that cannot be mixed differ:")
            return tensor
        return interpolate(tensor, end, alpha)

    note = {"method": "cot_valve", "paper": "2502.09601", "base": str(base), "short": str(short), "alpha": alpha}
    rewrite(base, out, change, {"cot_valve.json": json.dumps(note, indent=1) + "\n"})


def _tied(folder: Path, name: str, known: dict[str, Path]) -> str | None:
    """The embeddings that stand for the output head `name` in a folder which does not store it."""
    from transformers import AutoConfig

    if name.rpartition(".")[0].rpartition(".")[2] != "lm_head":
        return None
    if not AutoConfig.from_pretrained(folder).get_text_config().tie_word_embeddings:
        return None
    return next((other for other in known if other.endswith("embed_tokens.weight")), None)


def _refuse(names: Sequence[str], base: Path, short: Path, what: str) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise TautError(
            f"{base} and {short}: {what} {', '.join(names[:5])}{more}; give two checkpoints of one architecture, the second "
            "trained from the first"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser("python -m trainers.edits.cot_valve", description=__doc__)
    parser.add_argument("base", type=Path, help="the model that thinks long")
    parser.add_argument("short", type=Path, help="the model trained from it to think short")
    parser.add_argument("--alpha", type=float, default=0.5, help="0: base, 1: short, beyond: extrapolated (0.5)")
    parser.add_argument("--out", type=Path, required=True, help="the new model folder")
    options = parser.parse_args(argv)
    try:
        if not np.isfinite(options.alpha):
            raise TautError(f"--alpha {options.alpha}: give a finite number")
        valve(locate(options.base), locate(options.short), options.out, options.alpha)
    except TautError as error:
        print(f"cot_valve: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
