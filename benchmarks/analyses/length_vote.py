"""Length-filtered vote, and the length that is best (Wu et al., When More is Less, 2502.07266).

python -m benchmarks.analyses.length_vote LOG --width 20 [--bins 3] [--min-count 2]    # a rollout parquet or a folder of them
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rewards.batch import Verdict
from rewards.errors import TautError

Votes = Sequence[tuple[str, float]]  # (answer, length) of each candidate that answered


class LengthVote(BaseModel):
    """argmax over answers of the votes in the `bins` length bins whose answers have the lowest entropy.

    Bin of a candidate: floor(length / width); length in output tokens (the paper counts steps: width D = 2, K = 3 bins).
    H(bin) = -sum_a p_a ln p_a over its answers. A bin with fewer than `min_count` candidates is left out: with one it has
    entropy 0 and would always win (our choice; 1 is the paper as written). No bin large enough: all candidates vote.
    Candidates without an answer (None, empty) have no vote; nobody answered: None. Ties of entropy: the fuller bin, then
    the shorter; of votes: the answer of smaller mean length, then by its text. Our reconstruction: no official code.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    width: float = Field(gt=0, description="of a bin, in tokens", examples=[500])
    bins: int = Field(default=3, ge=1, description="bins of lowest entropy that vote")
    min_count: int = Field(default=2, ge=1, description="candidates that a bin needs")

    def compute(self, answers: Sequence[str | None], lengths: Sequence[float]) -> str | None:
        """The winning answer among one problem's candidates. Raises TautError for unequal lists, or a negative length."""
        if len(answers) != len(lengths):
            raise TautError(f"length vote: {len(answers)} answers, {len(lengths)} lengths; give one length an answer")
        if len(lengths) and not min(lengths) >= 0:
            raise TautError(f"length vote: length {min(lengths)} is negative; a length is a number of output tokens")
        votes = [(a.strip(), float(n)) for a, n in zip(answers, lengths, strict=True) if a and a.strip()]
        by_bin: dict[int, list[tuple[str, float]]] = {}
        for vote in votes:
            by_bin.setdefault(math.floor(vote[1] / self.width), []).append(vote)
        ranked = sorted((entropy(part), -len(part), i) for i, part in by_bin.items() if len(part) >= self.min_count)
        chosen = [vote for _, _, i in ranked[: self.bins] for vote in by_bin[i]]
        return majority(chosen or votes)


def majority(votes: Votes) -> str | None:
    """The most frequent answer; ties to the smaller mean length, then by text. None without votes."""
    counts, total = Counter(answer for answer, _ in votes), Counter()
    for answer, length in votes:
        total[answer] += length  # type: ignore[assignment]
    return min(counts, key=lambda a: (-counts[a], total[a] / counts[a], a), default=None)


def entropy(votes: Votes) -> float:
    """Of the answers' shares, nats."""
    shares = sorted(count / len(votes) for count in Counter(answer for answer, _ in votes).values())
    return -math.fsum(p * math.log(p) for p in shares)


def best_steps(difficulty: float, capability: float, limit: float) -> float:
    """N* = T Z / (M (Z + 1)), Z = W_-1(-(1 - T/C) / e): the number of steps of highest accuracy under the paper's model
    A(N) = a [(1 - T/C)(1 - T/(N M))]^N of task difficulty T, the model's capability M per step and the limit C, 0 < T < C.

    The notes in circulation print 1 - T/(C e) inside W, outside its domain; this is re-derived and holds numerically
    (T 8, M 4, C 64: 5.282). W_-1 by Newton's method. Raises TautError outside.
    """
    if not (0 < difficulty < limit and capability > 0):
        raise TautError(f"N* of T={difficulty:g}, M={capability:g}, C={limit:g}: needs 0 < T < C and M > 0")
    excess = -math.log1p(-difficulty / limit)
    d = math.sqrt(2 * excess) + excess  # d = -Z - 1 > 0, the root of d - ln(1 + d) = excess
    for _ in range(50):  # convex and begun right of the root: falls to it in a handful of steps
        step = (d - math.log1p(d) - excess) * (1 + d) / d
        d -= step
        if abs(step) <= 1e-12 * d:
            break
    return difficulty * (1 + d) / (capability * d)


def accuracy(steps: float, difficulty: float, capability: float, limit: float) -> float:
    """A(N) of `best_steps`, with a = 1."""
    return ((1 - difficulty / limit) * (1 - difficulty / (steps * capability))) ** steps


def compare(path: Path, vote: LengthVote) -> dict[str, float]:
    """Over the problems of a log: the mean accuracy of a response, of the plain majority vote and of the length-filtered vote. An
    answer is right where a response that gave it was verified so; unknown verdicts and problems with nothing else are left out."""
    from rollout.log import read_rollouts

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise TautError(f"{path}: no parquet files there; give RUN/rollouts, RUN/heldout or an evaluation's parquet")
    rows = []
    for step in map(read_rollouts, files):
        batch = step.batch
        for group in batch.groups():
            known = group[batch.verdict[group] != Verdict.UNKNOWN]
            if not len(known):
                continue
            answers = [step.columns["answer"][i] for i in known]
            right = {(a or "").strip() for a, ok in zip(answers, batch.correct[known], strict=True) if ok}
            lengths = batch.length[known].tolist()
            plain = majority([(a.strip(), n) for a, n in zip(answers, lengths, strict=True) if a and a.strip()])
            won = [answer is not None and answer in right for answer in (plain, vote.compute(answers, lengths))]
            rows.append((batch.correct[known].mean(), *won))
    if not rows:
        raise TautError(f"{path}: no response with a known verdict")
    means = np.mean(np.array(rows, dtype=float), axis=0).tolist()
    return {"problems": len(rows), **dict(zip(("mean", "majority", "length_filtered"), means, strict=True))}


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser("python -m benchmarks.analyses.length_vote", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--width", type=float, required=True, help="of a bin, in tokens")
    parser.add_argument("--bins", type=int, default=3)
    parser.add_argument("--min-count", type=int, default=2)
    options = parser.parse_args(argv)
    try:
        vote = LengthVote(width=options.width, bins=options.bins, min_count=options.min_count)
        got = compare(options.log, vote)
    except (TautError, ValueError) as error:
        print(f"length_vote: {error}", file=sys.stderr)
        return 2
    print(f"{got['problems']} problems: a response {got['mean']:.4f}, majority {got['majority']:.4f}, ", end="")
    print(f"length-filtered {got['length_filtered']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
