"""The page of `python -m sar view` in a real browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sar.grading.verdict import Reason
from sar.view.dashboard import Dashboard
from sar.view.http_server import ViewServer
from sar.view.log_index import LogIndex

if TYPE_CHECKING:
    from tests.conftest import Tab

pytestmark = pytest.mark.slow  # a browser

OpenTab = Callable[..., "Tab"]
Show = Callable[..., "tuple[Tab, LogIndex, Path]"]
HOSTILE = {
    "script": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    "closing tags": "</pre></dialog></td></script><svg onload='window.hacked = 3'>",
    "template": "${window.hacked = 4} {{constructor.constructor('window.hacked = 5')()}}",
    "RTL": "\u202eabc\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 1 + 2",
    "100,000 characters": "long word " * 10_000,
    "one long word": "x" * 100_000,
    "many hidden characters": "\u200b\u202e" * 20_000 + "the end",
    "line separators": "a\u2028b\u2029c\r\nd\x00e\x1b[31mf",
    "emoji": "👩‍👩‍👧 é 日本語 🏳️‍🌈",
}


def test_it_loads_without_complaints_and_from_nowhere_else(show: Show, make_run: Any) -> None:
    tab, _, log = show(make_run(300))
    page = tab.page
    page.wait_for_selector("#points .uplot")
    titles = page.locator("#charts h2").all_inner_texts()
    assert titles[:4] == ["Reward", "Correctness", "SAR (not paid)", "Response length"]
    assert titles[-2:] == ["Term verdict", "Term short"]
    assert "300 rollouts" in page.inner_text("#facts")
    assert page.inner_text("#title") == str(log.parent)
    policy = tab.response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    # The policy works: a script in the page would not run.
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s) }"
    )
    assert page.evaluate("window.ran") is None
    (refused,) = tab.complaints
    assert "Content Security Policy" in refused
    tab.complaints.clear()
    tab.check()


def test_charts_move_as_the_log_grows(show: Show, make_run: Any, write_log: Any) -> None:
    run = make_run(400)
    tab, index, log = show(run[:200])
    page = tab.page
    page.wait_for_selector("#points .uplot")
    charts = "#charts .chart:first-child", "#points"
    before = [tab.read_pixels(chart) for chart in charts]
    write_log(log, run[200:], appends=True)
    index.update()
    tab.wait("document.querySelector('#facts').textContent.includes('400')")
    tab.wait("document.querySelector('#rows a').textContent === '400'")
    for chart, pixels in zip(charts, before, strict=True):
        tab.wait_for_redraw(chart, pixels)
    tab.check()


def test_a_row_and_a_point_open_their_rollouts(show: Show, rollout: Any) -> None:
    # Two points far from each other: at (10, 0.9) and (500, -0.9).
    tab, _, _ = show(
        [
            rollout(0, num_response_tokens=10, sar=0.9, response="short", prompt="A?"),
            rollout(1, num_response_tokens=500, sar=-0.9, response="long", prompt="B?"),
        ]
    )
    page = tab.page
    page.click("#rows tr >> nth=1")
    tab.wait("document.querySelector('#response')?.textContent === 'short'")
    assert page.inner_text("#rollout-title") == "Rollout 1"
    assert page.inner_text("#prompt") == "A?"
    assert page.is_disabled("#next")  # it is the last of the table
    page.click("#previous")
    tab.wait("document.querySelector('#response')?.textContent === 'long'")
    page.keyboard.press("Escape")
    assert not page.is_visible("#rollout")
    box = page.locator("#points .u-over").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + box["height"] * 0.06)
    tab.wait("document.querySelector('#response')?.textContent === 'short'")
    assert page.url.endswith("#rollout=1")
    tab.check()


def test_arrow_keys_follow_the_table(show: Show, make_run: Any) -> None:
    run = make_run(60)
    tab, _, _ = show(run)
    page = tab.page
    page.select_option("#kind", "worst")
    order = sorted(range(1, 61), key=lambda n: (run[n - 1].reward, -n))
    tab.wait(f"document.querySelector('#rows a').textContent === '{order[0]}'")

    def wait_for(number: int) -> None:
        tab.wait(f"document.querySelector('#rollout-title').textContent === 'Rollout {number}'")

    page.click("#rows tr >> nth=1")
    wait_for(order[1])
    for key, place in (("Right", 2), ("Right", 3), ("Left", 2), ("Left", 1), ("Left", 0)):
        page.keyboard.press(f"Arrow{key}")
        wait_for(order[place])
    assert page.is_disabled("#previous")
    page.keyboard.press("ArrowLeft")  # there is none before it
    # The table may change meanwhile; the keys follow the one that was clicked.
    page.eval_on_selector(
        "#kind", "one => { one.value = 'best'; one.dispatchEvent(new Event('change')) }"
    )
    tab.wait(f"document.querySelector('#rows a').textContent !== '{order[0]}'")
    page.keyboard.press("ArrowRight")
    wait_for(order[1])
    # Opened by its address, a rollout's neighbours are those of the log.
    page.keyboard.press("Escape")
    page.evaluate("location.hash = 'rollout=30'")
    wait_for(30)
    page.keyboard.press("ArrowRight")
    wait_for(31)
    tab.check()


def test_a_link_to_a_rollout_shows_it_with_its_siblings(show: Show, make_run: Any) -> None:
    run = make_run(40)
    tab, _, _ = show(run)
    page = tab.page
    page.goto(tab.page.url + "#rollout=18")
    page.wait_for_selector(".sibling")
    links = page.locator(".sibling a").all_inner_texts()
    assert links == ["17", "18", "19", "20"]
    assert page.locator(".sibling pre").all_inner_texts() == [one.response for one in run[16:20]]
    assert page.inner_text(".sibling.current a") == "18"
    page.click(".sibling a >> nth=3")
    tab.wait("document.querySelector('#rollout-title').textContent === 'Rollout 20'")
    page.goto(page.url.partition("#")[0] + "#rollout=9999")
    page.wait_for_selector("#rollout-error:not([hidden])")
    assert "not there" in page.inner_text("#rollout-error")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_model_wrote_is_shown_as_text(show: Show, rollout: Any, name: str) -> None:
    text = HOSTILE[name]
    tab, _, _ = show(
        [rollout(0, response=text, prompt=text, label=text, answer=text, request_id=text[:100])],
        alarms=[{"name": text, "title": text, "state": "alarm", "message": text}],
    )
    page = tab.page
    page.click("#rows tr")
    page.wait_for_selector("#response")
    for selector in ("#response", "#prompt"):
        shown = page.eval_on_selector(selector, "pre => pre.textContent")
        if name in ("RTL", "line separators"):
            assert "\u202e" not in shown
            assert ("U+202E" if name == "RTL" else "U+001B") in shown
        elif name == "many hidden characters":
            assert shown.endswith("the end")
            assert shown.count("U+202E") == 1000
        else:
            assert shown == text
        tags = page.eval_on_selector_all(f"{selector} *", "all => all.map(one => one.tagName)")
        assert set(tags) <= {"SPAN"}
    box = page.locator("#response").bounding_box()
    dialog = page.locator("#rollout").bounding_box()
    assert box["x"] >= dialog["x"]
    assert box["x"] + box["width"] <= dialog["x"] + dialog["width"]
    for selector in ("#rows", "#rollout-body", "#alarms"):
        assert page.locator(f"{selector} :is(script, img, svg)").count() == 0
    assert page.evaluate("window.hacked") is None
    tab.check()


def test_search_filter_and_tables(show: Show, make_run: Any) -> None:
    run = make_run(120)
    tab, _, _ = show(run)
    page = tab.page
    page.select_option("#kind", "worst")
    worst = min(range(120), key=lambda n: (run[n].reward, -n)) + 1
    tab.wait(f"document.querySelector('#rows a').textContent === '{worst}'")
    page.select_option("#verdict", "no_answer")
    tab.wait(
        "[...document.querySelectorAll('#rows td:nth-child(4)')]"
        ".every(cell => cell.textContent === 'no answer')"
    )
    num = sum(one.reason is Reason.NO_ANSWER for one in run)
    assert page.locator("#rows tr").count() == min(50, num)
    page.select_option("#verdict", "all")
    page.fill("#search", "response 11")
    page.press("#search", "Enter")
    tab.wait("document.querySelectorAll('#rows tr').length === 11")
    assert page.locator("#rows a").all_inner_texts() == [*map(str, range(120, 110, -1)), "12"]
    page.fill("#search", "")
    page.press("#search", "Enter")
    tab.wait("document.querySelectorAll('#rows tr').length === 50")
    tab.check()


def test_a_part_of_a_chart_chooses_its_rollouts(show: Show, make_run: Any) -> None:
    tab, _, _ = show(make_run(640))
    page = tab.page
    page.wait_for_selector("#points .uplot")
    assert page.locator("#by").input_value() == "version"
    box = page.locator("#charts .u-over >> nth=0").bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40, steps=4)
    page.mouse.up()
    page.wait_for_selector("#window:not([hidden])")
    # Versions 0 to 39, of 16 rollouts each. The half of the chart ends near version 19.
    last = int(page.inner_text("#window-text").rstrip(".").rpartition(" ")[2])
    assert last % 16 == 0
    assert abs(last - 320) <= 32
    tab.wait(f"document.querySelector('#rows a').textContent === '{last}'")
    page.click("#window-clear")
    tab.wait("document.querySelector('#rows a').textContent === '640'")
    tab.check()


@pytest.mark.parametrize("by", ["time", "rollouts", "version"])
def test_each_kind_of_chart_is_drawn(show: Show, make_run: Any, by: str) -> None:
    tab, _, _ = show(make_run(200))
    page = tab.page
    page.wait_for_selector("#points .uplot")
    page.select_option("#by", by)
    page.wait_for_timeout(500)
    colors = page.eval_on_selector(
        "#charts canvas",
        "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
        ".data).size",
    )
    assert colors > 20
    tab.check()


def test_light_and_dark(show: Show, make_run: Any) -> None:
    tab, _, _ = show(make_run(100), color_scheme="dark")
    page = tab.page
    page.wait_for_selector("#points .uplot")

    def brightness(selector: str, what: str) -> float:
        color = page.eval_on_selector(selector, f"one => getComputedStyle(one).{what}")
        return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")))

    dark = tab.read_pixels("#charts .chart:first-child")
    assert brightness("body", "backgroundColor") < 150 < 500 < brightness("body", "color")
    page.emulate_media(color_scheme="light")
    assert brightness("body", "color") < 150 < 500 < brightness("body", "backgroundColor")
    page.wait_for_function(
        "before => document.querySelector('#charts .chart canvas')?.toDataURL() !== before",
        arg=dark,
    )
    tab.check()


def test_scorers_are_a_table(show: Show, make_run: Any) -> None:
    text = "<img src=x onerror='window.hacked = 1'>"
    scorers = [
        {"id": 0, "node": "10.0.0.1", "state": "up", "busy_share": 0.931, "tokens": 12345,
         "policy_version": 7, "restarts": 2},
        {"id": 3, "node": text, "state": "behind", "busy_share": 0.0, "tokens": 0,
         "policy_version": 6, "restarts": 0},
    ]  # fmt: skip
    tab, _, _ = show(make_run(20), scorers=scorers)
    page = tab.page
    page.wait_for_selector("#scorers:not([hidden])")
    assert page.inner_text("#scorers-text") == "1 of 2 are up."
    tab.wait("document.querySelector('#scorer-rows td:nth-child(5)').textContent === '0'")
    cells = page.locator("#scorer-rows tr >> nth=0").locator("td").all_inner_texts()
    assert cells == ["0", "up", "10.0.0.1", "93 %", "0", "12,345", "7", "2"]
    assert page.inner_text("#scorer-rows tr:nth-child(2) td:nth-child(3)") == text
    assert page.evaluate("window.hacked") is None
    tab.check()


def test_an_empty_log(show: Show) -> None:
    tab, _, _ = show([])
    tab.page.wait_for_selector("#notice:not([hidden])")
    assert tab.page.inner_text("#notice") == "The log holds no rollouts."
    assert not tab.page.is_visible("#alarms")
    assert not tab.page.is_visible("#scorers")
    tab.check()


RESPONSE = "Söme 🙂 tokens"
TOKENS = [("S", 0, 1), ("ö", 1, 2), ("ö", 1, 2), ("me ", 2, 5), ("🙂", 5, 6), (" tokens", 6, 13)]
EXPLAINED = {
    "response": RESPONSE,
    "tokens": [
        {"text": text, "start": start, "end": end, "nll_qa": 0.5, "nll_a": 0.5 + index}
        for index, (text, start, end) in enumerate(TOKENS)
    ],
}


def test_a_heat_map_on_demand(show: Show, rollout: Any) -> None:
    one = rollout(0, response=RESPONSE, prompt="P?", label={"answer": "5", "grader": "math"})
    tab, _, _ = show([one], explains=True)
    page = tab.page
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(json.loads(route.request.post_data))
        route.fulfill(json={"rollouts": [EXPLAINED]})

    page.route("**/explain", answer)
    page.click("#rows tr")
    page.click("#heat")
    page.wait_for_selector("#heat-scale")
    assert asked == [
        {
            "query": ["P?" + RESPONSE],
            "prompts": ["P?"],
            "labels": [{"answer": "5", "grader": "math"}],
        }
    ]
    assert page.locator("#response .token").all_inner_texts() == ["S", "ö", "me ", "🙂", " tokens"]
    assert page.eval_on_selector("#response", "pre => pre.textContent") == RESPONSE
    titles = page.eval_on_selector_all(".token", "all => all.map(one => one.title)")
    # The two tokens of "ö" add up: 1 + 2.
    assert [title.rpartition(" ")[2] for title in titles] == ["0", "3", "3", "4", "5"]
    colors = page.eval_on_selector_all(
        ".token", "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert colors[1] == colors[2]
    assert len(set(colors)) == 4
    assert "15 in all" in page.inner_text("#heat-scale")
    tab.check()


@pytest.mark.parametrize("status", [404, 503])
def test_a_server_that_does_not_explain(show: Show, rollout: Any, status: int) -> None:
    tab, _, _ = show([rollout(0)], explains=True)
    page = tab.page
    error = {"error": {"message": "the model is loading"}}
    page.route("**/explain", lambda route: route.fulfill(status=status, json=error))
    page.click("#rows tr")
    page.click("#heat")
    if status == 404:
        page.wait_for_selector("#heat", state="detached")
    else:
        tab.wait(
            "document.querySelector('#heat').textContent === 'no heat-map: the model is loading'"
        )


def test_a_log_without_a_server_has_no_heat_maps(show: Show, rollout: Any) -> None:
    tab, _, _ = show([rollout(0)])
    tab.page.click("#rows tr")
    tab.page.wait_for_selector("#response")
    assert tab.page.locator("#heat").count() == 0


def test_training_and_evaluation_are_apart(show: Show, rollout: Any) -> None:
    tab, _, _ = show([rollout(0), rollout(1, mode="eval"), rollout(2)])
    page = tab.page
    assert page.locator("#rows a").all_inner_texts() == ["3", "1"]
    page.select_option("#mode", "eval")
    tab.wait("document.querySelector('#rows a').textContent === '2'")
    assert page.locator("#rows tr").count() == 1
    tab.check()


def test_the_page_says_when_the_server_is_gone(
    open_tab: OpenTab, make_run: Any, write_log: Any, tmp_path: Path
) -> None:
    write_log(tmp_path / "a.jsonl", make_run(10))
    with closing(LogIndex(tmp_path)) as index:
        index.update()
        server = ViewServer(Dashboard(index), "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = open_tab(server.url).page
        page.wait_for_selector("#rows tr")
        page.route("**/data/**", lambda route: route.abort())
        page.wait_for_selector("#error:not([hidden])")
        assert "No news from the server" in page.inner_text("#error")
        page.unroute("**/data/**")
        page.wait_for_selector("#error", state="hidden")
        server.shutdown()
        server.server_close()
