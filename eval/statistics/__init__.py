"""Metrics, bootstrap intervals, and paired tests. Reads records; knows no command."""
