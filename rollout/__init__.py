"""Problems in, rollouts out: problem sets, sampling plans, engines, the Ray worker pool, weight sync, the rollout log."""
