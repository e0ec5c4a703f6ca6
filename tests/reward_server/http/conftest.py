"""Hostile values for requests, a server that is sent them, and one whose terms a test chooses.

The strategies are fixtures because nothing imports from tests: a test draws from them with
`st.data()`.
"""

from __future__ import annotations

import errno
import http.client
import io
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from reward_server.http.app import AppConfig, create_app
from reward_server.http.request_schema import RequestLimits
from reward_server.observe.reward_log import RewardLog
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.service import RewardService, ServiceLimits
from reward_server.pipeline.waiting import CLIENT_IS_GONE
from sar.grading.verdict import Reason, Verdict
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.scoring import TokenSequence
from sar.terms.composition import Composition, WeightedTerm
from sar.tokenization import RolloutTokenizer

if TYPE_CHECKING:
    from tests.conftest import Contract, TestedServer

Texts = st.SearchStrategy[str]
Values = st.SearchStrategy[Any]
PROMPT = "Q: 2+3?\nA:"
MIN_FUZZ_CASES = 5000
# Room for an error's message, the client's request id, the time and the status.
MAX_LOG_LINE_CHARS = 750


class Scorer:
    """Gives each token a log-probability by its sequence's length, so that responses differ."""

    max_context_tokens = None

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> list[Any]:
        return [
            np.full(len(one.response_ids), -(len(one) ** 2 % 89) / 90, np.float32)
            for one in sequences
        ]


class Graders:
    """Finds a response right if the label's answer is in it."""

    num_restarts = 0

    def submit(self, response: str, label: Any) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        is_right = label.answer in response
        future.set_result(Verdict(Reason.CORRECT if is_right else Reason.WRONG, "5"))
        return future


