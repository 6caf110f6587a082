"""Objectives: log-probs and advantages in, one scalar loss out. One method, one file, one line in `OBJECTIVES`."""

from trainers.objectives.base import OBJECTIVES, AnyObjective, Objective, build_objective
from trainers.objectives.data import Micro, MiniBatch, Scale
from trainers.objectives.parts import Tally

__all__ = ["OBJECTIVES", "AnyObjective", "Micro", "MiniBatch", "Objective", "Scale", "Tally", "build_objective"]
