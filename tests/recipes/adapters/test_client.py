"""The client for other trainers, with the real server and with failing ones."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from recipes.adapters.client import RewardClient, RewardError

QUERY, PROMPT = "Q: 2+3?\nA: 5", "Q: 2+3?\nA:"
GOOD = (200, {"rewards": [1.1], "scores": [1], "extra_logs": {"sar": [0.5]}})
HANGS_UP = (0, None)


class Scripted:
    """Gives the answers of a list in turn and repeats the last one."""

    def __init__(self, http: ThreadingHTTPServer) -> None:
        self.answers: list[tuple[int, Any]] = [GOOD]
        self.received: list[tuple[dict[str, str], Any]] = []
        self.url = f"http://127.0.0.1:{http.server_port}/get_reward"

    def answer(self) -> tuple[int, Any]:
        return self.answers[min(len(self.received), len(self.answers)) - 1]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.received.append((dict(self.headers), json.loads(body or "null")))
            status, answer = script.answer()
            if (status, answer) == HANGS_UP:
                return
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Location", script.url)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Scripted(http)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield script
    http.shutdown()
    http.server_close()


def ask(url: str, **options: Any) -> list[dict[str, float]]:
    return RewardClient(url, wait_s=0.001, **options).ask([QUERY], [PROMPT], ["5"])


def test_rewards_of_a_real_server(server: Any) -> None:
    labels = ["5", {"answer": "6", "grader": "math", "mode": "train"}]
    got = RewardClient(server.url + "/get_reward").ask([QUERY] * 2, [PROMPT] * 2, labels)
    body = {"query": [QUERY] * 2, "prompts": [PROMPT] * 2, "labels": labels}
    _, answer = server.request("/get_reward", body)
    assert [one["score"] for one in got] == [1, 0]
    assert [one["reward"] for one in got] == pytest.approx(answer["rewards"], abs=1e-5)
    for name, values in answer["extra_logs"].items():
        if name != "policy_age_s":
            assert [one[name] for one in got] == pytest.approx(values, abs=1e-5), name
    assert got[0]["policy_age_s"] > 0
    assert all(type(value) is float for one in got for value in one.values())


def test_threads_share_a_client(server: Any) -> None:
    client = RewardClient(server.url + "/get_reward")
    with ThreadPoolExecutor(16) as threads:
        labels = [str(number) for number in range(64)]
        got = list(threads.map(lambda label: client.ask([QUERY], [PROMPT], [label]), labels))
    assert [one["score"] for (one,) in got] == [float(label == "5") for label in labels]


def test_what_is_sent(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    ask(scripted.url)
    ((headers, body),) = scripted.received
    assert body == {"query": [QUERY], "prompts": [PROMPT], "labels": ["5"]}
    assert "Authorization" not in headers


def test_nothing_asked_is_nothing_sent(scripted: Scripted) -> None:
    assert RewardClient(scripted.url).ask([], [], []) == []
    assert scripted.received == []


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("s3cret,@key:1\n")
    other = start_server("--api-key-file", str(keys))
    other.wait_until_ready()
    return other


def test_keys(guarded: Any) -> None:
    url = guarded.url.replace("//", "//any:{}@") + "/get_reward"
    assert ask(url.format("s3cret%2C%40key%3A1"))[0]["score"] == 1
    with pytest.raises(
        RewardError, match="it requires a key, and got none or a wrong one"
    ) as raised:
        ask(url.format("an0ther"), num_tries=1000)
    assert not raised.value.may_pass
    assert "an0ther" not in str(raised.value)


def test_a_wrong_label_is_refused_once_with_the_servers_words(server: Any) -> None:
    client = RewardClient(server.url + "/get_reward", num_tries=1000)
    with pytest.raises(RewardError, match=r"HTTP 400: labels\[0\].*grader") as raised:
        client.ask([QUERY], [PROMPT], [{"answer": "5", "grader": "regex"}])
    assert not raised.value.may_pass
    assert "\n" not in str(raised.value)


def test_a_check_at_the_start(server: Any, guarded: Any, scripted: Scripted) -> None:
    RewardClient(server.url + "/get_reward").check()
    url = guarded.url.replace("//", "//any:{}@") + "/get_reward"
    RewardClient(url.format("s3cret%2C%40key%3A1")).check()
    with pytest.raises(RewardError, match="it requires a key, and got none or a wrong one"):
        RewardClient(url.format("an0ther"), num_tries=1000).check()
    nothing: dict[str, Any] = {"rewards": [], "scores": [], "extra_logs": {}}
    scripted.answers = [HANGS_UP, (503, {}), (200, nothing)]
    RewardClient(scripted.url, num_tries=3, wait_s=0.001).check()
    assert [body for _, body in scripted.received] == [
        {"query": [], "prompts": [], "labels": []}
    ] * 3


@pytest.mark.parametrize(
    "fault", [HANGS_UP, (500, {}), (503, b"<html>"), (408, {}), (429, {})], ids=str
)
def test_what_may_pass_is_tried_again(scripted: Scripted, fault: tuple[int, Any]) -> None:
    scripted.answers = [fault, fault, GOOD]
    assert ask(scripted.url) == [{"reward": 1.1, "score": 1.0, "sar": 0.5}]
    assert len(scripted.received) == 3


@pytest.mark.parametrize("fault", [HANGS_UP, (504, {"error": {"message": "too late"}})], ids=str)
def test_it_gives_up_after_its_tries(scripted: Scripted, fault: tuple[int, Any]) -> None:
    scripted.answers = [fault]
    with pytest.raises(RewardError) as raised:
        ask(scripted.url, num_tries=3)
    assert len(scripted.received) == 3
    assert raised.value.may_pass
    assert str(raised.value).startswith(scripted.url)
    assert ("HTTP 504: too late" in str(raised.value)) == (fault is not HANGS_UP)


def test_it_waits_longer_each_time(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    scripted.answers = [(500, {})]
    with pytest.raises(RewardError):
        RewardClient(scripted.url, num_tries=8).ask([QUERY], [PROMPT], ["5"])
    assert waited == [1, 2, 4, 8, 16, 30, 30]


def test_no_server() -> None:
    with socket.socket() as held:  # a port that nothing listens on
        held.bind(("127.0.0.1", 0))
        url = f"http://any:secret99@127.0.0.1:{held.getsockname()[1]}/get_reward"
        with pytest.raises(RewardError, match=r"cannot be reached: .*refused") as raised:
            ask(url, num_tries=2)
    assert raised.value.may_pass
    assert "secret99" not in str(raised.value)


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/get_reward"
        with pytest.raises(RewardError, match="timed out") as raised:
            ask(url, num_tries=1, timeout_s=0.1)
    assert raised.value.may_pass


LOGS = {"sar": [0.5]}


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"<html>", "not that of a reward server"),
        ([], "not that of a reward server"),
        (b"[" * 100_000 + b"]" * 100_000, "not that of a reward server"),
        (b'{"rewards": [' + b"[" * 950 + b"]" * 950 + b'], "scores": [1], "extra_logs": {}}', ""),
        (
            {"rewards": [1], "scores": [1], "extra_logs": {"reward": [5]}},
            "extra_logs has 'reward', which would replace the real one",
        ),
        ({"rewards": [1], "scores": [1], "extra_logs": {"score": [5]}}, "extra_logs has 'score'"),
        ({"rewards": [1], "scores": [1], "extra_logs": ["reward"]}, "not that of a reward server"),
        ({"rewards": [1], "scores": [1]}, "extra_logs"),
        ({"rewards": [1], "scores": [1], "extra_logs": None}, "not that of a reward server"),
        ({"rewards": [1, 1], "scores": [1], "extra_logs": LOGS}, "2 numbers of reward for 1 roll"),
        ({"rewards": [], "scores": [1], "extra_logs": LOGS}, "0 numbers of reward"),
        ({"rewards": [1], "scores": [1], "extra_logs": {"sar": [1, 2]}}, "2 numbers of sar"),
        ({"rewards": [None], "scores": [1], "extra_logs": LOGS}, "reward has None"),
        ({"rewards": ["1"], "scores": [1], "extra_logs": LOGS}, "reward has '1'"),
        ({"rewards": "1", "scores": [1], "extra_logs": LOGS}, "reward has '1'"),
        ({"rewards": [True], "scores": [1], "extra_logs": LOGS}, "reward has True"),
        (b'{"rewards": [NaN], "scores": [1], "extra_logs": {}}', "reward has nan"),
        (b'{"rewards": [1], "scores": [1], "extra_logs": {"sar": [1e999]}}', "sar has inf"),
        (b'{"rewards": [1' + b"0" * 400 + b'], "scores": [1], "extra_logs": {}}', "reward server"),
    ],
)
def test_an_answer_that_is_none(scripted: Scripted, body: Any, part: str) -> None:
    scripted.answers = [(200, body)]
    with pytest.raises(RewardError) as raised:
        ask(scripted.url)
    assert part in str(raised.value)
    assert not raised.value.may_pass
    assert len(scripted.received) == 1


def test_a_redirect_does_not_get_the_key(scripted: Scripted) -> None:
    scripted.answers = [(302, {}), GOOD]
    with pytest.raises(RewardError, match="HTTP 302"):
        ask(scripted.url.replace("//", "//any:key@"))
    assert len(scripted.received) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:5000/get_reward",
        "ftp://any:hidden77@host/get_reward",
        "http://any:hidden77@host:5000",
        "http://any:hidden77@host:x/get_reward",
        "http://any:hidden77@[::1/get_reward",
        "http://any:hidden77@ho\u2100st/get_reward",
        "http://any:hidden77@a..b/get_reward",
        "http://any:hidden77@host/\u00e9/get_reward",
    ],
)
def test_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"get_reward|port") as raised:
        RewardClient(url)
    assert "hidden77" not in str(raised.value)


def test_mistakes_of_the_caller(scripted: Scripted) -> None:
    with pytest.raises(ValueError, match="num_tries=0"):
        RewardClient(scripted.url, num_tries=0)
    with pytest.raises(ValueError, match="2 queries, 1 prompts, 1 labels"):
        RewardClient(scripted.url).ask([QUERY] * 2, [PROMPT], ["5"])
    assert scripted.received == []
