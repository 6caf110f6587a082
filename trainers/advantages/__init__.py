"""Advantages: scores in, what each rollout or token is pushed by out. numpy only. One method, one file, one line."""

from trainers.advantages.base import ADVANTAGES, Advantage, AnyAdvantage, build_advantage

__all__ = ["ADVANTAGES", "Advantage", "AnyAdvantage", "build_advantage"]
