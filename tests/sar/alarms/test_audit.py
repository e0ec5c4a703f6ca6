"""Auditing a log: findings, lines of bounded length, several servers' files, the HTML page."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sar.__main__ import main
from sar.alarms.audit import Line, audit, read_decisions
from sar.alarms.catalogue import UPDATE_COMMAND, render_table
from sar.alarms.definitions import ALARMS
from sar.alarms.report import render
from sar.decision import Decision
from sar.pages import render_page

if TYPE_CHECKING:
    from tests.sar.alarms.conftest import MakeStream

ROOT = Path(__file__).parents[3]
ATTACK = "`</script>`<img src=x onerror=alert(1)>\"'&"


def capture_audit(log: Path) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        assert main(["audit", str(log), "--window", "64"]) == 1
    return output.getvalue()


def fail(place: str) -> None:
    raise AssertionError(place)


class Page(HTMLParser):
    """A page's elements and visible text. Fails on an element that is not closed properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_each_ring_has_its_begin_and_its_end(stream: MakeStream, tmp_path: Path) -> None:
    decisions = [
        *stream(128),
        *stream(128, template_mismatch=True),
        *stream(256),
        *stream(128, template_mismatch=True),
    ]
    found = audit(decisions, window=64)
    (finding,) = [one for one in found.findings if one.state.num_fired]
    (begin, end), (again, still) = finding.rings
    assert (begin, still) == (144, None)
    assert end
    assert 256 < end < 512 < again
    assert finding.to_json()["rings"] == [[begin, end], [again, None]]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f"{one.to_json()}\n" for one in decisions))
    assert f"rollouts 144 to {end}, {again} to the end: " in capture_audit(log)


def test_findings_name_the_first_time(stream: MakeStream) -> None:
    decisions = [
        *stream(128, policy_version=1),
        *stream(128, policy_version=2, template_mismatch=True),
        *stream(256, policy_version=3),
        *stream(128, policy_version=4, template_mismatch=True),
        *stream(8, mode="eval"),
    ]
    found = audit(decisions, window=64)
    assert (found.num_rollouts, found.num_eval, found.has_fired) == (640, 8, True)
    assert found.first
    assert found.last
    assert (found.first.rollout, found.last.rollout, found.last.policy_version) == (1, 640, 4)
    shown = {alarm["name"]: alarm for alarm in json.loads(json.dumps(found.to_json()))["alarms"]}
    assert list(shown) == [alarm.name for alarm in ALARMS]
    assert [name for name, alarm in shown.items() if alarm["fired"]] == ["template_mismatch"]
    mismatch = shown["template_mismatch"]
    assert mismatch["num_fired"] == 2
    assert (mismatch["first"]["rollout"], mismatch["first"]["policy_version"]) == (144, 2)
    assert mismatch["first"]["message"].endswith(": 25.0%")
    assert mismatch["message"].endswith(": 100.0%")


def test_a_line_keeps_few_points_and_both_ends() -> None:
    line = Line()
    for rollout in range(1, 100_001):
        line.add(rollout, float(rollout))
    assert 100 <= len(line.points) < 400
    assert line.points == sorted(line.points)
    assert line.points[0][0] < 2000
    assert line.points[-1][0] > 98_000
    steps = {
        later - one for (one, _), (later, _) in zip(line.points, line.points[1:], strict=False)
    }
    assert len(steps) == 1


def test_the_files_of_several_servers_are_merged_by_time(
    decision: Callable[..., Decision], tmp_path: Path
) -> None:
    def write(name: str, seconds: list[int]) -> None:
        lines = (
            replace(decision(), time=f"2026-01-01T00:00:{second:02}.000+00:00").to_json() + "\n"
            for second in seconds
        )
        (tmp_path / name).write_text("".join(lines))

    write("rewards-20260101T000000Z-7-00001.jsonl", [1, 3, 9])
    write("rewards-20260101T000000Z-7-00002.jsonl", [11, 12])
    write("rewards-20260101T000000Z-8-00001.jsonl", [2, 4, 10, 13])
    found = read_decisions(sorted(tmp_path.iterdir()), on_torn=fail)
    assert [int(one.time[17:19]) for one in found] == [1, 2, 3, 4, 9, 10, 11, 12, 13]


