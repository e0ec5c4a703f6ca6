"""Rules: where a response states its answer, and which answers a label accepts."""
