"""The page: in a real browser, and its text without one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sar.explain.explanation import ExplainedToken, Explanation
from sar.explain.html import PageRollout, write_page
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood

WAIT_MS = 300_000
PAGE = Path(__file__).parents[3] / "sar/explain/page"
HOSTILE = (
    "</i></div><script>window.broken = 1</script>"
    '<img src="https://example.org/x" onerror="window.broken = 2">&amp;&lt;b&gt; {{ 7 * 7 }}\n'
    "\x00\x1b[2J\x7f <|im_end|>"
)


def explain(
    response: str,
    gains: Sequence[float] = (0.5, -0.5, 0.0, 3.0, -5.0),
    *,
    length: int = 4,
    num_scored: int | None = None,
    **other: Any,
) -> Explanation:
    """An explanation with tokens of so many characters, whose gains repeat."""
    starts = range(0, len(response), length)[:num_scored]
    tokens = [
        ExplainedToken(response[s : s + length], s, min(s + length, len(response)), 1.0, 1.0 + gain)
        for s, gain in zip(starts, np.resize(gains, len(starts)).tolist(), strict=True)
    ]
    mean = float(np.mean([token.nll_a for token in tokens])) if tokens else 0.0
    num_all = len(range(0, len(response), length))
    likelihood = Likelihood(1.0, mean, num_all, over_context=num_scored is not None)
    given = {"verdict": Verdict(Reason.CORRECT, "5"), "reward": 1.25, "terms": {}, **other}
    return Explanation("Q: <b>2+3?</b>\nA:", response, tokens, likelihood, **given)


def render(*explanations: Explanation, **rollout: Any) -> str:
    rollouts = [PageRollout(one, **rollout) for one in explanations]
    return "".join(write_page(rollouts, model="<m>", special_tokens=["<|im_end|>"]))


class Elements(HTMLParser):
    """The elements of a page, and the texts of its response's pieces."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.pieces: list[str] = []
        self._is_piece = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self._is_piece = tag == "i"
        if tag == "i":
            self.pieces.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_piece = False

    def handle_data(self, data: str) -> None:
        if self._is_piece:
            self.pieces[-1] += data


def read_numbers(page: str) -> list[list[float]]:
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    numbers: list[list[float]] = json.loads(found)
    return numbers


def test_a_response_is_shown_as_it_is_and_as_text_only() -> None:
    shown = Elements(render(explain(HOSTILE), label=HOSTILE, notes=[HOSTILE]))
    assert "".join(shown.pieces) == HOSTILE.translate({0: "␀", 27: "␛", 127: "␡"})
    assert "img" not in shown.tags
    assert shown.tags.count("script") == 2
    assert not {name for name in shown.attributes if name.startswith("on")}


def test_the_tokens_of_one_character_are_one_piece() -> None:
    """ " 中" is two tokens: the space with the first byte of the character, and the other bytes."""
    response = "a 中 b"
    spans = [(0, 1), (1, 3), (2, 3), (2, 3), (3, 5)]
    tokens = [ExplainedToken(response[s:e], s, e, 1.0, 2.0) for s, e in spans]
    likelihood = Likelihood(1.0, 2.0, 5, over_context=False)
    page = render(Explanation("Q:", response, tokens, likelihood, None, None))
    assert Elements(page).pieces == ["a", " 中", " b"]
    assert read_numbers(page) == [[1, 1.0, 2.0], [3, 3.0, 6.0], [1, 1.0, 2.0]]


def test_sums_are_those_of_the_tokens() -> None:
    explanation = explain("One two three. Four five!\nSix <|im_end|>")
    page = render(explanation)
    numbers = read_numbers(page)
    assert sum(n for n, *_ in numbers) == len(explanation.tokens)
    gain = sum(token.gain for token in explanation.tokens)
    assert sum(a - qa for _, qa, a in numbers) == pytest.approx(gain)
    (foot,) = re.findall(r"<tfoot>(.*)</tfoot>", page)
    cells = [float(cell.replace("\u2212", "-")) for cell in re.findall(r">([\d.\u2212]+)<", foot)]
    assert cells[0] == len(explanation.tokens)
    assert cells[3] == pytest.approx(cells[2] - cells[1])
    assert cells[3] == pytest.approx(gain, abs=1e-3)
    assert cells[4] == pytest.approx(gain / len(explanation.tokens), abs=1e-3)


