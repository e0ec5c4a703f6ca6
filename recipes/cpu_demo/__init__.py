"""Reinforcement learning on two CPU cores: `python -m recipes.cpu_demo`."""
