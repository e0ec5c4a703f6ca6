"""python -m eval contamination: finds benchmark problems in a training file."""
