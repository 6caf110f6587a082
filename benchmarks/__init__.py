"""Evaluation, sweeps, Pareto statistics and the embedded benchmark."""
