"""Serves the page and its data for `python -m sar view`, with the standard library.

It answers GET and HEAD only. A web page of a stranger could give its own host name the address
127.0.0.1 (DNS rebinding) and then read what is served here: the browser sends that name as `Host`.
So only an address, a name without a dot, and the name in `--host` are answered.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sar.view.assets import HEADERS, JSON, PAGE, read_asset
from sar.view.dashboard import BadQuestion, Dashboard, NotThere

PATH = "/dashboard"
_TIMEOUT_S = 60.0


class ViewServer(ThreadingHTTPServer):
    """A server of one dashboard."""

    daemon_threads = True

    def __init__(self, dashboard: Dashboard, host: str, port: int) -> None:
        """
        Raises:
            OSError: the address cannot be listened on.
        """
        self.dashboard = dashboard
        self.host = host
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(f"cannot listen on {host}:{port}: {reason}") from error

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}{PATH}"

    def server_bind(self) -> None:
        """Binds without asking DNS for this machine's name, which may take long."""
        socket_ = self.socket
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        socket_.bind(self.server_address)
        self.server_address = socket_.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a browser that left is no news. `_Handler` answers other errors."""

    def answers_to(self, host: str | None) -> bool:
        """Whether a request with this `Host` may be answered."""
        if host is None:
            return True  # browsers send it
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.lower() in (self.host.lower(), "localhost") or "." not in name:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.endswith(".localhost")
        return True


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version = "sar-view"
    sys_version = ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        if not self.server.answers_to(self.headers.get("Host")):
            self._refuse(HTTPStatus.FORBIDDEN, "this Host is not this server's; use its address")
            return
        url = urlsplit(self.path)
        if url.path == "/":
            self._reply(HTTPStatus.FOUND, b"", "text/plain", {"Location": PATH})
        elif url.path == PATH:
            self._send_asset(PAGE)
        elif url.path.startswith(f"{PATH}/data/"):
            self._send_data(url.path.removeprefix(f"{PATH}/data/"), url.query)
        else:
            self._send_asset(url.path.removeprefix(f"{PATH}/"))

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: the terminal shows how far the index is."""

    def _send_asset(self, name: str) -> None:
        if asset := read_asset(name):
            self._reply(HTTPStatus.OK, asset.body, asset.kind)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"nothing here; the page is at {PATH}")

    def _send_data(self, name: str, query: str) -> None:
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        try:
            body = self.server.dashboard.answer(name, parameters)
        except BadQuestion as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except NotThere as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except Exception as error:  # noqa: BLE001  the page shows it
            message = f"internal error: {type(error).__name__}: {error}"
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, message)
        else:
            self._reply(HTTPStatus.OK, body, JSON)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        body = json.dumps({"error": {"message": message}}).encode()
        self._reply(status, body, JSON)

    def _reply(
        self, status: HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
