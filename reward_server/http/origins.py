"""Web pages of strangers: a browser must not carry their requests to this server.

A page that someone on this machine opens can send requests to `localhost`. Such a request names the
page in `Origin`. A page can also give its own host name the address 127.0.0.1 (DNS rebinding); then
the browser sends that name as `Host`. Programs such as OpenRLHF and curl send no `Origin`, and as
`Host` the name in their URL.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from reward_server.errors import Forbidden

ANY_HOST = "*"
# Nobody can register a name under these, so no stranger's page can come from one. Kubernetes' and
# Docker's own names end in them.
_PRIVATE = (".localhost", ".local", ".internal")
_MAX_SHOWN_CHARS = 200

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(?::[0-9]*)?")


class AllowedHosts:
    """The host names that this server answers to."""

    def __init__(self, names: Sequence[str] = (), own: Sequence[str] = ()) -> None:
        """
        Args:
            names: of `--allowed-hosts`.
            own: names of this machine.
        """
        self._allows_all = ANY_HOST in names
        self._named = {name.lower().removesuffix(".") for name in names}
        self._names = self._named | {name.lower() for name in own}

    def check_origin(
        self, origin: str | None, host: str | None, *, method: str = "GET", site: str | None = None
    ) -> None:
        """Raises `Forbidden` if a page of another host sends the request.

        A link of a stranger to a page of this server may be followed: such a GET has no `Origin`.

        Args:
            origin, host: the request's headers; None if it has none.
            method: of the request, such as "POST".
            site: the header `Sec-Fetch-Site`; None if the request has none.
        """
        if self._allows_all:
            return
        if origin is None:
            if method == "POST" and site == "cross-site":
                raise Forbidden(
                    "a web page of another site sends this POST (Sec-Fetch-Site: cross-site) and "
                    "does not tell its Origin; to allow it, start with --allowed-hosts '*'"
                )
            return
        authority = origin.rpartition("://")[2].lower()
        is_own = "://" in origin and authority == (host or "").lower()
        if not is_own and _parse_name(authority) not in self._named:
            raise Forbidden(_explain("Origin", origin))

    def check_host(self, host: str | None) -> None:
        """Raises `Forbidden` if the request is for a host name that is not this server's.

        Addresses, names without a dot and names under `_PRIVATE` are always allowed: a stranger
        can own none of them.

        Args:
            host: the request's header. None, from an old client, is allowed: browsers send it.
        """
        if host is None or self._allows_all:
            return
        name = _parse_name(host)
        is_address = _is_address(name)
        is_private = bool(name) and ("." not in name or name.endswith(_PRIVATE))
        if not (is_address or is_private or name in self._names):
            raise Forbidden(_explain("Host", host))


def find_own_names(host: str, *, is_reachable: bool) -> list[str]:
    """The names under which clients may know this machine.

    Args:
        host: `--host`.
        is_reachable: whether other machines can connect. Only then DNS is asked for the full name.
    """
    names = [host, socket.gethostname()]
    return [*names, socket.getfqdn()] if is_reachable else names


def _parse_name(authority: str) -> str:
    """The name in `name:port`, in lower case; empty if it is malformed."""
    match = _AUTHORITY.fullmatch(authority)
    return match[1].lower().removesuffix(".") if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _explain(header: str, value: str) -> str:
    shown = ascii(value[:_MAX_SHOWN_CHARS])
    return f"{header} {shown} is not this server's; to allow it, start with --allowed-hosts NAME"
