"""The user's mistakes."""

from __future__ import annotations


class UserError(ValueError):
    """Something only the user can put right; the message is one line that says what."""
