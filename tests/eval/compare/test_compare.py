"""python -m eval compare: its errors, its files, and the report in a real browser."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.__main__ import main
from eval.records import (
    RUN_FILE,
    BenchmarkDescription,
    Record,
    RecordWriter,
    RunDescription,
    records_path,
    write_json,
)

HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
    "<!-- <script> ]]> {{ 7 * 7 }} \u2028 \ud83d & &lt;b&gt;"
)


def record(id_: str, sample: int = 0, correct: bool | None = True, **fields: Any) -> Record:
    values: dict[str, Any] = {
        "question": f"What is {id_}?", "prompt": f"<user>What is {id_}?",
        "response": f"It is {id_}.",
        "label": id_, "reason": {True: "correct", False: "wrong", None: None}[correct],
        "answer": id_, "num_tokens": 100, "finish_reason": "stop", "seed": 0,
        "error": "no route" if correct is None else None,
    }  # fmt: skip
    return Record(id=id_, sample=sample, correct=correct, **{**values, **fields})


def write_run(folder: Path, records: Mapping[str, Sequence[Record]], **described: Any) -> Path:
    """A run folder as `python -m eval run` leaves it."""
    folder.mkdir(parents=True)
    benchmarks = {
        name: BenchmarkDescription(
            fingerprint=described.pop(f"fingerprint_{name}", "0" * 64),
            num_problems=len({r.id for r in of_one}), hub_id=f"org/{name}", config="main",
            split="test", revision="abc", source="hub",
        )
        for name, of_one in records.items()
    }  # fmt: skip
    values: dict[str, Any] = {
        "model": f"org/{folder.name}", "backend": "vllm", "flags": {}, "versions": {},
        "chat_template": {"text": None, "sha256": None}, "prompt_style": "paper",
        "system_prompt": "s", "instruction": "i", "benchmarks": benchmarks,
        "generation": {"temperature": 0.0, "top_p": 1.0, "max_tokens": 512, "n": 1, "seed": 0},
        "prompts_fingerprint": "p", "started_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    write_json(folder / RUN_FILE, asdict(RunDescription(**{**values, **described})))
    for name, of_one in records.items():
        with closing(RecordWriter(records_path(folder, name))) as writer:
            for each in of_one:
                writer.write(each)
    return folder


def outcomes(wrong: Sequence[int], num: int = 20, **fields: Any) -> list[Record]:
    return [record(f"p{i:02}", correct=i not in wrong, **fields) for i in range(num)]


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    """On gsm8k the second run gains p01 and p02 and loses p05; on math it gains p00."""
    before = {"gsm8k": outcomes([1, 2]), "math": outcomes([0, 9], num_tokens=400)}
    after = {"gsm8k": outcomes([5], num_tokens=80), "math": outcomes([9], num_tokens=300)}
    after["gsm8k"][5] = replace(after["gsm8k"][5], response=HOSTILE, answer=HOSTILE)
    return write_run(tmp_path / "base", before), write_run(tmp_path / "ours", after)


def compare(output: Path, *arguments: object) -> dict[str, Any]:
    # More resamples change nothing these tests look at.
    command = [*map(str, arguments), "--output", str(output), "--resamples", "500"]
    assert main(["compare", *command]) == 0
    found: dict[str, Any] = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    command = ["compare", *map(str, arguments), "--output", "unused", "--resamples", "100"]
    assert main(command) == 2
    assert not Path("unused").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_report_has_the_numbers(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(tmp_path / "report", *two_runs)
    printed = capsys.readouterr().out.splitlines()
    assert (printed[0], printed[-1][-11:]) == ("ours against base:", "report.html")
    assert (found["baseline"], found["pairs"][0]["other"]) == ("base", "ours")
    gsm8k = found["pairs"][0]["benchmarks"]["gsm8k"]
    assert gsm8k["accuracy"]["baseline"]["value"] == pytest.approx(0.9)
    assert gsm8k["accuracy"]["gain"]["value"] == pytest.approx(0.05)
    assert gsm8k["accuracy"]["test"]["p"] == pytest.approx(1.0)
    assert (gsm8k["num_better"], gsm8k["num_worse"]) == (2, 1)
    assert gsm8k["aes"]["value"] == pytest.approx(0.2 + 5 * 0.05 / 0.9)
    average = found["pairs"][0]["average"]
    assert average["tokens"]["gain"]["value"] == pytest.approx((-20 - 100) / 2)
    markdown = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert "| gsm8k | 20 | 2 / 1 | 90.0 % → 95.0 % | +5.0 \\[" in markdown
    assert "gsm8k, accuracy: 90.0 % → 95.0 %, +5.0 points" in markdown
    assert "not significant; the data are compatible with anything from" in markdown
    assert "No significant difference in accuracy: gsm8k, math." in markdown
    assert "Significant difference in length: gsm8k (shorter), math (shorter)." in markdown
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (tmp_path / "report" / picture).is_file()


def test_figures_are_pictures_in_both_formats(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    compare(tmp_path / "report", *two_runs)
    for name in ("pareto", "pareto_by_benchmark", "differences"):
        with Image.open(tmp_path / f"report/figures/{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 50
        root = ET.parse(tmp_path / f"report/figures/{name}.svg").getroot()
        assert root.tag.endswith("svg")
    first = (tmp_path / "report/figures/pareto.svg").read_bytes()
    compare(tmp_path / "again", *two_runs)
    assert (tmp_path / "again/figures/pareto.svg").read_bytes() == first


def test_other_data_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "one", {"gsm8k": outcomes([1])})
    two = write_run(tmp_path / "two", {"gsm8k": outcomes([1], 30)}, fingerprint_gsm8k="f" * 64)
    line = refused(capsys, one, two)
    for part in ("gsm8k: data of one", "20 problems", "30 problems", "ffffffffffff"):
        assert part in line
    assert "--allow-different-inputs" in line
    relabelled = [replace(r, label="other") for r in outcomes([1])]  # under the same ids
    three = write_run(tmp_path / "three", {"gsm8k": relabelled})
    assert "gsm8k: data of one" in refused(capsys, one, three)
    found = compare(tmp_path / "report", one, two, "--allow-different-inputs")
    assert found["pairs"][0]["benchmarks"]["gsm8k"]["num_problems"] == 20
    assert found["pairs"][0]["benchmarks"]["gsm8k"]["num_left_out"] == 10
    assert any("gsm8k: data of one" in note for note in found["notes"])


def test_other_prompts_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompted = [replace(r, prompt="Please: " + r.prompt) for r in outcomes([1])]
    one = write_run(tmp_path / "one", {"gsm8k": outcomes([1]), "math": outcomes([])})
    two = write_run(
        tmp_path / "two", {"gsm8k": prompted, "math": outcomes([])}, system_prompt="other"
    )
    line = refused(capsys, one, two)
    assert "gsm8k: prompts of one and two on 20 of 20 problems, the first being 'p00'" in line
    assert "(different: system prompt)" in line
    assert "math: prompts" not in line
    compare(tmp_path / "report", one, two, "--allow-different-inputs")


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "one", {"gsm8k": outcomes([1])})
    other = write_run(tmp_path / "other", {"aime": outcomes([1])})
    assert "needs two runs" in refused(capsys, one)
    assert "given twice" in refused(capsys, one, tmp_path / "." / "one")
    assert "no run here" in refused(capsys, one, tmp_path / "absent")
    assert "one has gsm8k; other has aime" in refused(capsys, one, other)
    assert "pass@3 needs 3 samples" in refused(
        capsys, one, write_run(tmp_path / "two", {"gsm8k": outcomes([])}), "--k", 3
    )
    with (tmp_path / "two/gsm8k.jsonl").open("a") as file:
        file.write("{}\n")
    assert "gsm8k.jsonl, line 21: missing field" in refused(capsys, one, tmp_path / "two")


def test_benchmarks_that_some_runs_lack_are_left_out_with_a_note(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a/run", {"gsm8k": outcomes([1]), "math": outcomes([1])})
    two = write_run(tmp_path / "b/run", {"aime": outcomes([1]), "gsm8k": outcomes([1])})
    found = compare(tmp_path / "report", one, two)
    assert set(found["pairs"][0]["benchmarks"]) == {"gsm8k"}
    assert found["notes"] == [
        "a/run: math left out, not all runs have it",
        "b/run: aime left out, not all runs have it",
    ]


def test_errors_unfinished_runs_and_other_settings_are_noted(tmp_path: Path) -> None:
    broken = [record("p00", correct=None), *outcomes([1])[1:]]
    one = write_run(tmp_path / "one", {"gsm8k": broken}, versions={"math-verify": "0.9.0"})
    two = write_run(
        tmp_path / "two", {"gsm8k": outcomes([1])},
        generation={"temperature": 1.0, "top_p": 1.0, "max_tokens": 512, "n": 1, "seed": 5},
    )  # fmt: skip
    path = records_path(two, "gsm8k")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    found = compare(tmp_path / "report", one, two)
    assert found["notes"] == [
        "one: errors in gsm8k, left out of all figures: 1",
        "two: gsm8k is unfinished, 19 of 20 problems",
        "temperature differs (one: 0.0, two: 1.0)",
        "version of math-verify differs (one: 0.9.0, two: None)",
    ]
    gsm8k = found["pairs"][0]["benchmarks"]["gsm8k"]
    assert (gsm8k["num_problems"], gsm8k["num_left_out"]) == (18, 2)


@pytest.mark.parametrize("num", [1, 5])
@pytest.mark.parametrize("wrong", [[], range(5)])
def test_identical_runs_all_right_all_wrong_one_problem(
    tmp_path: Path, num: int, wrong: Sequence[int]
) -> None:
    runs = [write_run(tmp_path / name, {"gsm8k": outcomes(wrong, num)}) for name in ("a", "b")]
    found = compare(tmp_path / "report", *runs)
    gain = found["pairs"][0]["benchmarks"]["gsm8k"]["accuracy"]["gain"]
    assert gain["value"] == 0
    assert (gain["low"] is None) == (num == 1)
    assert "All 0." in (tmp_path / "report/report.html").read_text(encoding="utf-8")


def test_names_are_not_read_as_markup(tmp_path: Path, browser: Any) -> None:
    names = ("_a$x_{$ |*b*", "<img src=x onerror='window.broken = 1'>")
    runs = [write_run(tmp_path / name, {"gsm8k": outcomes([1])}) for name in names]
    assert compare(tmp_path / "report", *runs)["baseline"] == names[0]
    markdown = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert r"\_a$x\_{$ \|\*b\* (baseline)" in markdown
    shown = Page(browser, tmp_path / "report/report.html")
    assert shown.complaints == []
    assert shown.page.inner_text("h2 >> nth=0") == f"{names[1]} against {names[0]}"
    assert shown.page.evaluate("window.broken") is None
    shown.page.close()


def test_only_errors_leave_nothing_to_compare(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", {"gsm8k": [record("p00", correct=None)]})
    compare(tmp_path / "report", one, write_run(tmp_path / "two", {"gsm8k": outcomes([], 1)}))
    assert "gsm8k, accuracy: nothing to compare." in (tmp_path / "report/report.md").read_text()


def test_three_runs_are_one_family_of_tests(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", {"gsm8k": outcomes([]), "math": outcomes([])})
    worse = write_run(tmp_path / "worse", {"gsm8k": outcomes(range(8)), "math": outcomes(range(6))})
    same = write_run(tmp_path / "same", {"gsm8k": outcomes([]), "math": outcomes([1])})
    found = compare(tmp_path / "report", base, worse, same)
    tests = [
        pair["benchmarks"][name]["accuracy"]["test"]
        for pair in found["pairs"]
        for name in ("gsm8k", "math")
    ]
    assert [t["p"] for t in tests] == pytest.approx([2 / 2**8, 2 / 2**6, 1.0, 1.0])
    assert [t["bonferroni"] for t in tests] == pytest.approx([8 / 2**8, 8 / 2**6, 1, 1])
    assert [t["holm"] for t in tests] == pytest.approx([8 / 2**8, 6 / 2**6, 1, 1])
    markdown = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert "Significant difference in accuracy: gsm8k (lower)." in markdown
    assert "as the only test it would be" not in markdown.split("## same")[1]
    assert "math, accuracy: 100.0 % → 70.0 %, −30.0 points" in markdown
    assert "as the only test it would be" in markdown


def test_the_report_shows_a_sample_that_illustrates_the_difference(tmp_path: Path) -> None:
    """n = 3 against n = 2; of each run the first sample with the verdict in question."""

    def of(outcomes_: str) -> list[Record]:
        return [
            record("x", s, mark == "+", response=f"sample {s} {mark}")
            for s, mark in enumerate(outcomes_)
        ]  # fmt: skip

    one = write_run(tmp_path / "one", {"gsm8k": [*of("+--"), record("y", 0), record("y", 1)]})
    two = write_run(tmp_path / "two", {"gsm8k": [*of("-+"), record("y", 0)]})
    compare(tmp_path / "report", one, two)
    html = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    data = json.loads(html.split('id="data">')[1].split("</script>")[0])
    (item,) = data["items"]
    assert (item["id"], item["direction"]) == ("x", "gained")
    assert (item["baseline"]["response"], item["other"]["response"]) == ("sample 1 -", "sample 1 +")
    assert (item["baseline"]["num_correct"], item["baseline"]["num_samples"]) == (1, 3)


class Page:
    """A report in headless Chromium, with all that went wrong or left the machine."""

    def __init__(self, browser: Any, report: Path) -> None:
        self.page = page = browser.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda r: self.complaints.append(f"failed: {r.url[:80]}"))
        page.on("request", lambda r: self.requests.append(r.url))
        page.goto(report.as_uri())

    def rows(self) -> list[str]:
        texts: list[str] = self.page.locator("#list li").all_inner_texts()
        return texts


@pytest.fixture
def page(browser: Any, two_runs: tuple[Path, Path], tmp_path: Path) -> Iterator[Page]:
    third = write_run(tmp_path / "third", {"gsm8k": outcomes([1, 2, 3]), "math": outcomes([0, 9])})
    compare(tmp_path / "report", *two_runs, third)
    shown = Page(browser, tmp_path / "report/report.html")
    yield shown
    shown.page.close()


def test_the_page_loads_nothing_and_logs_no_errors(page: Page) -> None:
    page.page.wait_for_load_state("networkidle")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [page.page.url]
    sizes = page.page.eval_on_selector_all(
        "figure img", "images => images.map(i => [i.complete, i.naturalWidth, i.clientWidth])"
    )
    assert len(sizes) == 3
    for complete, natural_width, shown_width in sizes:
        assert complete
        assert min(natural_width, shown_width) > 300
    assert "90.0 % → 95.0 %" in page.page.inner_text("section.pair >> nth=0")


def test_disagreements_are_filtered_searched_and_shown(page: Page) -> None:
    browser = page.page
    assert len(page.rows()) == 4
    assert browser.inner_text("#count") == "4 problems"
    browser.select_option("#benchmark", "gsm8k")
    assert len(page.rows()) == 3
    browser.select_option("#direction", "gained")
    assert [row.split()[2] for row in page.rows()] == ["p01", "p02"]
    browser.click("#list li >> nth=1")
    assert browser.inner_text("#title") == "gsm8k p02: gained"
    assert browser.inner_text("#question") == "What is p02?"
    assert browser.inner_text("#baseline-title") == "base"
    assert browser.inner_text("#baseline-facts").startswith("wrong · answer: p02 · 100 tokens")
    assert browser.inner_text("#other-facts").startswith("correct · answer: p02 · 80 tokens")
    browser.press("#list", "ArrowUp")
    assert browser.inner_text("#title") == "gsm8k p01: gained"
    browser.select_option("#direction", "")
    browser.fill("#search", "what is P05")
    assert [row.split()[2] for row in page.rows()] == ["p05"]
    assert browser.inner_text("#count") == "1 problem"
    browser.fill("#search", "in no text at all")
    assert page.rows() == []
    assert not browser.is_visible("#detail")
    browser.fill("#search", "")
    browser.select_option("#benchmark", "")
    browser.select_option("#pair", "1")
    assert [row.split()[2] for row in page.rows()] == ["p03"]
    assert browser.inner_text("#other-title") == "third"
    assert page.complaints == []


def test_responses_are_shown_as_text_only(page: Page) -> None:
    browser = page.page
    browser.select_option("#benchmark", "gsm8k")
    browser.select_option("#direction", "lost")
    shown = browser.text_content("#other-response")
    assert shown.replace("\ufffd", "\ud83d") == HOSTILE  # a browser cannot show half a character
    assert browser.evaluate("window.broken") is None
    assert browser.locator("#browser img, #browser script, #browser b").count() == 0
    assert browser.locator("script").count() == 2
    assert page.complaints == []


def test_foreign_scripts_do_not_run(
    browser: Any, two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    """The content security policy, in case the escaping ever fails."""
    compare(tmp_path / "report", *two_runs)
    report = tmp_path / "report/report.html"
    html = report.read_text(encoding="utf-8")
    injected = "<script>window.broken = 1</script><img src='https://example.org/x'></body>"
    report.write_text(html.replace("</body>", injected), encoding="utf-8")
    shown = Page(browser, report)
    assert shown.page.evaluate("window.broken") is None
    assert any("Content Security Policy" in complaint for complaint in shown.complaints)
    shown.page.close()
