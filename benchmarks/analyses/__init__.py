"""Analyses of finished rollouts that are methods of their own: nothing here trains or samples."""
