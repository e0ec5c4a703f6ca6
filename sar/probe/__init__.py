"""The attack battery: what a reward pays for ways to earn without solving."""
