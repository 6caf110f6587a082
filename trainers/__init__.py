"""Rollouts in, weights out: advantages, objectives, the GRPO loop and its checkpoints."""
