"""What the page says of a run: its alarms, true shares, what is paid, what words mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sar.alarms.definitions import ALARMS
from sar.alarms.monitor import Monitor
from sar.decision import Decision
from sar.grading.verdict import Reason

if TYPE_CHECKING:
    from sar.view.log_index import LogIndex
    from tests.conftest import Tab

pytestmark = pytest.mark.slow  # a browser

Show = Callable[..., "tuple[Tab, LogIndex, Path]"]


def test_alarms_are_a_strip(show: Show, make_run: Any) -> None:
    alarms = [
        {"name": "a", "title": "Length collapse", "state": "alarm", "since": "2026-11-01T00:00:00Z",
         "rollout": 2880, "policy_version": 12,
         "value": 12.5, "threshold": 20.0, "message": "Responses have 12 tokens."},
        {"name": "b", "title": "Repetition", "state": "ok", "since": "2026-11-01T12:00:00Z",
         "rollout": 500, "policy_version": None,
         "value": 0.25, "threshold": 0.5, "message": ""},
        {"name": "c", "title": "Lag", "state": "unknown", "since": None, "value": None,
         "threshold": None, "message": None},
    ]  # fmt: skip
    tab, _, _ = show(make_run(20), alarms=alarms)
    page = tab.page
    assert page.locator(".alarm summary").all_inner_texts() == [
        "⚠ Length collapse",
        "✓ Repetition",
        "? Lag",
    ]
    page.click(".alarm summary >> nth=0")
    assert "Responses have 12 tokens." in page.inner_text(".alarm >> nth=0")
    page.wait_for_timeout(2500)  # an update leaves it open
    facts = page.inner_text(".alarm >> nth=0")
    assert re.search(r"value 12.5, threshold 20, rings since .*2026", facts)
    assert "(rollout 2,880, policy version 12)" in facts
    page.click(".alarm summary >> nth=1")
    facts = page.inner_text(".alarm >> nth=1")
    assert re.search(r"threshold 0.5, rang until .*2026.* \(rollout 500\)", facts)
    tab.check()


def list_alarms(decisions: list[Decision]) -> list[dict[str, Any]]:
    monitor = Monitor(64)
    for one in decisions:
        monitor.add(one)
    return [state.to_json() for state in monitor.states()]


@pytest.mark.parametrize("by", ["version", "rollouts", "time"])
def test_an_alarm_leads_to_the_rollouts_over_which_it_rings(
    show: Show, make_run: Any, by: str
) -> None:
    run = [replace(one, template_mismatch=n >= 320) for n, one in enumerate(make_run(640))]
    run[100:100] = [replace(one, mode="eval") for one in make_run(48)]
    alarms = list_alarms(run)
    (ring,) = next(one for one in alarms if one["name"] == "template_mismatch")["rings"]
    assert (ring["start_rollout"], ring["begin_rollout"]) == (273, 336)
    tab, _, _ = show(run, alarms=alarms)
    page = tab.page
    page.select_option("#by", by)
    tab.wait(f"document.querySelector('#charts .u-legend th')?.textContent === '{by}'")
    # The alarm began at the 336th of 640 rollouts of training: the 384th of 688 in the log.
    find_mark = (
        "() => { const over = document.querySelector('#charts .chart .u-over');"
        " const mark = [...over.querySelectorAll('.mark')].find("
        "  (one) => one.title.includes('Template mismatch: rings from rollout 336 on'));"
        " return mark ? (mark.offsetLeft + 3.5) / over.clientWidth : null }"
    )
    share = page.wait_for_function(find_mark).json_value()
    places = {"version": 20 / 39, "rollouts": 384 / 688, "time": 336 / 640}
    assert share == pytest.approx(places[by], abs=0.03)
    page.click(".alarm[data-name=template_mismatch] summary")
    page.wait_for_selector("#window:not([hidden])")
    text = page.inner_text("#window-text")
    assert text.endswith(", over which this alarm rang: Template mismatch.")
    first, last = map(int, re.findall(r"rollouts (\d+) to (\d+)", text)[0])
    # A window of the alarm has 64 rollouts of training, and the log has 48 of evaluation before it.
    assert 0 <= 273 + 48 - first <= 16
    assert last == 688
    num = last - first + 1
    tab.wait(f"document.querySelector('#points-text').textContent.includes('of {num} rollouts')")
    page.select_option("#kind", "worst")
    tab.wait(f"document.querySelector('#rows a').textContent >= '{first}'")
    tab.check()


def test_a_ring_that_is_over_can_be_shown(show: Show, make_run: Any) -> None:
    run = [replace(one, template_mismatch=160 <= n < 320) for n, one in enumerate(make_run(640))]
    alarms = [one for one in list_alarms(run) if one["name"] == "template_mismatch"]
    assert alarms[0]["state"] == "ok"
    tab, _, _ = show(run, alarms=alarms)
    page = tab.page
    page.click(".alarm summary")
    assert not page.is_visible("#window")
    end = alarms[0]["rings"][0]["end_rollout"]
    page.click(f".alarm button:text-is('Show rollouts 113 to {end}')")
    page.wait_for_selector("#window:not([hidden])")
    first, last = map(
        int, re.findall(r"rollouts (\d+) to (\d+)", page.inner_text("#window-text"))[0]
    )
    assert 0 <= 113 - first <= 16
    assert 0 <= last - end <= 16
    tab.check()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"sar_weight": 0.2}, "SAR"),
        ({"sar_weight": 0.0}, "SAR (not paid)"),
        ({"sar_weight": 0.0, "terms": {"correctness": 1.0, "overlong": -1.0}}, "SAR (not paid)"),
        ({"sar_weight": 0.0, "terms": {"correctness": 1.0, "sar": 0.25}}, "SAR"),
    ],
)
def test_sar_that_is_not_paid_is_said(
    show: Show, rollout: Any, fields: dict[str, Any], name: str
) -> None:
    tab, _, _ = show([rollout(n, sar=0.25, **fields) for n in range(20)])
    page = tab.page
    page.wait_for_selector("#points .uplot")
    assert page.locator("#charts h2 >> nth=2").inner_text() == name
    assert page.inner_text("#points-title") == f"{name} and length"
    tab.check()


def test_the_points_say_what_they_are_a_sample_of(show: Show, rollout: Any) -> None:
    run = [rollout(n, reason=Reason.WRONG if n % 10 == 0 else Reason.CORRECT) for n in range(3000)]
    tab, _, _ = show(run)
    page = tab.page
    tab.wait("document.querySelector('#points-text').textContent.includes('Click')")
    assert page.inner_text("#points-text") == (
        "a sample of 1,700 right and 300 wrong rollouts, so that both are seen. In truth 90 % of "
        "3,000 rollouts are right. Click a point to read it."
    )
    page.select_option("#verdict", "wrong")
    text = "0 % of 300 rollouts are right. Click a point to read it."
    tab.wait(f"document.querySelector('#points-text').textContent === '{text}'")
    tab.check()


def test_what_is_shown_is_explained(show: Show, make_run: Any) -> None:
    tab, _, _ = show(make_run(20), alarms=list_alarms(make_run(20)))
    page = tab.page
    titles = page.locator(".alarm").evaluate_all("all => all.map(one => one.title)")
    assert titles == [alarm.meaning for alarm in ALARMS]
    assert all(page.locator("#charts h2").evaluate_all("all => all.map(one => one.title)"))
    page.click("#words summary")
    words = page.inner_text("#words")
    for word in ("Most surprising", "zero-variance group", "No answer", "SAR"):
        assert word in words
    tab.check()
