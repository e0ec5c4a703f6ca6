"""Scorers on Ray: throughput by their number, what Ray costs, and where a large cluster saturates.

    build/real/bin/python -m performance --only scaling
    python -m performance.scaling --update docs/scaling.md

The first measures, in an environment with Ray. The second computes the tables of docs/scaling.md
from what was measured; it needs no Ray.
"""

from performance.scaling.measuring import measure
from performance.scaling.picture import plot

__all__ = ["measure", "plot"]
