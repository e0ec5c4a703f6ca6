"""`--reward FILE.toml`: mistakes are one line before anything listens; a server that runs one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward_server.config import ServerConfig, to_variable
from sar.terms.reward_file import read_reward_file

if TYPE_CHECKING:
    from tests.conftest import Contract, TestedServer
    from tests.reward_server.conftest import ParseArgs

pytestmark = pytest.mark.slow  # they start servers
ROOT = Path(__file__).parents[2]
SUM = """
[[terms]]
term = "correctness"
[[terms]]
term = "sar"
weight = 0.3
"""
PLUG_IN = '''
from sar.terms.base import Term

class Words(Term):
    """Words of the response, as a share of a most."""

    formula = "words / most"
    bounds = "0 and more"

    def __init__(self, most=10):
        self.most = most

    def score(self, sample):
        if "9" in sample.response:
            raise KeyError("nine")
        return len(sample.response.split()) / self.most
'''
COSTLY = """
[[terms]]
term = "self_certainty"
[[terms]]
term = "reference_likelihood"
name = "gain"
weight = 2
"""
OWN = """
[[terms]]
term = "correctness"
[[terms]]
term = "my_terms:Words"
weight = -0.5
most = 4
"""
GROUPS = 'group_size = 2\nnormalize = "gdpo"\n' + SUM


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write_file(text: str) -> str:
        path = tmp_path / "reward.toml"
        path.write_text(text)
        return str(path)

    return write_file


@pytest.mark.usefixtures("no_settings")
def test_a_file_is_the_flags_and_the_variables(
    write: Callable[[str], str], parse_args: ParseArgs
) -> None:
    file = write(SUM)
    expected = read_reward_file(Path(file))
    for config in (
        parse_args(["--reward", file], {}),
        parse_args([], {to_variable("reward"): file}),
    ):
        assert config.composition == expected
        assert config.weight_of_sar == 0.3
    assert ServerConfig().composition is None
    assert parse_args(["--sar-weight", "0.5"], {}).weight_of_sar == 0.5
    without = write('[[terms]]\nterm = "correctness"')
    assert parse_args(["--reward", without], {}).weight_of_sar == 0


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("[[terms", "Expected ']]'"),
        ("", "terms is missing"),
        ('[[terms]]\nterm = "corectness"', "'corectness' is unknown"),
        ('[[terms]]\nterm = "sar"\nweight = "much"', "'much'"),
        ('[[terms]]\nterm = "sar"\nwieght = 1', "'wieght' is unknown"),
        ('[[terms]]\nterm = "no_such_module:Mine"', "no_such_module"),
        ('normalize = "gdpo"\n' + SUM, "group_size"),
    ],
    ids=range(8),
)
def test_a_mistake_is_one_line_and_exit_code_2(
    text: str | None,
    message: str,
    write: Callable[[str], str],
    parse_args: ParseArgs,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(text) if text is not None else "/no/such/file.toml"
    with pytest.raises(SystemExit) as caught:
        parse_args(["--reward", file], {})
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"error: --reward {file}: " in error
    assert message in error


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--sar-weight", "0.5"], {}),
        (["--sar-weight", "0.2"], {}),  # the default, but given
        ([], {to_variable("sar_weight"): "0.5"}),
    ],
    ids=range(3),
)
def test_the_weight_of_sar_belongs_into_the_file(
    arguments: list[str],
    environ: dict[str, str],
    write: Callable[[str], str],
    parse_args: ParseArgs,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(SUM)
    with pytest.raises(SystemExit) as caught:
        parse_args([*arguments, "--reward", file], environ)
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--sar-weight 0." in error
    assert f"not with --reward; give the term sar this weight in {file}" in error


@pytest.mark.usefixtures("no_settings")
def test_vllm_refuses_what_it_cannot_compute(
    write: Callable[[str], str], parse_args: ParseArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(COSTLY)
    with pytest.raises(SystemExit):
        parse_args(["--reward", file, "--backend", "vllm"], {})
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--reward {file}: term 'self_certainty'" in error
    assert parse_args(["--reward", write(SUM), "--backend", "vllm"], {}).composition


def test_nothing_listens_with_a_wrong_file(write: Callable[[str], str], tmp_path: Path) -> None:
    url_file = tmp_path / "url"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "reward_server", "--port", "0"),
            *("--url-file", str(url_file), "--reward", write('[[terms]]\nterm = "sra"')),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "terms[1] 'sra' is unknown" in done.stderr.splitlines()[-1]
    assert not url_file.exists()


ONE = {"query": ["Q: 2+3?\nA: it is 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}


def test_a_server_with_a_term_of_ones_own(
    start_server: Callable[..., TestedServer],
    make_contract: type[Contract],
    write: Callable[[str], str],
    tmp_path: Path,
) -> None:
    (tmp_path / "my_terms.py").write_text(PLUG_IN)
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    server = start_server("--reward", write(OWN), environ={"PYTHONPATH": path})
    server.wait_until_ready()
    assert "ready: rewards are correctness - 0.5 words\n" in server.log.read_text()
    contract = make_contract(server.request("/openapi.json")[1])
    rewards = []
    for path, body in (
        ("/get_reward", ONE),
        ("/rm", {"prompt": "Q: 2+3?\nA:", "response": " it is 5", "label": "5"}),
        ("/healthz", None),
    ):
        status, answer = server.request(path, body)
        assert status == 200
        method = "POST" if body else "GET"
        contract.check(method, path, status, "application/json", json.dumps(answer).encode())
        rewards.append(answer.get("rewards", answer.get("reward")))
    bad = {"prompt": "Q: 2+3?\nA:", "response": " it is 9", "label": "5"}
    status, answer = server.request("/rm", bad)
    contract.check("POST", "/rm", status, "application/json", json.dumps(answer).encode())
    message = "term 'words' failed: KeyError: 'nine' (line 15 of my_terms)"
    assert (status, answer["error"]["message"]) == (500, message)
    assert message in server.log.read_text()
    assert rewards == [[0.625], 0.625, "correctness - 0.5 words"]
    description = contract.document["components"]["schemas"]["RmAnswer"]["properties"]["term_words"]
    assert description["description"] == "words / most; 0 and more"
    assert 'reward_server_term_count{term="words"} 2.0' in server.request("/metrics")[1]
    assert server.stop() == 0


def test_terms_that_need_more_of_the_model(
    start_server: Callable[..., TestedServer], server: TestedServer, write: Callable[[str], str]
) -> None:
    costly = start_server("--reward", write(COSTLY))
    costly.wait_until_ready()
    label = {"answer": "5", "mode": "eval"}
    two = {name: values * 2 for name, values in ONE.items()} | {"labels": ["5", label]}
    logs = costly.request("/get_reward", two)[1]
    (certainty, none), (gain, no_gain) = (
        logs["extra_logs"][name] for name in ("term_self_certainty", "term_gain")
    )
    assert 0 < certainty < 20
    assert gain != 0
    assert abs(gain) < 100
    assert (none, no_gain) == (0, 0)
    assert logs["rewards"] == pytest.approx([certainty + 2 * gain, 1.0])
    # What was computed before is computed as before.
    plain = server.request("/get_reward", two)[1]["extra_logs"]
    for name in ("sar", "ppl_qa", "ppl_a"):
        assert logs["extra_logs"][name] == pytest.approx(plain[name], abs=1e-5)


def test_a_server_that_is_stopped_refuses_half_a_group(
    start_server: Callable[..., TestedServer], write: Callable[[str], str]
) -> None:
    server = start_server("--reward", write(GROUPS))
    server.wait_until_ready()
    with ThreadPoolExecutor(2) as clients:
        pair = [clients.submit(server.request, "/get_reward", ONE) for _ in range(2)]
        for one in pair:
            status, answer = one.result(120)
            assert (status, answer["rewards"]) == (200, [0.0])  # equal texts: no variance
            assert answer["extra_logs"]["cohort_incomplete"] == [0]
        other = ONE | {"labels": ["6"]}
        half = clients.submit(server.request, "/get_reward", other)
        deadline_s = time.monotonic() + 60
        while server.request("/healthz")[1]["held_rollouts"] != 1:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        assert server.request("/healthz")[1]["in_flight"] == 1
        assert server.stop() == 0
        status, answer = half.result(120)
    assert (status, answer["error"]["type"]) == (503, "not_ready")
