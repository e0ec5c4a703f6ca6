"""API keys: who may ask for rewards.

OpenRLHF's client sends no header of its own, but credentials in its URL
(`http://any:KEY@host:5000/get_reward`) arrive as HTTP Basic authentication.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence


class ApiKeys:
    """The keys that let in; without any, everyone is."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        # Of one length, so that comparing them takes the same time for every guess.
        self._digests = [_digest(key.encode()) for key in keys]

    @property
    def are_needed(self) -> bool:
        return bool(self._digests)

    def let_in(self, authorization: str | None) -> bool:
        """Whether a request may pass.

        Args:
            authorization: its `Authorization` header: `Bearer KEY`, or `Basic` with the key as the
                password of any user.
        """
        if not self._digests:
            return True
        given = _digest(_key_in(authorization or ""))
        # Each is compared, whichever fits: the time taken says nothing.
        fitting = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(fitting)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _key_in(authorization: str) -> bytes:
    """The key that a header carries; empty, which is no key, if it is not understood."""
    scheme, _, credentials = authorization.strip().partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        # WSGI hands headers over as latin-1.
        return credentials.encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
