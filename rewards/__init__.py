"""What a rollout earns: batches, verdicts, shaping methods and the operators that combine them.

Needs numpy and pydantic (and math-verify for the verifier); knows nothing of trainers, so it can be imported alone:

    from rewards import Batch, Correct, Laser
    Laser(target=4096).score(Batch(group=[0, 0], length=[900, 5000], verdict=[1, 1], format_ok=[1, 1])).total
"""

from rewards.base import REWARDS, Monitor, Reward, Scores, build_reward
from rewards.batch import Batch, Verdict
from rewards.best_of_group import BestOfGroup
from rewards.bounds import Bounds, Interval
from rewards.compose import Constant, Product, Sum, Weight
from rewards.conditions import CONDITIONS, CorrectRatio, Finished, IsCorrect, IsWrong, ShorterThan, TopCorrectRatio
from rewards.constrained import Constrained
from rewards.errors import TautError
from rewards.gates import GroupGate, Keep, RolloutGate
from rewards.normalise import Normalise
from rewards.progress import Progress
from rewards.registry import dump
from rewards.schedule import SCHEDULES, Cosine, Drops, Linear, Piecewise, WarmupCosineRestarts
from rewards.terms.adaptive_deep_reasoning import AdaptiveDeepReasoning
from rewards.terms.adaptthink import AdaptThink
from rewards.terms.alp import Alp
from rewards.terms.arora_zanette import AroraZanette
from rewards.terms.autothink import AutoThink
from rewards.terms.budget_curriculum import BudgetCurriculum
from rewards.terms.correct import Correct
from rewards.terms.cosine_length import CosineLength
from rewards.terms.dast import Dast
from rewards.terms.hapo import Hapo
from rewards.terms.kimi import Kimi
from rewards.terms.l1 import L1Exact, L1Max
from rewards.terms.laser import Laser
from rewards.terms.laser_d import LaserD
from rewards.terms.laser_de import LaserDE
from rewards.terms.linear_length import LinearLength
from rewards.terms.mean_over_length import MeanOverLength
from rewards.terms.o1_pruner import O1Pruner
from rewards.terms.pear import Pear
from rewards.terms.repetition import Repetition
from rewards.terms.shorter_better import ShorterBetter
from rewards.terms.soft_overlong import SoftOverlong
from rewards.terms.truncation import Truncation

__all__ = [
    "CONDITIONS",
    "REWARDS",
    "SCHEDULES",
    "AdaptThink",
    "AdaptiveDeepReasoning",
    "Alp",
    "AroraZanette",
    "AutoThink",
    "Batch",
    "BestOfGroup",
    "Bounds",
    "BudgetCurriculum",
    "Constant",
    "Constrained",
    "Correct",
    "CorrectRatio",
    "Cosine",
    "CosineLength",
    "Dast",
    "Drops",
    "Finished",
    "GroupGate",
    "Hapo",
    "Interval",
    "IsCorrect",
    "IsWrong",
    "Keep",
    "Kimi",
    "L1Exact",
    "L1Max",
    "Laser",
    "LaserD",
    "LaserDE",
    "Linear",
    "LinearLength",
    "MeanOverLength",
    "Monitor",
    "Normalise",
    "O1Pruner",
    "Pear",
    "Piecewise",
    "Product",
    "Progress",
    "Repetition",
    "Reward",
    "RolloutGate",
    "Scores",
    "ShorterBetter",
    "ShorterThan",
    "SoftOverlong",
    "Sum",
    "TautError",
    "TopCorrectRatio",
    "Truncation",
    "Verdict",
    "WarmupCosineRestarts",
    "Weight",
    "build_reward",
    "dump",
]
