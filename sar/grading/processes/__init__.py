"""Processes: runs the rules in worker processes that can be killed when a text makes them hang."""