class Client:
    """A server in this process, with or without a reward file's terms."""

    def __init__(
        self,
        tokenizer: Any,
        *terms: WeightedTerm,
        group_size: int | None = None,
        normalize: Any = "none",
        timeout_s: float = 60.0,
        reward_log: RewardLog | None = None,
    ) -> None:
        graders: Any = Graders()
        self.composition = Composition(terms, group_size, normalize) if terms else None
        self.service = RewardService(
            graders,
            sar_weight=0.2,
            limits=ServiceLimits(timeout_s, 2**31),
            composition=self.composition,
            reward_log=reward_log,
        )
        self._tokenizer = RolloutTokenizer(tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
        self.service.engines.start(self.make_engine(0))
        limits = RequestLimits(max_samples=8192, max_text_chars=100_000, max_body_bytes=2**26)
        self._app = create_app(self.service, AppConfig("m", 0.2, limits))

    def make_engine(self, version: int) -> Engine:
        return Engine(self._tokenizer, Batcher(Scorer(), 100_000), version=version)

    def ask(self, *rollouts: tuple[str, Any], prompt: str = PROMPT, **options: Any) -> Any:
        """The answer to responses with their labels."""
        return self.send(*((prompt, *one) for one in rollouts), **options)

    def send(
        self,
        *rollouts: tuple[str, str, Any],
        is_gone: Callable[[], bool] = lambda: False,
        path: str = "/get_reward",
    ) -> Any:
        """The answer to prompts, responses and labels.

        Args:
            is_gone: whether the client has closed its connection.
        """
        body = {
            "query": [prompt + response for prompt, response, _ in rollouts],
            "prompts": [prompt for prompt, *_ in rollouts],
            "labels": [label for *_, label in rollouts],
        }
        environ = {CLIENT_IS_GONE: is_gone}
        return self._app.test_client().post(path, json=body, environ_overrides=environ)

    def post(self, path: str, body: Any) -> Any:
        """The answer to a body: bytes, or a value to be sent as JSON."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        return self._app.test_client().post(path, **sent)

    def ask_rm(self, response: str, label: Any) -> Any:
        body = {"prompt": PROMPT, "response": response, "label": label}
        return self._app.test_client().post("/rm", json=body)

    def get(self, path: str) -> Any:
        return self._app.test_client().get(path)

    def metrics(self) -> dict[tuple[Any, ...], float]:
        return {
            (sample.name.removeprefix("reward_server_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
        }


@pytest.fixture
def make_client(bundled_tokenizer: Any) -> Callable[..., Client]:
    return lambda *terms, **options: Client(bundled_tokenizer, *terms, **options)


@pytest.fixture(scope="session")
def hostile_texts() -> Texts:
    """Texts that are long, unprintable or half a character."""
    texts = st.text(st.characters(), max_size=20)
    odd = ["x" * 100_000, "\n\r\x1b[2J\u2028\x85" * 200, "\ud83d" * 300, "\U000e0001" * 900, "\0"]
    return st.sampled_from(odd) | texts | texts.map(lambda text: text * 100)


@pytest.fixture(scope="session")
def hostile_values(hostile_texts: Texts) -> Values:
    """JSON values of any shape, with hostile texts, and numbers of up to 4000 digits."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.integers(-(10**4000), 10**4000)
        | hostile_texts,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                hostile_texts | st.sampled_from(["answer", "grader", "mode", "choices"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )


_KNOWN = {"query": ["Q: 2+3?\nA: 5"] * 2, "prompts": ["Q: 2+3?\nA:"] * 2, "labels": ["5", "6"]}


class Fuzzed:
    """A server that is sent bad input; every answer is checked against the contract."""

    def __init__(self, server: TestedServer, contract: Contract) -> None:
        self.server = server
        self.num_cases = 0
        self.headers: Any = {}
        """Headers of the last answer."""
        self._contract = contract
        self._address = urlsplit(server.url)
        self._known_rewards = self._request_known_rewards()

    def send(
        self,
        body: bytes,
        *,
        method: str = "POST",
        path: str = "/get_reward",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Sends one request that is valid HTTP. Returns its status and JSON."""
        self.num_cases += 1
        connection = http.client.HTTPConnection(self._address.netloc, timeout=600)
        try:
            connection.request(method, path, body, headers or {})
            return self._check(connection.getresponse(), method, path)
        finally:
            connection.close()

    def send_raw(
        self, data: bytes, method: str = "GET", *, is_all: bool = True
    ) -> list[tuple[int, Any]]:
        """Sends bytes and returns the answers. With `is_all`, the client then closes its side."""
        self.num_cases += 1
        received = _ReceivedBytes()
        with socket.create_connection((self._address.hostname, self._address.port), 60) as client:
            try:
                client.sendall(data)
                if is_all:
                    client.shutdown(socket.SHUT_WR)
                while chunk := client.recv(1 << 16):
                    received.write(chunk)
            except OSError as error:
                # The server refused before everything was sent.
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    raise
        end = received.tell()
        received.seek(0)
        answers = []
        while received.tell() < end:
            response = http.client.HTTPResponse(received, method=method)  # type: ignore[arg-type]
            response.begin()
            answers.append(self._check(response))
        return answers

    def assert_is_as_right_as_before(self) -> None:
        assert self._request_known_rewards() == pytest.approx(self._known_rewards, abs=1e-5)
        assert self.server.request("/healthz")[1]["in_flight"] == 0
        log = self.server.log.read_text()
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
        for line in log.split("\n"):
            assert line.isprintable(), line[:3000]
            assert len(line) <= MAX_LOG_LINE_CHARS, line[:3000]

    def _check(
        self, response: http.client.HTTPResponse, method: str = "", path: str = ""
    ) -> tuple[int, Any]:
        """Checks one answer. Without a path, only the form of errors can be checked."""
        body = response.read()
        self.headers = response.headers
        content_type = response.headers["Content-Type"]
        assert response.status < 500, (response.status, body[:2000])
        if method == "HEAD" or (not path and response.status == HTTPStatus.OK):
            return response.status, None
        # The server unescapes a path and ignores how many slashes it starts with.
        route = "/" + unquote(path.partition("?")[0]).lstrip("/") if path else ""
        value = self._contract.check(method, route, response.status, content_type, body)
        return response.status, value

    def _request_known_rewards(self) -> Any:
        status, body = self.server.request("/get_reward", _KNOWN)
        assert (status, body["scores"]) == (200, [1.0, 0.0])
        return body["rewards"]


class _ReceivedBytes(io.BytesIO):
    """Bytes received from a socket, from which several answers are read one after the other."""

    def makefile(self, mode: str) -> _ReceivedBytes:
        return self

    def close(self) -> None:
        """Does nothing: `HTTPResponse` closes its file after each answer."""


@pytest.fixture(scope="session")
def fuzzed(start_server: Callable[..., TestedServer], contract: Contract) -> Iterator[Fuzzed]:
    """A server for bad input, with a short grader timeout."""
    server = start_server("--grader-timeout", "1")
    server.wait_until_ready()
    fuzzed = Fuzzed(server, contract)
    yield fuzzed
    print(f"\nfuzz: {fuzzed.num_cases} cases")
    fuzzed.assert_is_as_right_as_before()
    assert server.stop() == 0, server.log.read_text()[-20_000:]
    if hypothesis.settings.get_current_profile_name() == "fuzz":
        assert fuzzed.num_cases >= MIN_FUZZ_CASES, "make fuzz runs all three files"
