"""Where a plan's numbers come from: lengths from a log, seconds of engine and trainer from a run or measured on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.plan_pool import Item
from benchmarks.run_data import read_run
from rewards.errors import TautError
from rollout.choose import make_engine
from rollout.engine import EngineConfig
from rollout.foreign import Foreign
from rollout.foreign_logs import is_ours, read_log
from rollout.paths import locate
from rollout.types import Prompt
from trainers.settings import read_yaml

Group = tuple[int, list[int]]  # tokens of the prompt, of each response


@dataclass(frozen=True)
class EngineSeconds:
    """See `plan_pool.EngineCost`; error: the largest relative one of the fit, batches: whether the engine batches by itself."""

    step_s: float
    rollout_s: float
    prompt_s: float
    call_s: float
    error: float
    batches: bool


def groups_of(path: Path, prompt: int | None) -> list[Group]:
    """The groups of a run or of a log that `taut replay` reads; prompt: tokens of every prompt where the log has none."""
    groups: list[Group] = []
    for place, step in read_log(path, Foreign()):
        batch, prompts = step.batch, _prompt_lengths(Path(place))
        for index in range(int(batch.group_index.max(initial=-1)) + 1):
            rows = np.flatnonzero(batch.group_index == index)
            own = int(prompts[rows[0]]) if prompts is not None and prompt is None else prompt or 0
            groups.append((own, [max(int(n), 1) for n in batch.length[rows]]))
    if not groups:
        raise TautError(f"{path}: no rollouts to take lengths from; give lengths=lognormal:MEAN,SIGMA,CAP")
    return groups


def _prompt_lengths(file: Path) -> np.ndarray | None:
    """Tokens of each row's prompt in a log of our own; None for others'."""
    if not (file.suffix == ".parquet" and is_ours(file)):
        return None
    column = pq.read_table(file, columns=["prompt_ids"])["prompt_ids"]
    return pc.call_function("list_value_length", [column]).to_numpy()


def lognormal(text: str, samples: int, prompt: int, seed: int, groups: int = 512) -> list[Group]:
    """`MEAN,SIGMA,CAP`: lengths whose logarithm is normal, cut off at CAP; two thirds of the variance lie between problems."""
    try:
        mean, sigma, cap = (float(x) for x in text.split(","))
        assert mean >= 1 and sigma >= 0 and cap >= 1
    except (ValueError, AssertionError):
        raise TautError(
            f"lengths=lognormal:{text}: write lognormal:MEAN,SIGMA,CAP, such as lognormal:4000,1,16384"
        ) from None
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((groups, 1)) * math.sqrt(2 / 3) + rng.standard_normal((groups, samples)) * math.sqrt(
        1 / 3
    )
    lengths = np.clip(np.exp(math.log(mean) - sigma**2 / 2 + sigma * own), 1, cap).astype(int)
    return [(prompt, row.tolist()) for row in lengths]


def draw(groups: Sequence[Group], prompts: int, samples: int, seed: int, step: int) -> list[list[Item]]:
    """The groups of a step, drawn from those at hand; a group's prompt is read once."""
    rng = np.random.default_rng([seed, step])
    drawn = []
    for index in rng.integers(len(groups), size=prompts):
        prompt, lengths = groups[index]
        chosen = lengths if samples == len(lengths) else rng.choice(lengths, size=samples)
        drawn.append([Item(int(n), prompt if k == 0 else 0) for k, n in enumerate(chosen)])
    return drawn


def trainer_seconds(run: Path) -> tuple[float, float, float, float]:
    """(seconds a step, a token, of handing out weights, of loading them) of a run that was trained in one process.

    The least squares fit, none of them negative, of what a step took beside sampling; the first step is left out (warming up).
    """
    rows = [r for r in read_run(run).rows[1:] if "time/step" in r and "heldout/accuracy" not in r]
    if len(rows) < 3:
        raise TautError(
            f"run={run}: {len(rows)} steps without a test after its first; a plan needs 3 or more to know the trainer by"
        )
    own = np.array([sum(r.get(f"time/{p}", 0.0) for p in ("policy", "reward", "update", "log")) for r in rows])
    tokens = np.array([r["tokens"] * r["rollouts"] for r in rows])
    fixed, token = _nonnegative(np.stack([np.ones_like(tokens), tokens], 1), own)
    load = float(np.median([r.get("time/load", 0.0) for r in rows]))
    sync = float(np.median([r.get("time/sync", 0.0) for r in rows]))
    apart = run_config(run).get("mode", "sync") != "sync"  # else loading is a part of it
    return float(fixed), float(token), sync if apart else max(sync - load, 0.0), load


def measure(config: EngineConfig, model: str, prompt: int, tokens: int, seed: int = 0) -> EngineSeconds:
    """Time the engine, in this process, on 1 to as many rollouts as fit side by side, each of exactly `tokens` tokens."""
    engine = make_engine(config.model_copy(update={"workers": 0}), str(locate(model)), ())
    batches = engine.name == "transformers"
    most = config.batch_size if batches else config.max_num_seqs
    tokens = min(tokens, engine.max_model_len - prompt)
    rng, rows, taken = np.random.default_rng(seed), [], []
    sizes = sorted({1, max(most // 8, 2), max(most // 3, 3), most})
    for turn in range(4):
        for size in sizes:
            for n in (tokens, max(tokens // 4, 1)):
                asked = [Prompt(tuple(rng.integers(3, engine.vocab_size, prompt).tolist()), n, k) for k in range(size)]
                start = time.perf_counter()
                engine.generate(asked)
                if turn:  # the first turn warms up
                    rows.append([n, n * size, prompt * size, 1.0])
                    taken.append(time.perf_counter() - start)
    engine.close()
    shape = (3, len(sizes) * 2)
    features, seconds = np.array(rows[: shape[1]]), np.median(np.array(taken).reshape(shape), axis=0)
    weights = 1 / seconds  # relative errors count
    found = _nonnegative(features * weights[:, None], seconds * weights)
    error = float(np.abs(features @ found / seconds - 1).max())
    step, rollout, read, call = (float(x) for x in found)
    return EngineSeconds(step, rollout, read, call, error, batches)


def _nonnegative(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares with no coefficient below 0, over all subsets of the (few) columns."""
    best, found = math.inf, np.zeros(features.shape[1])
    for size in range(1, features.shape[1] + 1):
        for columns in map(list, combinations(range(features.shape[1]), size)):
            part = np.linalg.lstsq(features[:, columns], target, rcond=None)[0]
            error = float(((features[:, columns] @ part - target) ** 2).sum())
            if (part >= 0).all() and error < best:
                best, found = error, np.zeros(features.shape[1])
                found[columns] = part
    return found


def run_config(run: Path) -> dict:
    """The resolved configuration of a run. Raises TautError where there is none."""
    if not (run / "config.yaml").is_file():
        raise TautError(f"run={run}: no config.yaml there; give the folder of a run that has trained some steps")
    return read_yaml(run / "config.yaml")
