"""Errors that the user has to fix."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong flags, data or model. The message is one line that says what is wrong."""
