"""The evaluation harness: benchmarks, accuracy and response length, statistics over runs."""
