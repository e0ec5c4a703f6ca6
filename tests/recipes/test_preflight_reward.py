"""The preflight of a run with a reward file: real servers that run one, and servers that differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.recipes.conftest import Preflight

pytestmark = pytest.mark.slow  # they start servers
CORRECTNESS = '[[terms]]\nterm = "correctness"\n'
SUM = CORRECTNESS + '[[terms]]\nterm = "entropy"\nweight = 0.3\nonly_if = "correct"\n'
GDPO = 'group_size = 5\nnormalize = "gdpo"\n' + SUM
FORMULAS = {
    SUM: "correctness + 0.3 entropy (if correct)",
    GDPO: "GDPO(correctness + 0.3 entropy (if correct)), in groups of 5",
}

Write = Callable[[str], str]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a reward file and returns its path."""

    def write_file(text: str) -> str:
        path = tmp_path_factory.mktemp("reward") / "reward.toml"
        path.write_text(text)
        return str(path)

    return write_file


@pytest.fixture(scope="module")
def servers(start_server: Callable[..., Any], write: Write) -> dict[str, str]:
    """URLs of servers, by the text of the reward file that they run."""
    started = {text: start_server("--reward", write(text)) for text in FORMULAS}
    for one in started.values():
        one.wait_until_ready()
    return {text: f"{one.url}/get_reward" for text, one in started.items()}


@pytest.mark.parametrize("text", FORMULAS)
def test_a_server_with_the_runs_file_passes(
    text: str, servers: dict[str, str], preflight: Preflight, write: Write
) -> None:
    code, said = preflight(servers[text], reward=write(text))
    assert code == 0, said
    assert "rewards as expected; " in said
    assert f", reward {FORMULAS[text]}, policy version 0\n" in said


@pytest.mark.parametrize("text", FORMULAS)
def test_a_server_with_a_file_needs_the_runs(
    text: str, servers: dict[str, str], preflight: Preflight
) -> None:
    preflight(servers[text]).assert_one_line(
        f"{servers[text]}: its reward is {FORMULAS[text]}; name the file", "REWARD=FILE.toml"
    )


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (SUM, SUM.replace("0.3", "0.2")),
        (SUM, SUM.replace('only_if = "correct"', "")),
        (SUM, SUM.replace('"entropy"', '"confidence"')),
        (SUM, CORRECTNESS),
        (SUM, GDPO),
        (GDPO, SUM),
        (GDPO, GDPO.replace("5\n", "6\n", 1)),
    ],
)
def test_a_server_with_another_file_is_refused(
    runs: str, wanted: str, servers: dict[str, str], preflight: Preflight, write: Write
) -> None:
    path = write(wanted)
    outcome = preflight(servers[runs], reward=path)
    outcome.assert_one_line(
        f"{servers[runs]}: its reward is {FORMULAS[runs]}, and that of {path} is ",
        f"; start it with --reward {path}",
    )


def test_a_server_without_a_file_is_refused(
    server: Any, preflight: Preflight, write: Write
) -> None:
    url = f"{server.url}/get_reward"
    path = write(SUM)
    preflight(url, reward=path).assert_one_line("its reward is correctness + 0.2 sar, and", path)
    same = write(CORRECTNESS + '[[terms]]\nterm = "sar"\nweight = 0.2\n')
    preflight(url, reward=same).assert_one_line("it has no term 'correctness'; start it with")


def test_siblings_must_not_go_to_several_servers(
    servers: dict[str, str], preflight: Preflight, write: Write
) -> None:
    url = servers[GDPO]
    preflight(url, url, reward=write(GDPO)).assert_one_line("servers in turn; give one --url")
    assert preflight(servers[SUM], servers[SUM], reward=write(SUM)).code == 0


def test_a_server_that_only_grades_holds_no_answers(
    servers: dict[str, str], bundled_model_path: Path, write: Write,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from recipes.preflight import main

    monkeypatch.delenv("SYSTEM_PROMPT", raising=False)
    command = ["--model", str(bundled_model_path), "--on-policy", "--reward", write(GDPO), "--url"]
    assert main([*command, servers[GDPO]]) == 1
    error = capsys.readouterr().err
    assert "holds answers until the rollouts of a prompt are there" in error
    assert "start it without --reward" in error
    assert main([*command, servers[SUM]]) == 0


def test_targets_that_only_labels_have(
    start_server: Callable[..., Any], preflight: Preflight, write: Write, tmp_path: Path
) -> None:
    path = write(CORRECTNESS + '[[terms]]\nterm = "target_length"\n')
    server = start_server("--reward", path)
    server.wait_until_ready()
    url = f"{server.url}/get_reward"
    assert preflight(url, reward=path).code == 0
    data = tmp_path / "train.jsonl"
    row = {"prompt": [{"role": "user", "content": "1 + 2?"}], "label": "3"}
    data.write_text(json.dumps(row))
    preflight(url, reward=path, data=str(data)).assert_one_line(
        f"{data}, line 1: term 'target_length': each label needs \"target_tokens\", or set it"
    )


def test_a_wrong_file_is_one_line(server: Any, preflight: Preflight, write: Write) -> None:
    path = write(SUM.replace("entropy", "entropie"))
    outcome = preflight(f"{server.url}/get_reward", reward=path)
    outcome.assert_one_line(f"{path}: terms[2] 'entropie' is unknown")
