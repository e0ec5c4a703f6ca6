"""`python -m sar probe`: the battery on the bundled model and through a server, and its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sar.__main__ import main
from sar.probe import local
from sar.probe.attacks import ATTACKS

ROOT = Path(__file__).parents[3]
NUM_PROBLEMS = 3
Probe = Callable[..., tuple[int, str, str]]

HACKED = """
[[terms]]
term = "format"
pattern = "Answer:"

[[terms]]
term = "correctness"
weight = 0.5
"""
COPIED = (ROOT / "docs" / "probe" / "copied.toml").read_text()
IN_GROUPS = """
group_size = 4

[[terms]]
term = "correctness"

[[terms]]
term = "o1_pruner"
weight = 0.1
"""


@pytest.fixture(autouse=True, scope="module")
def _load_once() -> Iterator[None]:
    """Loads the bundled model once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "load_scorer", cache(local.load_scorer))
        yield


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str]) -> Probe:
    """Runs the command with these arguments; returns its status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main(["probe", *map(str, arguments)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def read_rewards(report: dict[str, Any], reward: str) -> dict[tuple[str, int], float]:
    return {
        (attack["name"], rollout["problem"]): rollout["rewards"][reward]
        for attack in report["attacks"]
        for rollout in attack["rollouts"]
    }


@pytest.mark.slow
def test_the_default_reward_withstands_the_battery(probe: Probe, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    status, out, _ = probe("--num-problems", NUM_PROBLEMS, "--json", file)
    assert status == 0, out
    assert out.splitlines()[-1].startswith("ok: nothing that does not solve earns more")
    report = json.loads(file.read_text())
    assert not report["failed"]
    by_name = {one["name"]: one for one in report["attacks"]}
    # All but those that need a whole number of two digits or several steps are always possible.
    assert set(by_name) >= {one.name for one in ATTACKS} - {
        "superscript", "split_digits", "steps_left_out", "truncated"
    }  # fmt: skip
    honest = by_name["honest"]
    assert honest["num_right"] == honest["num_problems"] == NUM_PROBLEMS
    for attack in report["attacks"]:
        for rollout in attack["rollouts"]:
            expected = rollout["correctness"] + 0.2 * rollout["sar"]
            assert rollout["rewards"]["default"] == pytest.approx(expected, abs=1e-9)
        if not attack["solves"]:
            assert attack["num_right"] == 0, attack["name"]
            assert attack["rewards"]["default"] < 0.5 < honest["rewards"]["default"]
        rewards = [one["rewards"]["default"] for one in attack["rollouts"]]
        assert attack["rewards"]["default"] == pytest.approx(sum(rewards) / len(rewards))
    # Each table is sorted, and shows the honest responses.
    for table in out.split("\n\n")[1:3]:
        rows = [line.split() for line in table.splitlines()[2:]]
        values = [float(row[-3]) for row in rows]
        assert values == sorted(values, reverse=True)
        assert [row[1] for row in rows if row[0] == ">"].count("honest") == 1


def test_a_reward_that_pays_a_form_fails(probe: Probe, tmp_path: Path) -> None:
    """A wrong answer in the form that is paid earns more than a right one without it."""
    reward = tmp_path / "hacked.toml"
    reward.write_text(HACKED)
    data = tmp_path / "data.jsonl"
    row = {"question": "How many are 30 and 12?", "label": "42", "response": "Both make 42."}
    data.write_text(json.dumps(row) + "\n")
    status, out, _ = probe("--reward", reward, "--data", data)
    assert status == 1
    assert "FAILED guess does not solve and earns 0.500 more than honest right answers" in out
    assert "FAILED: " in out.splitlines()[-1]


def test_rewards_are_compared_and_terms_shown(probe: Probe, tmp_path: Path) -> None:
    reward = tmp_path / "copied.toml"
    reward.write_text(COPIED)
    file = tmp_path / "report.json"
    status, out, _ = probe(
        "--num-problems", 1, "--reward", "default", "--reward", reward, "--json", file
    )
    assert status == 0, out
    assert "copied    correctness + 0.2 sar - 0.2 copied" in out
    report = json.loads(file.read_text())
    default, copied = (read_rewards(report, name) for name in ("default", "copied"))
    for attack in report["attacks"]:
        for rollout in attack["rollouts"]:
            place = attack["name"], rollout["problem"]
            less = default[place] - copied[place]
            assert less == pytest.approx(0.2 * rollout["terms"]["copied"])
    assert default["question", 0] - copied["question", 0] == pytest.approx(0.2)


def test_terms_that_compare_compare_the_whole_battery(probe: Probe, tmp_path: Path) -> None:
    reward = tmp_path / "grouped.toml"
    reward.write_text(IN_GROUPS)
    file = tmp_path / "report.json"
    _, out, _ = probe("--num-problems", 1, "--reward", reward, "--json", file)
    assert "groups    the honest responses to a problem and all attacks on it are one" in out
    rollouts = [
        (one["rollouts"][0]["tokens"], one["rollouts"][0]["terms"]["o1_pruner"])
        for one in json.loads(file.read_text())["attacks"]
    ]
    mean = sum(tokens for tokens, _ in rollouts) / len(rollouts)
    for tokens, value in rollouts:
        assert value == pytest.approx(max(-1.0, min(1.0, (mean - tokens) / max(tokens, 1))))


@pytest.mark.slow
def test_a_server_pays_what_is_computed_here(probe: Probe, tmp_path: Path, server: Any) -> None:
    files = [tmp_path / "here.json", tmp_path / "there.json"]
    here = probe("--num-problems", 2, "--json", files[0])
    there = probe("--num-problems", 2, "--json", files[1], "--url", f"{server.url}/get_reward")
    assert here[0] == there[0] == 0, there
    reports = [json.loads(file.read_text()) for file in files]
    assert reports[1]["rewards"][0]["formula"] == reports[0]["rewards"][0]["formula"]
    paid = read_rewards(reports[1], "reward")
    assert paid == pytest.approx(read_rewards(reports[0], "default"), abs=1e-4)
    assert [one["attack"] for one in reports[1]["findings"]] == [
        one["attack"] for one in reports[0]["findings"]
    ]


@pytest.mark.slow
def test_a_server_with_other_prompts_is_an_error(probe: Probe, server: Any) -> None:
    status, _, errors = probe("--url", server.url, "--num-problems", 1, "--system-prompt", "Guess.")
    assert status == 2
    assert "another chat template or system prompt" in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_key_comes_from_the_environment_or_the_url(
    probe: Probe,
    start_server: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reward = tmp_path / "grouped.toml"
    reward.write_text(IN_GROUPS)
    keys = tmp_path / "keys"
    keys.write_text("opensesame\n")
    server = start_server("--api-key-file", str(keys), "--sar-weight", "0.3")
    server.wait_until_ready()
    arguments = ("--num-problems", 1)
    status, _, errors = probe("--url", server.url, *arguments)
    assert status == 2
    assert "it needs a key: --api-key-env NAME" in errors
    monkeypatch.setenv("PROBE_KEY", "opensesame")
    status, out, errors = probe("--url", server.url, "--api-key-env", "PROBE_KEY", *arguments)
    assert status == 0, errors
    assert "correctness + 0.3 sar" in out
    url = server.url.replace("//", "//any:opensesame@")
    assert probe("--url", url, *arguments)[0] == 0
    monkeypatch.setenv("PROBE_KEY", "wrong-key-here")
    status, _, errors = probe("--url", server.url, "--api-key-env", "PROBE_KEY", *arguments)
    assert status == 2
    assert "wrong-key-here" not in errors
    assert server.stop() == 0


@pytest.mark.slow
def test_a_server_that_compares_groups_is_refused(
    probe: Probe, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    reward = tmp_path / "grouped.toml"
    reward.write_text(IN_GROUPS)
    server = start_server("--reward", str(reward))
    server.wait_until_ready()
    status, _, errors = probe("--url", server.url)
    assert status == 2
    assert errors.count("\n") == 1
    assert "compares groups of 4 rollouts" in errors
    assert "--model and --reward" in errors
    assert server.stop() == 0


@pytest.mark.slow
def test_a_page_gets_the_tables_under_its_command(probe: Probe, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    arguments = ["--num-problems", "1", "--update", str(page)]
    start = f"<!-- Written by `python -m sar probe {' '.join(arguments)}`; do not edit. -->"
    end = "<!-- End of what is written. -->"
    page.write_text(f"# A\n\n<!-- another -->\n{end}\n\n{start}\nold\n{end}\nZ\n")
    assert probe(*arguments)[0] == 0
    text = page.read_text()
    assert text.startswith(f"# A\n\n<!-- another -->\n{end}\n\n{start}\n")
    assert text.endswith(f"{end}\nZ\n")
    assert "\nold\n" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert sum("**`honest`**" in row for row in rows) == 2
    written = text
    assert probe(*arguments)[0] == 0
    assert page.read_text() == written


def test_the_documentation_has_the_tables_of_both_models() -> None:
    text = (ROOT / "docs" / "probe.md").read_text(encoding="utf-8")
    blocks = text.split("<!-- Written by `python -m sar probe ")[1:]
    assert len(blocks) == 2
    assert "smollm2" in blocks[1].partition("`")[0]
    known = {one.name for one in ATTACKS} | {"honest", "honest_but_wrong"}
    for block in blocks:
        rows = re.findall(r"^\| \**`(\w+)`", block.partition("<!-- End")[0], re.MULTILINE)
        assert set(rows) == known
        assert rows.count("honest") == rows.count("honest_but_wrong") == 2


@pytest.mark.slow
def test_each_percentage_says_what_of(probe: Probe) -> None:
    _, output, _ = probe("--num-problems", "3", "--reward", "default")
    tables, _, findings = output.rpartition("\n\n")
    assert "wins: share of problems on which the attack earns more" in tables
    lines = [line for line in findings.splitlines() if "%" in line]
    assert lines
    assert all(re.search(r"\(on \d+% of problems\)|on \d+% of problems;", one) for one in lines)
    assert "note   truncated earns" in findings


def test_a_page_without_the_marker_is_an_error(probe: Probe, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    status, _, errors = probe("--update", page)
    assert status == 2
    assert errors.startswith(f"error: --update {page}: needs two lines, <!-- Written by `python")
    assert page.read_text() == "nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "a/b", "--url", "http://x"], "not allowed with argument"),
        (["--url", "http://x", "--reward", "default"], "--reward: not with --url"),
        (["--tokenizer", "a"], "--tokenizer: only with --url"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "--api-key-env: only with --url"),
        (["--url", "http://x", "--api-key-env", "NO_SUCH"], "the variable is not set"),
        (["--model", "./no/such"], "no such folder"),
        (["--model", ""], "--model is empty"),
        (["--num-problems", "0"], "'0' is not a whole number from 1"),
        (["--reward", "no.toml"], "no.toml: No such file"),
        (["--reward", "default", "--reward", "default"], "two rewards are called 'default'"),
        (["--data", "no.jsonl"], "no.jsonl"),
        (["--url", "ftp://x"], "not a URL such as http://host:5000/get_reward"),
        (["--url", "http://x:99999"], "the host or the port is not valid"),
        (["--url", "http://x/rm"], "rewards are at /get_reward"),
        (["--url", "http://any:sesame@127.0.0.1:1"], "cannot be reached"),
        (["--update", "no/such/page.md"], "No such file"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, probe: Probe) -> None:
    status, out, errors = probe(*arguments)
    assert status == 2
    assert out == ""
    last = errors.splitlines()[-1]
    assert "error: " in last
    assert message in last
    assert "sesame" not in errors


def test_attacks_are_listed(probe: Probe) -> None:
    status, out, _ = probe("--list")
    assert status == 0
    assert all(f"  {one.name} " in out and one.trick in out for one in ATTACKS)


def test_help_loads_no_library() -> None:
    code = (
        "import sys\nfrom sar.__main__ import main\n"
        "try:\n    main(['probe', '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'pydantic', 'numpy', 'torch', 'transformers', 'regex'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--reward FILE.toml" in shown
    assert shown.splitlines()[-1] == "set()"
