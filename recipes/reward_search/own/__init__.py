"""Screening with the user's own model, data and benchmarks, in place of the CPU demo's."""