@pytest.mark.parametrize(
    ("explanation", "expected"),
    [
        (explain(""), "an empty response: no token, SAR 0"),
        (explain("5", reward=None), "none: it compares rollouts"),
        (explain("5", verdict=None, reward=None), "Not graded"),
        (explain("5 of 6", num_scored=1), "its first 1 of 2 tokens are scored"),
        (explain("5", terms={"overlong": -0.25}), "term overlong"),
        (explain("5.\n" * 2000), "more sentences"),
    ],
)
def test_what_is_said(explanation: Explanation, expected: str) -> None:
    assert expected in render(explanation)


def _read_colours() -> dict[str, dict[str, str]]:
    """Of each scheme: the variables and their values."""
    light, dark = (PAGE / "explain.css").read_text(encoding="utf-8").split("@media", 1)
    return {
        name: dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", text))
        for name, text in (("light", light), ("dark", dark.split("\n* {")[0]))
    }


def _to_linear(colour: str) -> Any:
    code = colour[1:] if len(colour) == 7 else "".join(2 * char for char in colour[1:])
    srgb = np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_lab(linear: Any) -> Any:
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    scaled = to_xyz @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    root = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


# What people without one kind of cone see. Source: Machado, Oliveira and Fernandes, 2009.
VISION = {
    "ordinary": np.eye(3),
    "no red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_the_two_sides_are_told_apart(scheme: str, vision: str) -> None:
    """A difference of 2.3 in CIELAB is just noticeable. The lightest shades count least."""
    colours = _read_colours()[scheme]
    for step in range(1, 6):
        one, other = (_to_lab(VISION[vision] @ _to_linear(colours[f"{s}{step}"])) for s in "bo")
        assert np.linalg.norm(one - other) > (10 if step == 1 else 20), step


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_every_shade(scheme: str) -> None:
    """Contrast of 4.5 to 1, as WCAG asks for."""
    colours = _read_colours()[scheme]
    for side in "bo":
        for step in range(1, 6):
            text = colours.get(f"on{step}", colours["text"])
            light = sorted(
                float(np.array([0.2126, 0.7152, 0.0722]) @ _to_linear(colour)) + 0.05
                for colour in (colours[f"{side}{step}"], text)
            )
            assert light[1] / light[0] > 4.5, f"{side}{step}"


class Shown:
    """A page in the browser, with all that went wrong or left the machine."""

    def __init__(self, browser: Any, file: Path, html: str, **options: Any) -> None:
        file.write_text(html, encoding="utf-8")
        self.page = page = browser.new_page(**options)
        page.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda r: self.requests.append(r.url))
        page.goto(file.as_uri())

    def assert_is_clean(self) -> None:
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith("data:")] == [self.page.url]
        assert self.page.evaluate("window.broken") is None


def test_a_hostile_response_does_nothing(browser: Any, tmp_path: Path) -> None:
    shown = Shown(browser, tmp_path / "a.html", render(explain(HOSTILE), label=HOSTILE))
    page = shown.page
    assert page.text_content(".response") == HOSTILE.translate({0: "␀", 27: "␛", 127: "␡"})
    assert page.locator("img").count() == 0
    page.click("summary")
    assert page.inner_text(".prompt") == "Q: <b>2+3?</b>\nA:"
    assert page.inner_text(".sentences tbody tr:last-child td:first-child") == "<|im_end|>"
    shown.assert_is_clean()
    page.close()


