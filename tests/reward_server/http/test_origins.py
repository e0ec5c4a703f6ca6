"""Which requests come from a stranger's web page, and that they are refused."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from reward_server.errors import Forbidden
from reward_server.http.origins import AllowedHosts, find_own_names

if TYPE_CHECKING:
    from tests.conftest import TestedServer

ONE = json.dumps({"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]})
KEY = "a-key-of-27-characters-0123"
PAGES = ["/", "/healthz", "/readyz", "/metrics", "/openapi.json"]

OWN_HOSTS = [
    None,
    "localhost",
    "localhost:5000",
    "LocalHost.:5000",
    "127.0.0.1:5000",
    "10.1.2.3",
    "[::1]:5000",
    "[fe80::1]",
    "reward-server:5000",
    "node17",
    "host.docker.internal:5000",
    "rewards.prod.svc.cluster.local:5000",
    socket.gethostname(),
    f"{socket.getfqdn()}:5000",
    "listens.example.org",
]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:5000",
    "127.0.0.1.evil.example",
    "localhost.evil.example:5000",
    "evillocal.example",
    "evil.example.",
    "evil.example:x",
    "a b",
    "",
    ":5000",
    "[evil.example]",
    "localhost@evil.example",
    "evil.example/localhost",
    "localhost,evil.example",
    "\xff.example",
    "evil.example.1",
    "evil.example.1:5000",
    "evil.example.\xb2",
    "127.0.0.\xb9",
    "127.0.0.\u0661",
    "[::evil]",
    "evil.example" * 1000,
]


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_own_hosts(host: str | None) -> None:
    AllowedHosts(own=find_own_names("listens.example.org", is_reachable=True)).check_host(host)


@pytest.mark.parametrize("host", FOREIGN_HOSTS, ids=lambda host: ascii(host)[:40])
def test_foreign_hosts(host: str) -> None:
    with pytest.raises(Forbidden, match=r"Host .*--allowed-hosts") as caught:
        AllowedHosts(["other.example"]).check_host(host)
    message = str(caught.value)
    assert len(message) < 500
    assert message.isprintable()
    AllowedHosts(["*"]).check_host(host)


def test_allowed_hosts() -> None:
    hosts = AllowedHosts(["Rewards.example.org"])
    hosts.check_host("rewards.EXAMPLE.org:8443")
    hosts.check_origin("https://rewards.example.org", "10.0.0.1:5000")
    with pytest.raises(Forbidden):
        hosts.check_host("sub.rewards.example.org")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "anything"),
        ("http://localhost:5000", "localhost:5000"),
        ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("https://rewards.example.org", "rewards.example.org"),
        ("http://[::1]:5000", "[::1]:5000"),
    ],
)
def test_own_origins(origin: str | None, host: str) -> None:
    AllowedHosts().check_origin(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost.evil.example:5000",
        "http://localhost:3000",
        "http://localhost",
        "http://127.0.0.1:5000",
        "null",
        "",
        "localhost:5000",
        "file://",
        "moz-extension://a-b-c",
    ],
)
def test_foreign_origins(origin: str) -> None:
    with pytest.raises(Forbidden, match=r"Origin .*--allowed-hosts"):
        AllowedHosts().check_origin(origin, "localhost:5000")
    AllowedHosts(["*"]).check_origin(origin, "localhost:5000")


@pytest.mark.parametrize("site", [None, "none", "same-origin", "same-site", "cross-site"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_page_that_hides_its_origin(method: str, site: str | None) -> None:
    if method == "POST" and site == "cross-site":
        with pytest.raises(Forbidden, match=r"Sec-Fetch-Site.*--allowed-hosts"):
            AllowedHosts().check_origin(None, "localhost:5000", method=method, site=site)
    else:
        AllowedHosts().check_origin(None, "localhost:5000", method=method, site=site)
    AllowedHosts(["*"]).check_origin(None, "localhost:5000", method=method, site=site)


@pytest.mark.parametrize("site", [None, "none", "same-origin", "cross-site"])
def test_a_foreign_origin_counts_whatever_the_browser_says_of_the_site(site: str | None) -> None:
    allowed = AllowedHosts(["rewards.example.org"])
    allowed.check_origin("https://rewards.example.org", "10.0.0.1", method="POST", site=site)
    with pytest.raises(Forbidden, match="Origin"):
        allowed.check_origin("http://evil.example", "10.0.0.1", method="POST", site=site)


def _request(
    server: TestedServer, method: str, path: str, headers: dict[str, str], version: str = "1.1"
) -> tuple[int, bytes]:
    """The status and the whole answer; the headers are sent as they are, and no others."""
    address = urlsplit(server.url)
    body = ONE.encode() if method == "POST" else b""
    sent = {**headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {sent[name]}" for name in sent)]
    received = b""
    with socket.create_connection((address.hostname, address.port), 60) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        while chunk := client.recv(1 << 16):
            received += chunk
    return int(received.split()[1]), received


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:5000"},
        {"Host": "evil.example:5000", "Origin": "http://evil.example:5000"},
        {"Host": "localhost:5000", "Origin": "http://evil.example"},
        {"Host": "localhost:5000", "Origin": "null", "Content-Type": "text/plain"},
    ],
)
def test_a_stranger_gets_nothing(server: TestedServer, headers: dict[str, str]) -> None:
    scored = server.request("/healthz")[1]["rollouts"]
    for method, path in [("POST", "/get_reward"), ("POST", "/rm"), *(("GET", p) for p in PAGES)]:
        status, answer = _request(server, method, path, headers)
        assert status == 403
        assert b"--allowed-hosts" in answer
        assert b"access-control" not in answer.lower()
    assert server.request("/healthz")[1]["rollouts"] == scored


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"Host": "localhost:5000"}, "1.1"),
        ({"Host": "localhost:5000", "Origin": "http://localhost:5000"}, "1.1"),
        ({"Host": "reward-server:5000"}, "1.1"),
        ({}, "1.0"),
    ],
)
def test_friends_are_answered(server: TestedServer, headers: dict[str, str], version: str) -> None:
    for method, path in [("POST", "/get_reward"), *(("GET", p) for p in PAGES)]:
        status, answer = _request(server, method, path, headers, version)
        assert status == 200
        assert b"access-control" not in answer.lower()


def test_a_post_of_another_site_without_its_origin_gets_nothing(server: TestedServer) -> None:
    headers = {"Host": "localhost:5000", "Sec-Fetch-Site": "cross-site"}
    status, answer = _request(server, "POST", "/get_reward", headers)
    assert status == 403
    assert b"Sec-Fetch-Site" in answer
    assert _request(server, "GET", "/", headers)[0] == 200  # a link was followed


def test_a_preflight_is_not_granted(server: TestedServer) -> None:
    headers = {
        "Host": "localhost:5000",
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
    }
    status, answer = _request(server, "OPTIONS", "/get_reward", headers)
    assert status in (403, 405)
    assert b"access-control" not in answer.lower()


@pytest.mark.slow
def test_a_key_is_good_under_every_host(start_server: Callable[..., TestedServer]) -> None:
    server = start_server(environ={"REWARD_SERVER_API_KEY": KEY})
    server.wait_until_ready()
    basic = base64.b64encode(f"any:{KEY}".encode()).decode()
    key = {"Authorization": f"Basic {basic}"}  # as a browser sends it that once knew it
    foreign = {"Host": "rewards.example.org"}
    assert _request(server, "POST", "/get_reward", {**foreign, **key})[0] == 200
    assert _request(server, "POST", "/get_reward", foreign)[0] == 401
    page = {**foreign, "Origin": "http://evil.example"}
    assert _request(server, "POST", "/get_reward", {**page, **key})[0] == 403
    assert _request(server, "GET", "/metrics", foreign)[0] == 403
    assert _request(server, "GET", "/metrics", {**foreign, **key})[0] == 200
    assert _request(server, "GET", "/metrics", {"Host": "10.0.0.7:5000"})[0] == 200
    assert server.stop() == 0


@pytest.mark.slow
def test_an_allowed_host_of_a_live_server(start_server: Callable[..., Any]) -> None:
    server = start_server("--allowed-hosts", "rewards.example.org")
    page = {"Host": "rewards.example.org", "Origin": "https://rewards.example.org"}
    assert _request(server, "GET", "/healthz", page)[0] == 200
    assert _request(server, "GET", "/healthz", {"Host": "evil.example"})[0] == 403
    assert server.stop() == 0
