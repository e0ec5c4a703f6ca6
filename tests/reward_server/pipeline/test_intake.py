"""The threads that parse and tokenise."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward_server.errors import ClientGone, RequestTimedOut
from reward_server.pipeline.intake import Intake
from reward_server.pipeline.waiting import IN_THREADS, Client, Deadline


def _make_client(timeout_s: float = 60.0, *, is_gone: bool = False) -> Client:
    return Client(Deadline(timeout_s, IN_THREADS), lambda: is_gone)


def test_work_is_done_in_another_thread() -> None:
    here = threading.get_ident()
    assert Intake().run(threading.get_ident, _make_client(), 1) != here


def test_an_error_of_the_work_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        Intake().run(lambda: 1 // 0, _make_client(), 1)


def test_work_for_a_client_that_has_gone_is_not_done() -> None:
    done = threading.Event()
    with pytest.raises(ClientGone):
        Intake().run(done.set, _make_client(is_gone=True), 1)
    assert not done.is_set()


def test_work_whose_deadline_passed_while_it_waited_is_not_done() -> None:
    intake, may_end, done = Intake(), threading.Event(), threading.Event()
    with ThreadPoolExecutor() as clients:
        busy = [clients.submit(intake.run, may_end.wait, _make_client(), 1) for _ in range(8)]
        with pytest.raises(RequestTimedOut):
            intake.run(done.set, _make_client(0.05), 1)
        may_end.set()
        assert all(one.result(60) for one in busy)
    intake.run(lambda: None, _make_client(), 1)  # after everything that came before it
    assert not done.is_set()


def test_long_texts_do_not_keep_short_ones_waiting() -> None:
    intake, may_end = Intake(), threading.Event()
    with ThreadPoolExecutor() as clients:
        busy = [clients.submit(intake.run, may_end.wait, _make_client(), 10**6) for _ in range(8)]
        assert intake.run(lambda: 5, _make_client(), 1000) == 5
        assert not any(one.done() for one in busy)
        may_end.set()
