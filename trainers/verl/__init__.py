"""Taut's rewards and advantages inside verl's own trainer (`python -m verl.trainer.main_ppo`): `taut verl recipe=hapo` prints the
overrides. plugin.py is loaded by verl in each of its processes; cpu/ is only for machines without a GPU."""
