"""Training with the reward server: launch scripts, data preparation, and the check before a run."""
