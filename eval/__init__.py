"""Evaluation: seven benchmarks, accuracy and length, and statistics over them. `python -m eval`."""
