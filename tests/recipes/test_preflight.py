"""The preflight: with the real server, and with servers that are wrong in some way."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.launch.plain_copy import make_plain_copy
from recipes.preflight import main
from recipes.preflight_policy import RIGHT, CheckFailed, Policy
from recipes.preflight_servers import Server
from sar.prompts import DEFAULT_SYSTEM_PROMPT

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], bundled_model_path: Path) -> Run:
    """Returns the exit code and the output: stdout if all is well, else stderr."""

    def call(*urls: str, model: Path = bundled_model_path, **flags: str) -> tuple[int, str]:
        named = [w for name, value in flags.items() for w in (f"--{name.replace('_', '-')}", value)]
        code = main(["--model", str(model), *(w for url in urls for w in ("--url", url)), *named])
        said = capsys.readouterr()
        assert "" in (said.out, said.err)
        return code, said.out + said.err

    return call


def reward_url(server: Any, key: str = "") -> str:
    return str(server.url).replace("//", f"//{key}") + "/get_reward"


def train_file(folder: Path, system_prompt: str, label: str = '{"answer": "3"}') -> str:
    turns = [{"role": "user", "content": "What is 1 + 2?"}]
    if system_prompt:
        turns.insert(0, {"role": "system", "content": system_prompt})
    path = folder / "train.jsonl"
    path.write_text(json.dumps({"prompt": turns, "label": label, "datasource": "x"}) + "\n")
    return str(path)


def assert_one_line(result: tuple[int, str], *parts: str) -> None:
    code, said = result
    assert code == 1
    assert said.startswith("preflight: ")
    assert said.count("\n") == 1
    for part in parts:
        assert part in said


def test_the_right_server_passes(
    run: Run, server: Any, tmp_path: Path, bundled_model_path: Path
) -> None:
    code, said = run(reward_url(server))
    assert code == 0
    assert said == (
        f"preflight: {reward_url(server)}: rewards as expected; {bundled_model_path}, SAR weight "
        "0.2, policy version 0\n"
    )
    assert run(reward_url(server), reward_url(server), sar_weight="0.2")[0] == 0
    assert run(reward_url(server), data=train_file(tmp_path, DEFAULT_SYSTEM_PROMPT))[0] == 0


def test_other_weight(run: Run, server: Any) -> None:
    result = run(reward_url(server), sar_weight="0")
    assert_one_line(result, "its SAR weight is 0.2, not 0; start it with --sar-weight 0")


@pytest.mark.parametrize("system_prompt", ["You are a pirate.", ""])
def test_other_system_prompt(run: Run, server: Any, tmp_path: Path, system_prompt: str) -> None:
    result = run(reward_url(server), data=train_file(tmp_path, system_prompt))
    assert_one_line(result, "another system prompt or chat template", "--system-prompt")


def test_other_model(run: Run, server: Any, tmp_path: Path, bundled_model_path: Path) -> None:
    other = tmp_path / "Other-1B"
    shutil.copytree(bundled_model_path, other)
    served = str(bundled_model_path)
    result = run(reward_url(server), model=other)
    assert_one_line(result, f"it serves {served}, not {other}", f"--server-model {served}")
    assert run(reward_url(server), model=other, server_model="elsewhere/DEMO")[0] == 0


def test_other_tokenizer(
    run: Run, server: Any, tmp_path: Path, bundled_model_path: Path, bundled_tokenizer: Any
) -> None:
    """A tokenizer without merges needs more tokens for the same text."""
    other = tmp_path / bundled_model_path.name
    shutil.copytree(bundled_model_path, other)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    assert tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer))
    result = run(reward_url(server), model=other)
    num_tokens = len(bundled_tokenizer.encode(RIGHT)) + 1
    assert_one_line(result, f" are {num_tokens} there: it has another tokenizer")


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


def test_no_chat_template(run: Run, server: Any, tmp_path: Path, bundled_model_path: Path) -> None:
    other = tmp_path / bundled_model_path.name
    shutil.copytree(bundled_model_path, other)
    template = other / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    assert_one_line(run(reward_url(server), model=other), "no chat template")
    template.write_text("{{ raise_exception('no system turn here') }}" + text)
    result = run(reward_url(server), model=other)
    assert_one_line(result, "refuses a prompt of system, user: no system turn here")


def test_no_model(run: Run, server: Any, tmp_path: Path, bundled_model_path: Path) -> None:
    nowhere = tmp_path / bundled_model_path.name
    assert_one_line(run(reward_url(server), model=nowhere), f"load the config of {nowhere}")
    nowhere.mkdir()
    shutil.copy(bundled_model_path / "config.json", nowhere)
    (nowhere / "tokenizer.json").write_text("{")
    assert_one_line(run(reward_url(server), model=nowhere), f"load the tokenizer of {nowhere}")


def test_own_code(run: Run, server: Any, tmp_path: Path, bundled_model_path: Path) -> None:
    own, copy = (tmp_path / name / bundled_model_path.name for name in ("own", "copy"))
    shutil.copytree(bundled_model_path, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "a.B"}}))
    assert_one_line(run(reward_url(server), model=own), "has auto_map", "set PLAIN_COPY=1")
    make_plain_copy(str(own), copy, link=True)
    said = run(reward_url(server), model=copy)[1]
    assert said.startswith(f"preflight: trains from {copy}, a copy of {own} without auto_map")


@pytest.mark.parametrize("flag", ["data", "eval_data"])
def test_the_labels_of_every_row(run: Run, canned: Canned, tmp_path: Path, flag: str) -> None:
    """tests/recipes/test_data_rows.py has the other mistakes."""
    path = train_file(tmp_path, "", '{"answer": "3", "mode": "eval"}')
    row = Path(path).read_text()
    Path(path).write_text(row * 2 + row.replace("eval", "evaluation"))
    assert_one_line(run(canned.url, **{flag: path}), f"{path}, line 3: ", "evaluation")


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
def test_no_url(run: Run, url: str, part: str) -> None:
    assert_one_line(run(url), part)


def test_server_down(run: Run) -> None:
    with socket.socket() as held:  # a port that nothing listens on
        held.bind(("127.0.0.1", 0))
        url = f"http://any:secret99@127.0.0.1:{held.getsockname()[1]}/get_reward"
        result = run(url)
    assert_one_line(result, "cannot be reached", "is the server up?")
    assert "secret99" not in result[1]


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with another SAR weight that requires a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("s3cret,@key:1\n")
    other = start_server("--api-key-file", str(keys), "--sar-weight", "0")
    other.wait_until_ready()
    return other


def test_keys(run: Run, guarded: Any) -> None:
    key = "any:s3cret%2C%40key%3A1@"
    assert run(reward_url(guarded, key), sar_weight="0")[0] == 0
    for wrong in ("", "any:another-key@"):
        result = run(reward_url(guarded, wrong))
        assert_one_line(result, "requires a key")
        assert "another-key" not in result[1]


def test_servers_that_differ(run: Run, server: Any, guarded: Any) -> None:
    result = run(reward_url(server), reward_url(guarded, "any:s3cret%2C%40key%3A1@"))
    assert_one_line(result, "has a SAR weight of 0.2, and", "one of 0\n")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{held.getsockname()[1]}/get_reward"
        assert_one_line(run(reward_url(server), down), down, "cannot be reached")


class Canned:
    """A server with canned answers: for each path a status and a body."""

    def __init__(self) -> None:
        logs = {"sar": [0.5], "template_mismatch": [0], "response_tokens": [1]}
        self.answers: dict[str, tuple[int, Any]] = {
            "/readyz": (200, {"status": "ready"}),
            "/healthz": (200, {"model": "demo", "sar_weight": 0.2, "policy_version": 3}),
            "/get_reward": (200, {"rewards": [1.1], "scores": [1], "extra_logs": logs}),
        }
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = canned.answers[self.path]
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/get_reward"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize(
    ("path", "answer", "part"),
    [
        ("/readyz", (503, {"status": "loading"}), "not ready (loading); wait until /readyz"),
        ("/readyz", (404, {}), "not ready (HTTP 404)"),
        ("/readyz", (200, b"<html>"), "answers HTTP 200 without JSON: another server?"),
        ("/healthz", (200, {"sar_weight": 0.2}), "/healthz has no 'model'"),
        ("/get_reward", (503, {"error": {"message": "too much"}}), "HTTP 503: too much"),
        ("/get_reward", (500, {}), "no reward, HTTP 500: no message"),
        ("/get_reward", (200, {"rewards": []}), "not that of a reward server"),
        (
            "/get_reward",
            (200, {"rewards": [0], "scores": [0], "extra_logs": {}}),
            "a right answer has the score 0",
        ),
    ],
)
def test_servers_with_something_wrong(
    run: Run, canned: Canned, path: str, answer: tuple[int, Any], part: str
) -> None:
    canned.answers[path] = answer
    assert_one_line(run(canned.url), canned.url, part)


def test_weights_of_a_later_step_than_the_runs(run: Run, canned: Canned) -> None:
    """As of a server that followed a run whose OUTPUT was deleted."""
    options = {"server_model": "demo"}
    later = "it scores with weights of step 3, and the run starts from step 2; restart it"
    assert_one_line(run(canned.url, step="2", **options), canned.url, later)
    for step in ("3", "4"):
        assert "weights of step" not in run(canned.url, step=step, **options)[1]


def test_servers_with_weights_of_different_steps(run: Run, canned: Canned, server: Any) -> None:
    url = reward_url(server)
    said = f"{url} scores with weights of step 0, and {canned.url} with those of step 3; wait"
    assert_one_line(run(url, canned.url, server_model="elsewhere/demo"), said)


@pytest.mark.parametrize(
    ("reward", "more_tokens", "mismatch", "part"),
    [
        (1.1, 0, 0, "a wrong answer has the score 1"),  # the first rollout passes
        (1.0, 0, 0, "the reward is 1, and correctness + 0.2 x SAR is 1.1"),
        (1.1, 1, 0, "there: it has another tokenizer"),
        (1.1, 0, 1, "another system prompt or chat template"),
    ],
)
def test_rewards_with_something_wrong(
    run: Run, canned: Canned, bundled_tokenizer: Any,
    reward: float, more_tokens: int, mismatch: int, part: str,
) -> None:  # fmt: skip
    tokens = len(bundled_tokenizer.encode(RIGHT)) + 1 + more_tokens
    logs = {"sar": [0.5], "template_mismatch": [mismatch], "response_tokens": [tokens]}
    answer = {"rewards": [reward], "scores": [1], "extra_logs": logs}
    canned.answers["/get_reward"] = (200, answer)
    assert_one_line(run(canned.url), canned.url, part)


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
