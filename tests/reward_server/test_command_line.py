"""The server's settings as flags, variables, `--help` and documentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward_server.command_line import render_docs
from reward_server.config import ServerConfig
from sar.models import BUNDLED_MODEL

if TYPE_CHECKING:
    from tests.reward_server.conftest import ParseArgs

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_settings")


def test_no_flag_and_no_variable_give_the_defaults(parse_args: ParseArgs) -> None:
    assert parse_args([], {}) == ServerConfig()
    assert parse_args([], {}).model_path == str(BUNDLED_MODEL)
    assert (ServerConfig().host, ServerConfig().port) == ("127.0.0.1", 5000)


SETTINGS = [
    ("model", "Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-1.7B-Base"),
    ("model", str(ROOT), str(ROOT)),
    ("host", "127.0.0.2", "127.0.0.2"),
    ("allowed_hosts", "a.example, B.example", "a.example, B.example"),
    ("port", "0", 0),
    ("port", "65535", 65535),
    ("sar_weight", "0", 0.0),
    ("sar_weight", "-0.5", -0.5),
    ("sar_weight", "1e-3", 0.001),
    ("system_prompt", "", ""),
    ("system_prompt", "100% sure, --really", "100% sure, --really"),
    ("standalone_prompt", "bos", "bos"),
    ("standalone_prompt", "Answer:\n", "Answer:\n"),
    ("backend", "vllm", "vllm"),
    ("tensor_parallel_size", "1", 1),
    ("vllm_memory_share", "0.92", 0.92),
    ("scorers", "4096", 4096),
    ("ray_address", "auto", "auto"),
    ("ray_address", "head.example.org:6379", "head.example.org:6379"),
    ("ray_address", "[::1]:6379", "[::1]:6379"),
    ("scorer_cpus", "1", 1.0),
    ("scorer_weights", "shared", "shared"),
    ("device", "cuda:1", "cuda:1"),
    ("dtype", "bfloat16", "bfloat16"),
    ("max_batch_tokens", "8192", 8192),
    ("max_context_tokens", "4096", 4096),
    ("grader_timeout", "2.5", 2.5),
    ("grader_workers", "3", 3),
    ("request_timeout", "60", 60.0),
    ("max_queued_tokens", "5000", 5000),
    ("max_samples_per_request", "8", 8),
    ("max_text_chars", "100000", 100_000),
    ("max_body_bytes", "1000", 1000),
    ("log_format", "json", "json"),
    ("reward_log", "/var/log/rewards", "/var/log/rewards"),
    ("dashboard_rollouts", "0", 0),
    ("dashboard_rollouts", "500", 500),
    ("follow", "/checkpoints", "/checkpoints"),
    ("url_file", "/run/url", "/run/url"),
]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return "REWARD_SERVER_" + name.upper()


@pytest.mark.parametrize(("name", "text", "value"), SETTINGS)
def test_flag_and_variable_are_the_same(
    name: str, text: str, value: object, parse_args: ParseArgs
) -> None:
    expected = ServerConfig().model_copy(update={name: value})
    assert parse_args([flag(name), text], {}) == expected
    assert parse_args([], {variable(name): text}) == expected


def test_every_setting_is_tested_here() -> None:
    # tests/reward_server/test_config.py has those of scorers that need another setting.
    others = {
        "scorer_gpus",
        "scorer_resources",
        "trust_remote_code",
        "allow_anyone",
        "api_key_file",
        "api_key",
        "reward",
    }
    tried = {name for name, *_ in SETTINGS} | others
    assert tried == set(ServerConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("TRUE", True), ("0", False), ("false", False)],
)
def test_a_boolean(text: str, value: bool, parse_args: ParseArgs) -> None:
    assert parse_args([], {variable("trust_remote_code"): text}).trust_remote_code is value
    assert parse_args(["--trust-remote-code"], {}).trust_remote_code is True


def test_the_flag_wins(parse_args: ParseArgs) -> None:
    environ = {
        variable("port"): "6000",
        variable("grader_workers"): "9",
        variable("dtype"): "float16",
    }
    config = parse_args(["--port", "7000", "--dtype", "auto"], environ)
    assert (config.port, config.grader_workers, config.dtype) == (7000, 9, "auto")
    off = {variable("trust_remote_code"): "0"}
    assert parse_args(["--trust-remote-code"], off).trust_remote_code


def test_a_flag_beats_a_bad_variable(parse_args: ParseArgs) -> None:
    assert parse_args(["--port", "7000"], {variable("port"): "none"}).port == 7000


def test_other_variables_are_left_alone(parse_args: ParseArgs) -> None:
    assert parse_args([], {"PORT": "1", "REWARD_SERVER_COLOUR": "red"}) == ServerConfig()


BAD = [
    ("port", "65536"),
    ("port", "-1"),
    ("port", "http"),
    ("port", "5000.0"),
    ("sar_weight", "nan"),
    ("sar_weight", "inf"),
    ("sar_weight", "101"),
    ("sar_weight", "much"),
    ("max_batch_tokens", "0"),
    ("max_batch_tokens", "-5"),
    ("max_batch_tokens", "1e4"),
    ("max_context_tokens", "0"),
    ("max_context_tokens", "long"),
    ("backend", "sglang"),
    ("tensor_parallel_size", "0"),
    ("tensor_parallel_size", "two"),
    ("scorers", "0"),
    ("scorers", "4097"),
    ("scorers", "2.5"),
    ("scorer_gpus", "-1"),
    ("scorer_cpus", "nan"),
    ("scorer_weights", "copied"),
    ("grader_timeout", "0"),
    ("grader_timeout", "nan"),
    ("grader_timeout", "inf"),
    ("grader_timeout", "5s"),
    ("grader_workers", "0"),
    ("grader_workers", "257"),
    ("request_timeout", "0"),
    ("request_timeout", "soon"),
    ("max_queued_tokens", "0"),
    ("max_samples_per_request", "none"),
    ("max_text_chars", "-1"),
    ("max_body_bytes", "0"),
    ("log_format", "xml"),
    ("dtype", "int8"),
    ("model", "/no/such/folder"),
    ("model", "./nothing-here"),
    ("model", "some/hub/path"),
]


@pytest.mark.parametrize(("name", "text"), BAD)
@pytest.mark.parametrize("source", ["flag", "variable"])
def test_a_bad_value_exits_2_and_is_named(
    name: str, text: str, source: str, capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    is_flag = source == "flag"
    arguments = [f"{flag(name)}={text}"] if is_flag else []
    environ = {} if is_flag else {variable(name): text}
    with pytest.raises(SystemExit) as caught:
        parse_args(arguments, environ)
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error:" in error
    assert repr(text) in error
    assert (flag(name) in error) or (variable(name) in error)


def test_bad_switches_and_flags_exit_2(
    capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    cases: list[tuple[list[str], dict[str, str], str]] = [
        ([], {variable("trust_remote_code"): "yes please"}, "yes please"),
        (["--trust-remote-code=1"], {}, "--trust-remote-code"),
        (["--colour", "red"], {}, "--colour"),
        (["5000"], {}, "5000"),
    ]
    for arguments, environ, named in cases:
        with pytest.raises(SystemExit) as caught:
            parse_args(arguments, environ)
        assert caught.value.code == 2
        assert named in capsys.readouterr().err.splitlines()[-1]


def test_help_names_every_flag_with_its_default(
    capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(["--help"], {})
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in ServerConfig.model_fields:
        if name == "api_key":
            assert flag(name) + " " not in text  # every user of a machine sees its command lines
            continue
        assert flag(name) in text
        default = getattr(ServerConfig(), name)
        if default not in (None, False) and name not in ("system_prompt", "max_queued_tokens"):
            assert f"(default: {default})" in text
    assert "REWARD_SERVER_PORT=5000" in text


def test_the_documentation_is_what_the_declaration_says() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == render_docs(), (
        "docs/configuration.md is out of date; run: "
        "python -m reward_server.command_line > docs/configuration.md"
    )


def test_the_documentation_is_the_same_on_every_machine() -> None:
    script = (
        "import os, sys\n"
        "os.cpu_count = lambda: 7\n"
        "from reward_server.command_line import render_docs\n"
        "sys.stdout.write(render_docs())"
    )
    output = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    assert output == render_docs()
    for name in ServerConfig.model_fields:
        assert f"`{variable(name)}`" in output


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import json, runpy, sys\n"
        "sys.argv = ['reward_server', '--help']\n"
        "try:\n    runpy.run_module('reward_server', run_name='__main__')\n"
        "except SystemExit as exit:\n    code = exit.code\n"
        "print(json.dumps([code, sorted(sys.modules)]))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    code, loaded = json.loads(output.splitlines()[-1])
    assert code == 0
    assert "usage: python -m reward_server" in output
    heavy = {"torch", "transformers", "tokenizers", "flask", "gevent", "sympy", "math_verify"}
    assert heavy.isdisjoint(loaded)


def test_a_bad_value_ends_the_command_at_once() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "reward_server", "--port", "99999"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 2
    assert "99999" in result.stderr
    assert "Traceback" not in result.stderr
