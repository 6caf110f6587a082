"""verl without a GPU, for tests and laptops: a platform module and a rollout backend on transformers. The plug-in needs neither.

VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=trainers.verl.cpu.platform
trainer.device=cpu actor_rollout_ref.model.external_lib=trainers.verl.cpu.rollout actor_rollout_ref.rollout.name=taut_cpu
"""
