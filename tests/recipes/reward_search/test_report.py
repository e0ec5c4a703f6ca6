"""The report: what it holds, that hostile code stays text, and the tables of a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from recipes.reward_search import __main__ as command
from recipes.reward_search.candidates import Checked
from recipes.reward_search.loop import rank_candidates
from recipes.reward_search.settings import SearchSettings

HOSTILE = (
    "<script>document.title='gone'</script>",
    "</pre></details><img src=x onerror=\"document.title='gone'\">",
    "{{ 7 * 7 }}{% for x in y %}",
    "--><svg onload=document.title='gone'>",
    "\u202edrawer\u2066 \x1b[31m red \x00",
    "`|`| pipes | and \\| more",
)


class Reader(HTMLParser):
    """Tags, and the text of each `pre`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.pres: list[str] = []
        self.text = ""
        self._in_pre = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "pre":
            self._in_pre = True
            self.pres.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_pre = self._in_pre and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_pre:
            self.pres[-1] += data


@pytest.fixture
def hostile(standin: Any, tmp_path: Path) -> Path:
    """A search whose candidates and rejections are attacks on the page."""
    hand = tmp_path / "hand"
    hand.mkdir()
    for number, text in enumerate(HOSTILE):
        (hand / f"{number}.py").write_text(f"# {text}\n" * (number + 1), encoding="utf-8")
    settings = SearchSettings(str(hand), rounds=2, per_round=3, eval_problems=40, num_seeds=2)
    folder = tmp_path / "search"

    def validate(source: str) -> Checked:
        return Checked(source[2:60] if "drawer" in source or "pipes" in source else None)

    standin.run_search(folder, standin.StandInScreener(folder, settings), validate=validate)
    return folder


def test_hostile_code_stays_text(hostile: Path) -> None:
    page = (hostile / "report.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert "script" not in reader.tags
    assert "svg" not in reader.tags
    assert reader.tags.count("img") == 1  # the picture
    assert not {name for name in reader.attributes if name.startswith("on")}
    for number, text in enumerate(HOSTILE):
        shown = text.replace("\x00", "\ufffd") if "\x00" in text else text
        assert any(shown in pre or text in pre for pre in reader.pres), (number, reader.pres)
    assert "49" not in reader.text.split("Candidates, best first")[0].split("tokens")[0]


def test_a_browser_runs_nothing_of_it(hostile: Path, open_tab: Callable[..., Any]) -> None:
    tab = open_tab((hostile / "report.html").as_uri())
    assert tab.page.title() == "Reward search"
    assert tab.page.evaluate("document.scripts.length") == 0
    tab.check()


def test_what_the_report_says(standin: Any, small: SearchSettings, tmp_path: Path) -> None:
    search = standin.run_search(
        tmp_path,
        standin.StandInScreener(tmp_path, small),
        validate=lambda source: Checked("it is too odd" if "chars" in source else None),
    )
    reader = Reader((tmp_path / "report.html").read_text())
    for one in search.candidates:
        assert one.name in reader.text
        assert one.source in reader.pres
        for parent in one.parents:
            assert parent in reader.text
    ranked = rank_candidates(search)
    details = reader.text.split("Candidates, best first")[1]
    places = [details.index(f"{place}. {name}") for place, name in enumerate(ranked, 1)]
    assert places == sorted(places)
    assert "start the server with its reward file" in reader.text
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "results.json").read_text())
    assert [one["name"] for one in results["candidates"]] == [one.name for one in search.candidates]
    assert results["winner"]["name"] in reader.text
    assert len(results["pairs"]) == 15
    assert "All 15 pairs, seed 0 only" in reader.text
    for one in results["finalists"]:  # the same names in all tables
        assert reader.text.count(one["title"]) >= 6
    assert "top_even" not in reader.text


@pytest.mark.slow
def test_report_and_compare_commands(
    standin: Any, small: SearchSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "found"
    standin.run_search(folder, standin.StandInScreener(folder, small))
    first = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    page = tmp_path / "page.md"
    page.write_text(
        "# Search\n\n<!-- Written by `python -m recipes.reward_search report DIR --update "
        "docs/search.md`; do not edit. -->\nold\n<!-- End of what is written. -->\n\nAfter.\n"
    )
    assert command.main(["report", str(folder), "--update", str(page)]) == 0
    again = (folder / "report.html").read_text()
    assert first.split("minutes")[-1] == again.split("minutes")[-1]
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("<!-- End of what is written. -->\n\nAfter.\n")
    assert text.count("\n| --- |") == 4  # rounds, finalists, pairs, seeds
    assert "- Winner: " in text
    assert "](page.png)" in text
    assert (tmp_path / "page.png").read_bytes() == (folder / "search.png").read_bytes()
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") in (7, 8)  # six or seven columns
    capsys.readouterr()
    assert command.main(["compare", str(folder), str(folder)]) == 0
    output = capsys.readouterr().out
    assert output.count("found: generator grammar, feedback ranked, seed 0") == 2
    assert output.count("| 3 | 4 | 0 | 4 |") == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "--generator", "gramar", "--output", "OUT"], "neither a URL, nor `grammar`"),
        (["run", "--generator", "grammar", "--model", "x", "--output", "OUT"], "for a URL only"),
        (
            ["run", "--generator", "grammar", "--model", "x", "--output", "OUT"],
            "; the model to train is --policy",
        ),
        (
            ["run", "--generator", "localhost:8000/v1", "--model", "x", "--output", "OUT"],
            "'localhost:8000/v1' is no URL; did you mean 'http://localhost:8000/v1'?",
        ),
        (["run", "--generator", "C:/hand", "--output", "OUT"], "neither a URL, nor `grammar`"),
        (["report", "OUT"], "no search here"),
        (["compare", "OUT", "OUT"], "no search here"),
        (["run", "--generator", "grammar", "--output", "FILE"], "is a file, not a folder"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    paths = {"OUT": str(tmp_path / "out"), "FILE": str(tmp_path / "file")}
    assert command.main([paths.get(one, one) for one in argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_page_without_markers_is_no_success(
    standin: Any, small: SearchSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standin.run_search(
        tmp_path, standin.StandInScreener(tmp_path, small), validate=lambda source: Checked("bad")
    )
    page = tmp_path / "page.md"
    page.write_text("# No markers\n")
    capsys.readouterr()
    assert command.main(["report", str(tmp_path), "--update", str(page)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "page.md" in shown.err


@pytest.mark.parametrize("flag", ["--rounds=0", "--per-round=x", "--budget-minutes=0", "--seed=-1"])
def test_wrong_numbers_are_named(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["run", "--generator", "grammar", "--output", "x", flag])
    assert caught.value.code == 2
    assert flag.partition("=")[2] in capsys.readouterr().err
