"""The terms that a reward is the sum of, and how they are composed."""
