"""python -m eval compare: statistics over two or more runs, and a report."""
