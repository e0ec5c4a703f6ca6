"""A server with keys: which requests it answers, and that its log shows no key."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from openrlhf.utils import agent

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.chaos.conftest import FaultyServer, Helpers, Rollout

KEY = "k-4f1c9a7be2d80563"


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module", params=["text", pytest.param("json", marks=pytest.mark.slow)])
def keyed(
    request: pytest.FixtureRequest,
    start_faulty: Callable[..., FaultyServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[FaultyServer]:
    """A server with two keys. At the end, no key may be in its log."""
    file: Path = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"another-key-1234\n{KEY}\n")
    server = start_faulty("--api-key-file", str(file), "--log-format", request.param)
    yield server
    assert server.stop() == 0
    log = server.log_text
    for secret in (KEY, "another-key", _basic(f"any:{KEY}")[6:]):
        assert secret not in log
    assert "greenlet" not in log.lower()  # gevent's own tracebacks
    if request.param == "json":
        assert all(json.loads(line) for line in log.splitlines())


REFUSED = {
    "none": "",
    "empty": "Authorization: \r\n",
    "wrong": "Authorization: Bearer wrong-key-000000\r\n",
    "part": f"Authorization: Bearer {KEY[:-1]}\r\n",
    "longer": f"Authorization: Bearer {KEY}0\r\n",
    "other case": f"Authorization: Bearer {KEY.upper()}\r\n",
    "two": f"Authorization: Bearer {KEY} {KEY}\r\n",
    "twice": f"Authorization: Bearer x\r\nAuthorization: Bearer {KEY}\r\n",
    "scheme": f"Authorization: Digest {KEY}\r\n",
    "no scheme": f"Authorization: {KEY}\r\n",
    "bare": "Authorization: Bearer\r\n",
    "no base64": "Authorization: Basic !!!not base64!!!\r\n",
    "half base64": f"Authorization: Basic {_basic('any:' + KEY)[6:-3]}\r\n",
    "no colon": f"Authorization: {_basic(KEY)}\r\n",
    "as user": f"Authorization: {_basic(KEY + ':')}\r\n",
    "as user, wrong password": f"Authorization: {_basic(KEY + ':x')}\r\n",
    "empty password": f"Authorization: {_basic('any:')}\r\n",
    "latin-1": "Authorization: Bearer k\xe9y\r\n",
    "long": f"Authorization: Bearer {'x' * 50_000}\r\n",
    "other header": f"X-Api-Key: {KEY}\r\n",
    "cookie": f"Cookie: key={KEY}\r\n",
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
def test_no_reward_without_the_key(
    keyed: FaultyServer, rollouts: list[Rollout], headers: str
) -> None:
    before = keyed.health["rollouts"]
    for path in (
        "/get_reward",
        "/get_reward?key=" + KEY,
        "//get_reward",
        "/get_reward/../get_reward",
    ):
        answer = keyed.post(rollouts[0].payload, headers=headers, path=path)
        assert answer.status == 401, answer
        assert set(answer.body) == {"error"}
        assert KEY not in json.dumps(answer.body)
    assert keyed.health["rollouts"] == before


@pytest.mark.parametrize(
    "authorization", [f"Bearer {KEY}", f"bearer {KEY}", _basic(f"any:{KEY}"), _basic(f":{KEY}")]
)
def test_a_reward_with_the_key(
    keyed: FaultyServer, rollouts: list[Rollout], chaos: Helpers, authorization: str
) -> None:
    headers = f"Authorization: {authorization}\r\n"
    answer = keyed.post(rollouts[0].payload, headers=headers)
    chaos.assert_rewarded([(rollouts[0], answer)])


def test_the_log_shows_no_key(keyed: FaultyServer, rollouts: list[Rollout]) -> None:
    """Requests with a key that are wrong in every way; the fixture checks the log at the end."""
    header = f"Authorization: {_basic('any:' + KEY)}\r\n"
    malformed = [
        b"{",
        b"\xff",
        json.dumps({"query": [KEY]}).encode(),
        json.dumps({"query": ["Q: 5"], "prompts": ["Q:"], "labels": [{"answer": 5}]}).encode(),
        json.dumps({**rollouts[0].payload, "labels": ["5", "6"]}).encode(),
    ]
    for body in malformed:
        assert keyed.post(body, headers=header).status == 400
    keyed.tell(fail="runtime")
    assert keyed.post(rollouts[0].payload, headers=header).status == 500
    keyed.tell()
    for head in (
        f"POST http://any:{KEY}@here/get_reward HTTP/1.1 x\r\n{header}\r\n",
        f"{header}\r\n",
        f"Authorization: Bearer {KEY}\r\n\r\n",
        f"GET /{KEY}\r\n\r\n",
        f"POST /{KEY} HTTP/1.1\r\nContent-Length: {KEY}\r\n{header}\r\n",
        f"POST /get_reward HTTP/{KEY}\r\n{header}\r\n",
        f"POST /get_reward HTTP/1.1\r\n{header}" + "a: b\r\n" * 200 + "\r\n",
        f"POST /get_reward HTTP/1.1\r\n{header}Transfer-Encoding: chunked\r\n\r\n{KEY}\r\n",
        f"POST /get_reward HTTP/1.1\r\n{header}Content-Length: 500\r\n\r\n{KEY}",
    ):
        with socket.create_connection(keyed.address, timeout=10) as connection:
            connection.sendall(head.encode())
            connection.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while connection.recv(1 << 16):
                    pass


@pytest.mark.parametrize(
    ("credentials", "is_authorized"),
    # Slow without a key: the client tries five times, a second apart.
    [(f"any:{KEY}@", True), pytest.param("", False, marks=pytest.mark.slow)],
)
def test_openrlhf_sends_the_key_of_its_url(
    keyed: FaultyServer,
    bundled_tokenizer: Any,
    credentials: str,
    is_authorized: bool,
) -> None:
    problem = next(iter(generate(seed=3, held_out=True)))
    prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
    ids = bundled_tokenizer.encode(problem.concise + "<|im_end|>", add_special_tokens=False)

    class Engine:
        async def generate(self, *_: Any, **__: Any) -> Any:
            output = SimpleNamespace(
                token_ids=ids, text=problem.concise, finish_reason="stop", logprobs=None
            )
            return SimpleNamespace(outputs=[output])

    url = keyed.url.replace("http://", f"http://{credentials}") + "/get_reward"
    output = asyncio.run(
        agent.SingleTurnAgentExecutor(url).execute(
            prompt,
            str(problem.answer),
            SimpleNamespace(max_tokens=400, logprobs=None),
            1024,
            bundled_tokenizer,
            Engine(),
        )
    )
    assert output["scores"] == ([1.0] if is_authorized else None)
    assert (output["reward"] is None) != is_authorized
