"""Self-Aligned Reward (SAR) for training reasoning models: grading, scoring and their combination.

Source: Han et al., "Self-Aligned Reward", arXiv:2509.05489.
"""

from importlib.metadata import version

__version__ = version("sar-reward-server")
