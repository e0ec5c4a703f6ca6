"""One training run: a reward server, a trainer and an evaluation, each a process."""
