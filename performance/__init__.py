"""Measures speed and memory: `make bench` on a CPU, `python -m performance.gpu` on a GPU."""
