"""Self-Aligned Reward for training reasoning models: scoring, grading and their combination.

Source of the reward: Han et al., "Self-Aligned Reward", arXiv:2509.05489.
"""
