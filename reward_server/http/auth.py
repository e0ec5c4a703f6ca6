"""API keys: which requests may use the server.

OpenRLHF's client cannot be told to send a header. Its URL may contain credentials
(`http://any:KEY@host:5000/get_reward`), which arrive as HTTP Basic authentication.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence


class ApiKeys:
    """The accepted keys. If there are none, every request is authorized."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        # Digests have one length, so comparing them takes the same time for every guess.
        self._digests = [_digest(key.encode()) for key in keys]

    @property
    def are_required(self) -> bool:
        return bool(self._digests)

    def authorizes(self, authorization: str | None) -> bool:
        """Whether a request carries an accepted key.

        Args:
            authorization: the request's `Authorization` header: `Bearer KEY`, or `Basic` with any
                user name and the key as the password.
        """
        if not self._digests:
            return True
        given = _digest(_parse_key(authorization or ""))
        # Compares with every key even after a match, so that the time taken reveals nothing.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _parse_key(authorization: str) -> bytes:
    """The key in an `Authorization` header; empty if there is none, which matches no key."""
    scheme, _, credentials = authorization.strip().partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        # WSGI decodes headers as latin-1.
        return credentials.encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""
