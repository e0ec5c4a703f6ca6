"""python -m eval list: the benchmarks, their sources and licences."""
