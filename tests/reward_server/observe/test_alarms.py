"""Alarms of a server: what the log says, the gauge, the follower's lag, threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_server.observe.alarms import LiveAlarms
from reward_server.observe.metrics import Metrics
from sar.alarms.definitions import ALARMS
from sar.decision import Decision


@pytest.fixture
def good(decision: Callable[..., Decision]) -> Decision:
    return decision()


def watch(alarms: LiveAlarms, decision: Decision, num: int) -> None:
    for _ in range(num):
        alarms.add([decision])


def read_gauge(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.render().decode())
    (family,) = [one for one in families if one.name == "reward_server_alarm"]
    assert family.type == "gauge"
    return {sample.labels["alarm"]: sample.value for sample in family.samples}


def test_a_change_is_one_line(good: Decision, caplog: pytest.LogCaptureFixture) -> None:
    alarms = LiveAlarms(window=64)
    bad = replace(good, template_mismatch=True)
    with caplog.at_level(logging.INFO):
        watch(alarms, good, 128)
        assert caplog.messages == []
        watch(alarms, bad, 1000)
        assert caplog.messages == [
            "alarm template_mismatch begins at rollout 144: prompts with another template than the "
            "server's: 25.0%"
        ]
        watch(alarms, good, 1000)
    begins, ends = caplog.records
    assert (begins.levelname, ends.levelname) == ("WARNING", "INFO")
    assert ends.getMessage().startswith("alarm template_mismatch ends at rollout ")
    assert begins.name == "reward_server.observe.alarms"


def test_a_line_is_short_and_printable(good: Decision, caplog: pytest.LogCaptureFixture) -> None:
    name = "\x1b[31m\n" + "x" * 5000
    alarms = LiveAlarms(window=64)
    watch(alarms, replace(good, terms={name: 0.1}), 128)
    watch(alarms, replace(good, terms={name: 0.9}), 128)
    (message,) = caplog.messages
    assert message.startswith("alarm term_rises begins at rollout ")
    assert message.isprintable()
    assert len(message) < 300


def test_the_gauge_shows_what_can_be_told(good: Decision) -> None:
    alarms, metrics = LiveAlarms(window=64), Metrics()
    metrics.show_alarms(alarms.read_gauge)
    assert read_gauge(metrics) == {}
    watch(alarms, replace(good, template_mismatch=True), 100)
    assert read_gauge(metrics)["template_mismatch"] == 1.0
    assert read_gauge(metrics)["grader_bombs"] == 0.0
    assert "length_collapse" not in read_gauge(metrics)
    watch(alarms, good, 200)
    shown = read_gauge(metrics)
    assert shown["template_mismatch"] == 0.0
    assert set(shown) == {alarm.name for alarm in ALARMS} - {"zero_variance", "scorer_lags"}


def test_a_follower_that_stays_behind(good: Decision) -> None:
    """The trainer writes checkpoints, and the server goes on with its first weights."""
    newest = iter(range(0, 1000, 5))
    alarms = LiveAlarms(lambda: next(newest), window=64)
    watch(alarms, replace(good, policy_version=0), 256)
    (state,) = [one for one in alarms.states() if one.alarm.name == "scorer_lags"]
    assert state.state == "alarm"
    assert state.value is not None
    assert state.value >= 4


def test_a_follower_that_keeps_up(good: Decision) -> None:
    step = 0
    alarms = LiveAlarms(lambda: step, window=64)
    for number in range(1000):
        step = number // 40 * 5
        alarms.add([replace(good, policy_version=max(0, step - 5))])
    (state,) = [one for one in alarms.states() if one.alarm.name == "scorer_lags"]
    assert (state.state, state.num_fired) == ("ok", 0)
    assert state.value is not None
    assert 0 < state.value <= 2


def test_a_server_that_follows_nothing_has_no_lag(good: Decision) -> None:
    alarms = LiveAlarms(window=64)
    watch(alarms, replace(good, policy_version=0), 256)
    (state,) = [one for one in alarms.states() if one.alarm.name == "scorer_lags"]
    assert state.state == "unknown"


def test_states_can_be_read_while_decisions_come(good: Decision) -> None:
    alarms, metrics = LiveAlarms(window=64), Metrics()
    metrics.show_alarms(alarms.read_gauge)
    errors: list[BaseException] = []
    is_done = threading.Event()

    def read() -> None:
        try:
            while not is_done.is_set():
                read_gauge(metrics)
                assert len(alarms.states()) == len(ALARMS)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    watch(alarms, good, 3000)
    is_done.set()
    reader.join()
    assert errors == []