def test_foreign_scripts_do_not_run(browser: Any, tmp_path: Path) -> None:
    """The content security policy, in case the escaping ever fails."""
    injected = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'></body>"
    html = render(explain("5")).replace("</body>", injected)
    shown = Shown(browser, tmp_path / "a.html", html)
    assert shown.page.evaluate("window.broken") is None
    assert any("Content Security Policy" in complaint for complaint in shown.complaints)
    shown.page.close()


def test_pointing_shows_the_numbers(browser: Any, tmp_path: Path) -> None:
    two = (explain("One two.", [0.5, -0.25]), explain("Six seven.", [2.0, -8.0, 0.00001]))
    shown = Shown(browser, tmp_path / "a.html", render(*two))
    page, box = shown.page, shown.page.locator("#numbers")
    assert not box.is_visible()
    page.hover(".response >> nth=1 >> i >> nth=1")
    assert box.inner_text().split("\n") == [
        '"seve"',
        "nll_qa 1.000",
        "nll_a \u22127.000",
        "nll_a \u2212 nll_qa \u22128.000",
    ]
    page.hover("h1")
    assert not box.is_visible()
    page.focus(".response >> nth=0")
    for key, expected in (
        ("ArrowRight", '"One "'),
        ("ArrowRight", '"two."'),
        ("ArrowLeft", '"One "'),
    ):
        page.keyboard.press(key)
        page.wait_for_function(
            "t => document.querySelector('#numbers').textContent.includes(t)", arg=expected
        )
        assert page.locator("i.here").count() == 1
    page.keyboard.press("Escape")
    assert not box.is_visible()
    shown.assert_is_clean()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_follow_the_numbers(browser: Any, tmp_path: Path, scheme: str) -> None:
    gains = [-9, -2.5, -1.5, -0.5, -0.2, 0.0, 0.2, 0.5, 1.5, 2.5, 9]
    html = render(explain("x" * 4 * len(gains), gains))
    shown = Shown(browser, tmp_path / "a.html", html, color_scheme=scheme)
    found = shown.page.eval_on_selector_all(
        ".response i", "pieces => pieces.map(one => getComputedStyle(one).backgroundColor)"
    )
    colours = _read_colours()[scheme]
    names = ["o5", "o4", "o3", "o2", "o1", None, "b1", "b2", "b3", "b4", "b5"]

    def to_css(colour: str) -> str:
        return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"

    assert found == [to_css(colours[name]) if name else "rgba(0, 0, 0, 0)" for name in names]
    assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else to_css(colours["page"])
    )
    shown.page.close()


def test_text_from_right_to_left(browser: Any, tmp_path: Path) -> None:
    """It reads from the right, and an override in it ends with the response."""
    shown = Shown(
        browser, tmp_path / "a.html", render(explain("שלום עולם \u202e5+3"), explain("5 6"))
    )
    places = shown.page.eval_on_selector_all(
        ".response i", "pieces => pieces.map(one => one.getBoundingClientRect().x)"
    )
    first, second = places[:2], places[-1:]
    assert first[0] > first[1], "the second token is left of the first"
    assert second[0] < 200, "the next response starts at the left"
    heading = shown.page.locator("h2 >> nth=1").bounding_box()
    assert heading["x"] < 200
    shown.assert_is_clean()
    shown.page.close()


@pytest.mark.slow
def test_a_response_of_100_000_characters(browser: Any, tmp_path: Path) -> None:
    response = ("So 12 + 7 = 19 中😀 and on. " * 5000)[:100_000]
    explanation = explain(response, length=3)
    html = render(explanation)
    assert len(html) < 100 * len(explanation.tokens) + 200_000
    shown = Shown(browser, tmp_path / "a.html", html)
    assert shown.page.locator(".response i").count() == len(explanation.tokens) == 33_334
    assert shown.page.text_content(".response") == response
    last = shown.page.locator(".response i").last
    last.scroll_into_view_if_needed()
    last.hover()
    assert "nll_qa 1.000" in shown.page.inner_text("#numbers")
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shown.assert_is_clean()
    shown.page.close()
