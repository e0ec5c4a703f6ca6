"""Searches for better rewards; see docs/search.md."""
