"""The preflight with the real server: the weight, model, keys and data of a run are checked."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from recipes.launch.plain_copy import make_plain_copy
from recipes.preflight import main
from recipes.preflight_policy import RIGHT, CheckFailed, Policy
from recipes.preflight_servers import Server
from sar.prompts import DEFAULT_SYSTEM_PROMPT

if TYPE_CHECKING:
    from tests.recipes.conftest import Preflight

ROOT = Path(__file__).parents[2]


def reward_url(server: Any, key: str = "") -> str:
    return str(server.url).replace("//", f"//{key}") + "/get_reward"


def train_file(folder: Path, system_prompt: str, label: str = '{"answer": "3"}') -> str:
    turns = [{"role": "user", "content": "What is 1 + 2?"}]
    if system_prompt:
        turns.insert(0, {"role": "system", "content": system_prompt})
    path = folder / "train.jsonl"
    path.write_text(json.dumps({"prompt": turns, "label": label, "datasource": "x"}) + "\n")
    return str(path)


def test_the_right_server_passes(
    preflight: Preflight, server: Any, tmp_path: Path, bundled_model_path: Path
) -> None:
    code, said = preflight(reward_url(server))
    assert code == 0
    assert said == (
        f"preflight: {reward_url(server)}: rewards as expected; {bundled_model_path}, SAR weight "
        "0.2, policy version 0\n"
    )
    assert preflight(reward_url(server), reward_url(server), sar_weight="0.2").code == 0
    assert preflight(reward_url(server), data=train_file(tmp_path, DEFAULT_SYSTEM_PROMPT)).code == 0


def test_other_weight(preflight: Preflight, server: Any) -> None:
    result = preflight(reward_url(server), sar_weight="0")
    result.assert_one_line("its SAR weight is 0.2, not 0; start it with --sar-weight 0")


@pytest.mark.parametrize("system_prompt", ["You are a pirate.", ""])
def test_other_system_prompt(
    preflight: Preflight, server: Any, tmp_path: Path, system_prompt: str
) -> None:
    result = preflight(reward_url(server), data=train_file(tmp_path, system_prompt))
    result.assert_one_line("another system prompt or chat template", "--system-prompt")


def test_other_model(
    preflight: Preflight, server: Any, tmp_path: Path, bundled_model_path: Path
) -> None:
    other = tmp_path / "Other-1B"
    shutil.copytree(bundled_model_path, other)
    served = str(bundled_model_path)
    result = preflight(reward_url(server), model=other)
    result.assert_one_line(f"it serves {served}, not {other}", f"--server-model {served}")
    assert preflight(reward_url(server), model=other, server_model="elsewhere/DEMO").code == 0


def test_other_tokenizer(
    preflight: Preflight,
    server: Any,
    tmp_path: Path,
    bundled_model_path: Path,
    bundled_tokenizer: Any,
) -> None:
    """A tokenizer without merges needs more tokens for the same text."""
    other = tmp_path / bundled_model_path.name
    shutil.copytree(bundled_model_path, other)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    assert tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer))
    result = preflight(reward_url(server), model=other)
    num_tokens = len(bundled_tokenizer.encode(RIGHT)) + 1
    result.assert_one_line(f" are {num_tokens} there: it has another tokenizer")


def test_a_policy_that_scores_itself_takes_any_model_and_weight(
    server: Any,
    tmp_path: Path,
    bundled_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "policy"
    shutil.copytree(bundled_model_path, other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(
        re.sub(r'"merges": \[[^{}]*\]', '"merges": []', tokenizer)
    )
    data = train_file(tmp_path, "Be brief.")
    command = ["--url", reward_url(server), "--model", str(other), "--data", data, "--on-policy"]
    monkeypatch.delenv("SYSTEM_PROMPT", raising=False)
    assert main(command) == 1
    assert "set SYSTEM_PROMPT to the data's" in capsys.readouterr().err
    monkeypatch.setenv("SYSTEM_PROMPT", "Be brief.")
    assert main(command) == 0
    assert main(command[:-1]) == 1


def test_no_chat_template(
    preflight: Preflight, server: Any, tmp_path: Path, bundled_model_path: Path
) -> None:
    other = tmp_path / bundled_model_path.name
    shutil.copytree(bundled_model_path, other)
    template = other / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    preflight(reward_url(server), model=other).assert_one_line("no chat template")
    template.write_text("{{ raise_exception('no system turn here') }}" + text)
    result = preflight(reward_url(server), model=other)
    result.assert_one_line("refuses a prompt of system, user: no system turn here")


def test_no_model(
    preflight: Preflight, server: Any, tmp_path: Path, bundled_model_path: Path
) -> None:
    nowhere = tmp_path / bundled_model_path.name
    preflight(reward_url(server), model=nowhere).assert_one_line(f"load the config of {nowhere}")
    nowhere.mkdir()
    shutil.copy(bundled_model_path / "config.json", nowhere)
    (nowhere / "tokenizer.json").write_text("{")
    preflight(reward_url(server), model=nowhere).assert_one_line(f"load the tokenizer of {nowhere}")


def test_own_code(
    preflight: Preflight, server: Any, tmp_path: Path, bundled_model_path: Path
) -> None:
    own, copy = (tmp_path / name / bundled_model_path.name for name in ("own", "copy"))
    shutil.copytree(bundled_model_path, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "a.B"}}))
    preflight(reward_url(server), model=own).assert_one_line("has auto_map", "set PLAIN_COPY=1")
    make_plain_copy(str(own), copy, link=True)
    said = preflight(reward_url(server), model=copy).said
    assert said.startswith(f"preflight: trains from {copy}, a copy of {own} without auto_map")


@pytest.mark.parametrize("flag", ["data", "eval_data"])
def test_the_labels_of_every_row(
    preflight: Preflight, server: Any, tmp_path: Path, flag: str
) -> None:
    """tests/recipes/test_data_rows.py has the other mistakes."""
    path = train_file(tmp_path, "", '{"answer": "3", "mode": "eval"}')
    row = Path(path).read_text()
    Path(path).write_text(row * 2 + row.replace("eval", "evaluation"))
    preflight(reward_url(server), **{flag: path}).assert_one_line(f"{path}, line 3: ", "evaluation")


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("host:5000/get_reward", "is not a URL such as"),
        ("ftp://host/get_reward", "is not a URL such as"),
        ("http:///get_reward", "is not a URL such as"),
        ("http://host:5000", "http://host:5000: rewards are at /get_reward"),
        ("http://host:x/get_reward", "the port is not a number"),
        ("", "is not a URL such as"),
    ],
)
def test_no_url(preflight: Preflight, url: str, part: str) -> None:
    preflight(url).assert_one_line(part)


def test_server_down(preflight: Preflight) -> None:
    with socket.socket() as held:  # a port that nothing listens on
        held.bind(("127.0.0.1", 0))
        url = f"http://any:secret99@127.0.0.1:{held.getsockname()[1]}/get_reward"
        result = preflight(url)
    result.assert_one_line("cannot be reached", "is the server up?")
    assert "secret99" not in result.said


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with another SAR weight that requires a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("s3cret,@key:1\n")
    other = start_server("--api-key-file", str(keys), "--sar-weight", "0")
    other.wait_until_ready()
    return other


def test_keys(preflight: Preflight, guarded: Any) -> None:
    key = "any:s3cret%2C%40key%3A1@"
    assert preflight(reward_url(guarded, key), sar_weight="0").code == 0
    for wrong in ("", "any:another-key@"):
        result = preflight(reward_url(guarded, wrong))
        result.assert_one_line("requires a key")
        assert "another-key" not in result.said


def test_servers_that_differ(preflight: Preflight, server: Any, guarded: Any) -> None:
    result = preflight(reward_url(server), reward_url(guarded, "any:s3cret%2C%40key%3A1@"))
    result.assert_one_line("has a SAR weight of 0.2, and", "one of 0\n")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{held.getsockname()[1]}/get_reward"
        preflight(reward_url(server), down).assert_one_line(down, "cannot be reached")


def test_rollouts_are_what_openrlhf_sends(bundled_tokenizer: Any) -> None:
    from openrlhf.utils import agent

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "-"}]
    policy = Policy("demo", bundled_tokenizer, messages)
    ids = [*bundled_tokenizer.encode(RIGHT), bundled_tokenizer.eos_token_id]
    sent: list[tuple[list[str], list[str]]] = []

    class Executor(agent.SingleTurnAgentExecutor):  # type: ignore[misc]
        async def _fetch_rewards_via_http(self, queries: Any, prompts: Any, labels: Any) -> Any:
            sent.append((queries, prompts))
            return [{"rewards": 0.0}]

    class Engine:
        async def generate(self, *_: Any, **__: Any) -> Any:
            output = SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)
            return SimpleNamespace(outputs=[output])

    asyncio.run(
        Executor("http://h/get_reward").execute(
            policy.right.prompt, "42", SimpleNamespace(max_tokens=500, logprobs=None), 2000,
            bundled_tokenizer, Engine(),
        )
    )  # fmt: skip
    assert sent == [([policy.right.query], [policy.right.prompt])]
    assert policy.right.num_response_tokens == len(ids)
    assert "Be brief." in policy.right.prompt


def test_a_key_does_not_show_in_a_problem() -> None:
    assert Server("http://any:hidden77@h:1/get_reward").name == "http://h:1/get_reward"
    with pytest.raises(CheckFailed) as raised:
        Server("http://any:hidden77@h:1/rewards")
    assert "hidden77" not in str(raised.value)


@pytest.mark.slow
def test_a_recipe_stops_at_the_wrong_server_and_starts_with_the_right_one(
    server: Any, tmp_path: Path, bundled_model_path: Path
) -> None:
    """The real script and preflight, with a stand-in for the trainer."""
    train_file(tmp_path, DEFAULT_SYSTEM_PROMPT)
    row = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(row * 128)
    (tmp_path / "eval.jsonl").write_text(row.replace('3\\"', '3\\", \\"mode\\": \\"eval\\"'))
    package = tmp_path / "stand_in/openrlhf/cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "train_ppo_ray.py").write_text("print('training starts')\n")
    environ = {
        **os.environ,
        "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "stand_in"),
        "DATA": str(tmp_path), "OUTPUT": str(tmp_path / "out"), "STEPS": "1",
        "MODEL_PATH": str(bundled_model_path), "REWARD_URLS": reward_url(server),
    }  # fmt: skip

    def start(weight: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "recipes/grpo.sh"), "Gemma-3-1B"],
            env={**environ, "SAR_WEIGHT": weight},
            capture_output=True,
            text=True,
            timeout=600,
        )

    wrong = start("0")
    assert wrong.returncode == 1
    assert "its SAR weight is 0.2, not 0" in wrong.stderr
    assert "training starts" not in wrong.stdout
    right = start("0.2")
    assert right.returncode == 0, right.stderr
    assert "rewards as expected" in right.stdout
    assert right.stdout.endswith("training starts\n")
