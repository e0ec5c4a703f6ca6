"""Which headers are accepted as keys, and that no key is shown in a log or an answer."""

from __future__ import annotations

import base64
import hmac
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.http.app import AppConfig, create_app
from reward_server.http.auth import ApiKeys
from reward_server.http.request_schema import RequestLimits
from reward_server.pipeline.service import RewardService, ServiceLimits

if TYPE_CHECKING:
    from tests.conftest import Contract

KEY = "a-key-of-27-characters-0123"
OTHER = "another-key"


def _basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


GOOD = [
    f"Bearer {KEY}",
    f"Bearer {OTHER}",
    f"bearer {KEY}",
    f"  Bearer   {KEY}  ",
    _basic(f"any:{KEY}".encode()),
    _basic(f":{OTHER}".encode()),
    _basic(f"\xff:{KEY}".encode("latin-1")),
    _basic(f"any:{KEY}".encode()).replace("Basic", "BASIC"),
]
BAD = [
    None,
    "",
    "Bearer",
    "Bearer ",
    KEY,
    f"Bearer {KEY[:-1]}",
    f"Bearer {KEY}x",
    f"Bearer {KEY} {OTHER}",
    f"Bearer {KEY.upper()}",
    f"Bearer \xff{KEY}",
    f"Bearer {KEY}\u0100",
    f"Token {KEY}",
    f"Bearer:{KEY}",
    "Basic",
    "Basic !!!",
    "Basic \xff",
    f"Basic {KEY}",
    _basic(KEY.encode()),
    _basic(f"{KEY}:".encode()),
    _basic(f"any:{KEY}:".encode()),
    _basic(b":"),
    _basic(b""),
]


@pytest.mark.parametrize("header", GOOD)
def test_a_key_is_accepted(header: str) -> None:
    assert ApiKeys([KEY, OTHER]).authorizes(header)


@pytest.mark.parametrize("header", BAD, ids=ascii)
def test_anything_else_is_refused(header: str | None) -> None:
    assert not ApiKeys([KEY, OTHER]).authorizes(header)
    assert ApiKeys().authorizes(header)


@given(st.text(), st.sampled_from(["", "Bearer ", "Basic ", "Basic " + KEY, "Bearer" + KEY]))
def test_random_text_is_refused(text: str, scheme: str) -> None:
    assert not ApiKeys([KEY]).authorizes(scheme + text)


def test_every_key_is_compared_even_after_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """With digests of equal length and hmac.compare_digest, so that the time reveals nothing."""
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def record(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", record)
    keys = ApiKeys([KEY, OTHER, "a-third-key"])
    for header in (f"Bearer {KEY}", "Bearer x", "Bearer " + "x" * 10_000, None):
        keys.authorizes(header)
    assert compared == [(32, 32)] * 12


@pytest.fixture
def client() -> Any:
    graders: Any = type("Graders", (), {"num_restarts": 0})()
    service = RewardService(graders, sar_weight=0.2, limits=ServiceLimits(60, 2**31))
    return create_app(
        service, AppConfig("m", 0.2, RequestLimits(8, 1000, 2**20), ApiKeys([KEY]))
    ).test_client()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/get_reward"),
        ("GET", "/get_reward"),
        ("POST", "/rm"),
        ("POST", "/explain"),
        ("GET", "/explain"),
        ("POST", "//get_reward"),
        ("POST", "get_reward"),
        ("GET", "/none"),
        ("GET", "/metrics/"),
    ],
)
def test_requests_without_a_key_are_refused(
    client: Any, contract: Contract, method: str, path: str
) -> None:
    for header in (None, "Bearer x", _basic(b"any:x")):
        headers = {"Authorization": header} if header else {}
        path_info = {"PATH_INFO": path}
        answer = client.open(method=method, headers=headers, environ_overrides=path_info)
        assert answer.status_code == 401
        contract.check("POST", "/get_reward", 401, answer.content_type, answer.data)
        assert answer.json["error"]["type"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    empty: dict[str, list[str]] = {"query": [], "prompts": [], "labels": []}
    answer = client.post("/get_reward", json=empty, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/openapi.json"])
def test_the_open_pages_need_and_show_no_key(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert KEY not in answer.text


def test_the_key_is_in_no_log_and_no_answer(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given = [f"Bearer {KEY}", _basic(f"any:{KEY}".encode()), f"Bearer {KEY}x", f"x {KEY}"]
    for header in given:
        answer = client.post("/get_reward", data=b"{", headers={"Authorization": header})
        assert answer.status_code in (400, 401)
        assert KEY not in answer.text
        assert KEY not in str(answer.headers)
    shown = caplog.text + repr(ApiKeys([KEY])) + repr(vars(ApiKeys([KEY])))
    assert caplog.records
    assert KEY not in shown
    assert base64.b64encode(f"any:{KEY}".encode()).decode() not in shown
