"""/dashboard of a live server in a real browser: rollouts come in, and it needs the key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import playwright.sync_api
import pytest

if TYPE_CHECKING:
    from tests.conftest import Tab, TestedServer

pytestmark = pytest.mark.slow

KEY = "dashboard-key-0123456789"
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\u202e 5"


def send(server: TestedServer, *responses: str) -> None:
    prompt = "Q: 2+3?\nA: "
    body = {
        "query": [prompt + response for response in responses],
        "prompts": [prompt] * len(responses),
        "labels": ["5"] * len(responses),
    }
    assert server.request("/get_reward", body)[0] == 200


@pytest.fixture(scope="module")
def live_server(start_server: Callable[..., TestedServer]) -> TestedServer:
    server = start_server("--dashboard-rollouts", "100")
    server.wait_until_ready()
    return server


def test_charts_move_while_rollouts_come_in(
    live_server: TestedServer, open_tab: Callable[..., Tab]
) -> None:
    tab = open_tab(f"{live_server.url}/dashboard")
    page = tab.page
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice").startswith("No rollouts yet.")
    send(live_server, *["The answer is 5.", "The answer is 6."] * 8)
    tab.wait("document.querySelectorAll('#rows tr').length === 16")
    page.wait_for_selector("#points .uplot")
    before = tab.read_pixels("#charts")
    send(live_server, *["Five? No: the answer is 7."] * 20)
    tab.wait("document.querySelector('#facts').textContent.startsWith('36 rollouts')")
    tab.wait("document.querySelector('#rows a').textContent === '36'")
    tab.wait_for_redraw("#charts", before)
    assert page.inner_text("#rows tr:first-child td:nth-child(4)") == "wrong"
    tab.check()


def test_a_hostile_rollout_is_text(live_server: TestedServer, open_tab: Callable[..., Tab]) -> None:
    send(live_server, HOSTILE, "word " * 20_000)
    tab = open_tab(f"{live_server.url}/dashboard")
    page = tab.page
    tab.wait("document.querySelector('#rows .text')?.textContent.startsWith('word word')")
    page.click("#rows tr >> nth=1")
    tab.wait("document.querySelector('#response')?.textContent.startsWith('<script>')")
    assert "U+202E" in page.inner_text("#response")
    page.click("#previous")  # the row above it
    tab.wait("document.querySelector('#response')?.textContent.length === 100000")
    assert page.evaluate("window.hacked") is None
    tab.check()


def test_the_ring_forgets_and_the_page_says_so(
    live_server: TestedServer, open_tab: Callable[..., Tab]
) -> None:
    send(live_server, *["The answer is 5."] * 120)
    tab = open_tab(f"{live_server.url}/dashboard")
    page = tab.page
    tab.wait("document.querySelector('#notice').textContent.includes('since the server started')")
    page.goto(f"{live_server.url}/dashboard#rollout=1")
    page.reload()
    page.wait_for_selector("#rollout-error:not([hidden])")
    assert "rollout 1 is not there" in page.inner_text("#rollout-error")


def test_the_page_needs_the_key(
    start_server: Callable[..., TestedServer], open_tab: Callable[..., Tab]
) -> None:
    server = start_server(environ={"REWARD_SERVER_API_KEY": KEY})
    server.wait_until_ready()
    url = f"{server.url}/dashboard"
    for options in ({}, {"http_credentials": {"username": "me", "password": KEY + "x"}}):
        # Without a person to ask, the browser gives up, or shows the answer 401.
        with suppress(playwright.sync_api.Error):
            refused = open_tab(url, **options)
            assert refused.response.status == 401
            assert refused.page.query_selector("#notice") is None
    tab = open_tab(url, http_credentials={"username": "me", "password": KEY})
    assert tab.response.status == 200
    tab.page.wait_for_selector("#notice:not([hidden])")
    assert tab.page.inner_text("#notice").startswith("No rollouts yet.")
    # The browser's first request has no key, and is asked for one.
    assert [c for c in tab.complaints if "401" not in c] == []
    assert KEY not in server.log.read_text()
    assert server.stop() == 0


def test_it_can_be_turned_off(start_server: Callable[..., TestedServer]) -> None:
    server = start_server("--dashboard-rollouts", "0")
    assert server.request("/dashboard")[0] == 404
    assert "dashboard" not in server.request("/")[1]
