"""python -m eval run: asks a model the problems, grades its responses and records them."""
