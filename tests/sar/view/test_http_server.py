"""What `python -m sar view` answers: its page and data, to its own host names, and nothing else."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sar.view.dashboard import Dashboard
from sar.view.http_server import ViewServer
from sar.view.live import LiveIndex

Send = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def send(make_run: Any) -> Iterator[Send]:
    """Sends a request to a server over 40 rollouts; gives status, headers and body."""
    live = LiveIndex(100)
    live.add(make_run(40))
    server = ViewServer(Dashboard(live), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def request(path: str, method: str = "GET", **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, dict(response.headers), body

    yield request
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/dashboard", "text/html"),
        ("/dashboard/app.js", "text/javascript"),
        ("/dashboard/charts.js", "text/javascript"),
        ("/dashboard/data.js", "text/javascript"),
        ("/dashboard/rollout.js", "text/javascript"),
        ("/dashboard/style.css", "text/css"),
        ("/dashboard/icon.svg", "image/svg+xml"),
        ("/dashboard/uPlot.iife.min.js", "text/javascript"),
        ("/dashboard/uPlot.min.css", "text/css"),
        ("/dashboard/data/status", "application/json"),
    ],
)
def test_files_and_data_have_their_kind_and_a_policy(send: Send, path: str, kind: str) -> None:
    status, headers, body = send(path)
    assert status == 200
    assert headers["Content-Type"].partition(";")[0] == kind
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert int(headers["Content-Length"]) == len(body) > 0
    assert send(path, "HEAD")[2] == b""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost:5001", 200),
        ("LOCALHOST", 200),
        ("[::1]:5001", 200),
        ("10.0.0.7", 200),
        ("gpu-node-7:5001", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:5001", 403),
        ("localhost.evil.example", 403),
        ("[::1", 403),
        ("a b.example", 403),
    ],
)
def test_only_its_own_host_names_are_answered(send: Send, host: str, status: int) -> None:
    for path in ("/dashboard", "/dashboard/data/table"):
        answer = send(path, Host=host)
        assert answer[0] == status
        assert status == 200 or b"Response" not in answer[2]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_get_is_answered(send: Send, method: str) -> None:
    assert send("/dashboard/data/status", method)[0] == 501


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/", 302, ""),
        ("/dashboard/", 404, "the page is at /dashboard"),
        ("/dashboard/../http_server.py", 404, "the page is at /dashboard"),
        ("/dashboard/%2e%2e/http_server.py", 404, "the page is at /dashboard"),
        ("/dashboard/vendor/README.md", 404, "the page is at /dashboard"),
        ("/dashboard//etc/passwd", 404, "the page is at /dashboard"),
        ("/dashboard/data/secrets", 404, "no data 'secrets'; there are status, series"),
        ("/dashboard/data/rollout?id=41", 404, "rollout 41 is not there"),
        ("/dashboard/data/rollout?id=-1", 400, "id='-1': not a whole number"),
        ("/dashboard/data/rollout?id=" + "9" * 5000, 400, "id='999"),
        ("/dashboard/data/series?by=colour", 400, "choose one of rollouts, time, version"),
        ("/dashboard/data/series?buckets=0", 400, "buckets=0: not from 1 to 500"),
        ("/dashboard/data/series?buckets=501", 400, "buckets=501: not from 1 to 500"),
        ("/dashboard/data/table?limit=201", 400, "limit=201: not from 1 to 200"),
        ("/dashboard/data/table?verdict=maybe", 400, "choose one of all, right, wrong, correct"),
        ("/dashboard/data/table?first=1;DROP%20TABLE%20rollouts", 400, "not a whole number"),
        ("/dashboard/data/search?text=", 400, "search for 1 to 500 characters"),
        ("/dashboard/data/search?text=" + "x" * 501, 400, "search for 1 to 500 characters"),
        ("/dashboard/data/search?text=x&before=%C2%B2", 400, "not a whole number"),
    ],
)
def test_what_it_refuses(send: Send, path: str, status: int, message: str) -> None:
    answered, _, body = send(path)
    assert answered == status
    if message:
        shown = json.loads(body)["error"]["message"]
        assert message in shown
        assert len(shown) < 500


def test_odd_parameters_are_no_errors(send: Send) -> None:
    for query in (
        "table?first=99999999999999999&last=5",
        "points?first=5&last=2&limit=1",
        "series?unknown=1&by=",
        "search?text=%00%ff%22%5C%27",
        "search?text=%25&before=1",
        "alarms?x",
    ):
        status, _, body = send(f"/dashboard/data/{query}")
        assert status == 200, body
