"""The log: one line for each event, as text or as JSON, whatever the message contains."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from tests.conftest import TestedServer

ROOT = Path(__file__).parents[3]
SCRIPT = r"""
import logging, sys
from reward_server.observe.logs import start_logging
start_logging(sys.argv[1])
log = logging.getLogger("reward_server.x")
log.debug("not shown")
log.info("two\nlines, a \x00, a \ud800 and %s", "é")
try:
    raise ValueError("a\nb")
except ValueError:
    log.exception("failed")
log.warning("last")
"""


def _log_lines(log_format: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, log_format],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=600,
    )
    assert done.stdout == b""
    return done.stderr.decode().splitlines()


def test_json_has_one_line_for_each_event_with_its_traceback() -> None:
    events = [json.loads(line) for line in _log_lines("json")]
    assert [event["level"] for event in events] == ["INFO", "ERROR", "WARNING"]
    assert events[0]["message"] == "two\nlines, a \x00, a \ud800 and é"
    assert events[1]["traceback"].startswith("Traceback")
    assert events[1]["traceback"].endswith("ValueError: a\nb")
    assert all(event["logger"] == "reward_server.x" for event in events)
    assert all(re.fullmatch(r"[\d-]{10}T[\d:.]{12}\+00:00", event["time"]) for event in events)


def test_text_starts_each_event_with_its_time_and_level() -> None:
    lines = _log_lines("text")
    levels = [m[1] for line in lines if (m := re.match(r"\d{4}-.{18} ([A-Z]+) ", line))]
    assert levels == ["INFO", "ERROR", "WARNING"]


HOSTILE = r"""
import sys, threading, warnings, logging
from reward_server.observe.logs import adopt_loggers, start_logging
other = logging.getLogger("a_library")
other.addHandler(logging.StreamHandler())
other.propagate = False
start_logging(sys.argv[1])
adopt_loggers("a_library")
log = logging.getLogger("reward_server.x")
evil = "\r2026-01-01 00:00:00,000 ERROR forged\n\x1b[2J\x85\u2028\u2029\x9b31m\u202e\ud83d"
log.info("%s", evil)
log.info("\x1b[1mLOAD REPORT\x1b[0m\n\nKey | Status\n----\n  a | MISSING\n")
log.warning("%s", "x" * 20_000_000)
for error in (evil, evil * 200_000):
    try:
        try:
            raise KeyError(evil)
        except KeyError as cause:
            raise ValueError(error) from cause
    except ValueError:
        log.exception("failed")
warnings.warn(evil)
other.warning("a library's own\nformat")
def fail():
    raise RuntimeError(evil)
thread = threading.Thread(target=fail, name="t")
thread.start()
thread.join()
fail()
"""


def _log_hostile(log_format: str, **environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, log_format],
        cwd=ROOT,
        capture_output=True,
        timeout=600,
        env={**os.environ, **environ},
    )
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.endswith("\n")
    return text[:-1].split("\n")


@pytest.mark.parametrize(
    "environ",
    [{}, {"LANG": "C", "LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii:strict"}],
    ids=["usual", "C", "ascii"],
)
def test_text_has_one_line_for_each_event_without_control_characters(
    environ: dict[str, str],
) -> None:
    lines = _log_hostile("text", **environ)
    assert all(line.isprintable() for line in lines)
    assert all(re.match(r"\d{4}-.{18} [A-Z]+ ", line) for line in lines)
    messages = [line.split(" ", 3)[3] for line in lines]
    assert len(messages) == 9
    assert messages[0].startswith("2026-01-01 00:00:00,000 ERROR forged | ")
    assert messages[1] == r"\x1b[1mLOAD REPORT\x1b[0m | Key | Status | ---- | a | MISSING"
    assert len(messages[2]) < 2100
    assert "(19,998,000 more characters)" in messages[2]
    for message in messages[3:5]:
        assert message.startswith("failed | Traceback (most recent call last): | ")
        assert " | ValueError: " in message
        assert len(message) < 150_000
    assert "UserWarning" in messages[5]
    assert messages[6] == "a library's own | format"
    assert messages[7].startswith("not caught in thread t | Traceback")
    assert messages[8].startswith("not caught | Traceback")


def test_json_stays_one_line_for_each_event_and_bounded() -> None:
    lines = _log_hostile("json")
    events = [json.loads(line) for line in lines]
    assert len(events) == 9
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert all(len(line) < 150_000 for line in lines)
    assert len(events[2]["message"]) < 2100
    assert "RuntimeError: " in events[8]["traceback"]


KEY = "a-key-that-is-nowhere-to-be-seen"


@pytest.fixture(scope="module")
def events(
    start_server: Callable[..., TestedServer], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What a server with a key logs about good and bad requests."""
    key_file = tmp_path_factory.mktemp("keys") / "key"
    key_file.write_text(KEY + "\n")
    server = start_server("--log-format", "json", "--api-key-file", str(key_file))
    server.wait_until_ready()
    address = urlsplit(server.url)
    heads = [
        b"POST /get_reward HTTP/1.1\r\nAuthorization: Bearer %b\r\nContent-Length: 1\r\n\r\n{",
        b"POST /get_reward HTTP/1.1\r\nAuthorization: Bearer %bx\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /%%0a HTTP/1.x\r\nAuthorization: Bearer %b\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization: Bearer %b\r\n" + b"X: y\r\n" * 150 + b"\r\n",
    ]
    statuses = []
    for head in heads:
        with socket.create_connection((address.hostname, address.port), 30) as client:
            client.sendall(head % KEY.encode())
            statuses.append(int(client.recv(1000).split()[1]))
    assert statuses == [400, 401, 400, 400]
    assert server.stop() == 0
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_every_line_of_a_server_is_a_json_object(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert {"time", "level", "logger", "message"} <= set(event)
        assert "traceback" not in event
    assert [e["level"] for e in events].count("ERROR") == 0


def test_the_start_logs_model_device_limits_and_url(events: list[dict[str, Any]]) -> None:
    messages = "\n".join(event["message"] for event in events)
    for wanted in ("listening on http://", "model ", " cpu", "limits: ", "ready: ", "stopping"):
        assert wanted in messages


def test_the_log_never_shows_the_key(events: list[dict[str, Any]]) -> None:
    assert len(events) > 5
    assert KEY not in json.dumps(events)
