"""What a rollout earns: batches, verdicts, shaping methods and the operators that combine them.

Needs numpy and pydantic (and math-verify for the verifier); knows nothing of trainers, so it can be imported alone:

    from rewards import Batch, Correct, Laser
    Laser(target=4096).score(Batch(group=[0, 0], length=[900, 5000], verdict=[1, 1], format_ok=[1, 1])).total
"""

from rewards.base import REWARDS, Monitor, Reward, Scores, build_reward, dump
from rewards.batch import Batch, Verdict
from rewards.compose import Constant, Product, Sum, Weight
from rewards.conditions import CONDITIONS, CorrectRatio, Finished, IsCorrect, IsWrong, ShorterThan, TopCorrectRatio
from rewards.errors import TautError
from rewards.gates import GroupGate, Keep, RolloutGate
from rewards.progress import Progress
from rewards.schedule import SCHEDULES, Cosine, Drops, Linear, Piecewise
from rewards.terms.arora_zanette import AroraZanette
from rewards.terms.correct import Correct
from rewards.terms.laser import Laser
from rewards.terms.linear_length import LinearLength

__all__ = [
    "CONDITIONS", "REWARDS", "SCHEDULES", "AroraZanette", "Batch", "Constant", "Correct", "CorrectRatio", "Cosine", "Drops",
    "Finished", "GroupGate", "IsCorrect", "IsWrong", "Keep", "Laser", "Linear", "LinearLength", "Monitor", "Piecewise",
    "Product", "Progress", "Reward", "RolloutGate", "Scores", "ShorterThan", "Sum", "TautError", "TopCorrectRatio",
    "Verdict", "Weight", "build_reward", "dump",
]  # fmt: skip
