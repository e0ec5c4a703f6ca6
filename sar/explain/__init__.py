"""Explains a rollout's likelihood token by token: what the question explains of the response."""
