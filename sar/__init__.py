"""Self-Aligned Reward for training reasoning models: scoring, grading and their combination.

Source of the reward: Han et al., "Self-Aligned Reward", arXiv:2509.05489.
"""

from importlib.metadata import version

__version__ = version("sar-reward-server")