def test_the_page_shows_what_fired(stream: MakeStream) -> None:
    decisions = [*stream(128), *stream(128, template_mismatch=True, policy_version="v<2>")]
    page = Page(render({"runs/a": audit(decisions, window=64)}))
    assert "Audit of runs/a" in page.text
    assert "First at rollout 144: prompts with another template" in page.text
    assert "v<2>" in page.text
    tags = [tag for tag, _ in page.elements]
    assert tags.count("tr") == 1 + len(ALARMS)
    # Two alarms have no values here: there is one version only, and too few groups.
    assert tags.count("polyline") == tags.count("svg") == len(ALARMS) - 2
    targets = {attributes["id"] for tag, attributes in page.elements if tag == "h3"}
    links = [str(attributes["href"]) for tag, attributes in page.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links} == targets


def test_charts_have_numbers_at_the_ends_of_their_axes(stream: MakeStream) -> None:
    decisions = [
        *stream(128, policy_version=10),
        *stream(128, policy_version=20, num_response_tokens=4, correctness=0.0),
    ]
    html = render({"runs/a": audit(decisions, window=64)})
    (chart,) = re.findall(r'<h3 id="[^"]*-length_collapse">.*?<svg.*?</svg>', html, re.DOTALL)
    # The ratio of lengths is 1 at first and 4/9 at the end; the axis begins at 0.
    assert re.findall(r"<text[^>]*>([^<]*)</text>", chart) == [
        "1",
        "0",
        "rollout 1, policy version 10",
        "rollout 256, policy version 20",
        "threshold 0.6",
    ]
    (line,) = re.findall(r'<polyline points="([^"]*)"', chart)
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    # The frame: x from 52 to 712, y from 108 up to 8.
    assert points[0][1] == 8
    assert points[-1] == pytest.approx((712, 108 - 100 * 4 / 9), abs=0.1)


def test_backticks_are_code(stream: MakeStream) -> None:
    html = render({"a": audit(stream(192), window=64)})
    body = html.partition("</style>")[2]
    assert "`" not in body
    assert "<code>policy_version</code>" in body
    assert "<code>timeout</code>" in body


def test_the_page_loads_and_runs_nothing(stream: MakeStream) -> None:
    """Whatever is in a log is text: a term's name, a version, a time, the folder's name."""
    decisions = [
        *stream(128, terms={ATTACK: 0.5}, time=ATTACK, policy_version=ATTACK),
        *stream(128, terms=lambda n: {ATTACK: 0.9}, time=ATTACK, policy_version=ATTACK + "2"),
    ]
    found = audit(decisions, window=64)
    assert found.has_fired
    html = render({ATTACK: found})
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "form", "base"}
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert not re.search(r"https?:|url\(|@import", html)
    assert ATTACK in page.text
    (policy,) = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_of_several_logs_has_a_section_for_each(stream: MakeStream) -> None:
    silent = audit(stream(192), window=64)
    rang = audit([*stream(128), *stream(128, template_mismatch=True)], window=64)
    html = render({"runs/a": silent, f"runs/{ATTACK}": rang})
    page = Page(html)
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) == 2 * (1 + len(ALARMS))
    links = {str(attributes["href"]) for tag, attributes in page.elements if tag == "a"}
    assert links == {f"#{one}" for one in ids}
    first, second = html.split('<section id="log-')[1:]
    assert "no alarm fired" in first.lower()
    assert "first alarm: template_mismatch at rollout 144" not in first.lower()
    assert "first alarm: template_mismatch at rollout 144" in second.lower()
    assert "Audit of 2 logs" in page.text
    assert "runs/a192no alarm fired" in page.text
    assert not {tag for tag, _ in page.elements} & {"script", "img"}


def test_a_short_log_says_so(stream: MakeStream) -> None:
    page = Page(render({"a": audit(stream(64), window=64)}))
    assert "too short to compare with its start: that takes 128 rollouts" in page.text
    assert "cannot be told" in page.text


def test_the_table_of_the_page_is_current() -> None:
    text = (ROOT / "docs" / "alarms.md").read_text(encoding="utf-8")
    message = f"run `{UPDATE_COMMAND}`"
    assert render_page(text, UPDATE_COMMAND, render_table()) == text, message
    assert all(f"| `{alarm.name}` | " in text for alarm in ALARMS)


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: alarm.name)
def test_cells_of_the_table_are_one_line(alarm: object) -> None:
    assert not any(isinstance(text, str) and "\n" in text for text in vars(alarm).values())
