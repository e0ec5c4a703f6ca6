"""What `ServerConfig` checks: API keys, hosts, and settings that do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from reward_server.config import ServerConfig, to_flag, to_variable

if TYPE_CHECKING:
    from tests.reward_server.conftest import ParseArgs

pytestmark = pytest.mark.usefixtures("no_settings")


def test_limits_are_those_that_the_documentation_promises() -> None:
    config = ServerConfig()
    assert (config.request_timeout, config.max_samples_per_request) == (170.0, 8192)
    assert (config.max_text_chars, config.max_body_bytes) == (1_000_000, 67_108_864)
    assert config.max_queued_tokens > 0


def test_a_config_is_frozen(parse_args: ParseArgs) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse_args([], {}).port = 1


KEY = "correct-horse-battery"


def test_a_key_comes_from_the_environment_or_from_a_file(
    tmp_path: Path, parse_args: ParseArgs
) -> None:
    assert parse_args([], {}).api_keys == ()
    assert parse_args([], {to_variable("api_key"): KEY}).api_keys == (KEY,)
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n  another-key-for-tomorrow \n")
    for config in (
        parse_args(["--api-key-file", str(file)], {}),
        parse_args(
            [], {to_variable("api_key_file"): str(file), to_variable("api_key"): "another one"}
        ),
    ):
        assert config.api_keys == (KEY, "another-key-for-tomorrow")
        assert KEY not in repr(config)
    assert KEY not in repr(parse_args([], {to_variable("api_key"): KEY}))


@pytest.mark.parametrize(
    "content",
    ["", "\n", "short", "two words here", "schlüssel-schlüssel", None],
    # The key must not be in the name: pytest puts that into `tmp_path`, and so into the message.
    ids=["empty", "blank", "few characters", "spaces", "not ASCII", "no file"],
)
def test_a_bad_key_exits_2(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        parse_args(["--api-key-file", str(file)], {})
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"error: --api-key-file {file}: " in error
    assert not content or not content.strip() or content not in error
    if content:
        with pytest.raises(SystemExit):
            parse_args([], {to_variable("api_key"): content})
        error = capsys.readouterr().err
        assert to_variable("api_key") in error
        assert not content.strip() or content not in error


def test_an_empty_key_in_the_environment_does_not_open_the_server(
    capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    for empty in ("", "  "):
        with pytest.raises(SystemExit) as caught:
            parse_args([], {to_variable("api_key"): empty})
        assert caught.value.code == 2
        assert to_variable("api_key") in capsys.readouterr().err.splitlines()[-1]


def test_a_bad_key_file_is_named_with_its_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(bytes(range(128, 256)))
    for path in (file, tmp_path):
        with pytest.raises(SystemExit):
            parse_args([], {to_variable("api_key_file"): str(path)})
        assert f"error: --api-key-file {path}: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("host", "reachable"),
    [
        ("127.0.0.1", False),
        ("127.1.2.3", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("10.0.0.1", True),
        ("node-1", True),
        ("127.example.org", True),
    ],
)
def test_is_reachable(host: str, reachable: bool) -> None:
    assert ServerConfig(host=host, allow_anyone=True).is_reachable is reachable


def test_a_server_that_others_can_reach_needs_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length")
    for flags, environ in (
        (["--api-key-file", str(keys)], {}),
        (["--allow-anyone"], {}),
        ([], {to_variable("api_key"): "a-key-of-some-length"}),
        ([], {to_variable("allow_anyone"): "true"}),
    ):
        assert parse_args(["--host", "0.0.0.0", *flags], environ).host == "0.0.0.0"
    for host in ("0.0.0.0", "::", "10.0.0.1", "node-1", "127.example.org"):
        with pytest.raises(SystemExit) as caught:
            parse_args(["--host", host], {})
        assert caught.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"--host {host}: " in error
        assert "--api-key-file" in error
        assert "--allow-anyone" in error


def test_allowed_hosts(parse_args: ParseArgs) -> None:
    config = parse_args(["--allowed-hosts", " a.example,B.example ,"], {})
    assert config.allowed_host_names == ("a.example", "B.example")
    assert parse_args([], {}).allowed_host_names == ()
    assert parse_args(["--allowed-hosts", "*"], {}).allowed_host_names == ("*",)


@pytest.mark.parametrize("name", ["http://a.example", "a.example:5000", "a b", "*.example"])
def test_an_allowed_host_that_can_never_match_is_refused(
    name: str, capsys: pytest.CaptureFixture[str], parse_args: ParseArgs
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(["--allowed-hosts", f"good.example,{name}"], {})
    assert caught.value.code == 2
    assert f"--allowed-hosts {name!r}: " in capsys.readouterr().err.splitlines()[-1]


def test_vllm_on_several_gpus(parse_args: ParseArgs) -> None:
    config = parse_args(["--backend", "vllm", "--tensor-parallel-size", "4"], {})
    assert (config.backend, config.tensor_parallel_size) == ("vllm", 4)
    environ = {to_variable("backend"): "vllm", to_variable("tensor_parallel_size"): "4"}
    assert parse_args([], environ) == config
    assert parse_args(["--backend", "vllm", "--device", "auto"], {}).device == "auto"


def test_vllm_follows_and_takes_a_share_of_memory(parse_args: ParseArgs) -> None:
    flags = ["--backend", "vllm", "--follow", "/checkpoints", "--vllm-memory-share", "0.4"]
    config = parse_args(flags, {})
    assert (config.follow, config.vllm_memory_share) == ("/checkpoints", 0.4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tensor_parallel_size": "2"}, "--tensor-parallel-size 2"),
        ({"backend": "transformers", "tensor_parallel_size": "8"}, "--tensor-parallel-size 8"),
        ({"vllm_memory_share": "0.4"}, "--vllm-memory-share 0.4"),
        ({"backend": "vllm", "device": "cuda:1"}, "--device 'cuda:1'"),
        ({"backend": "vllm", "device": "cpu"}, "--device 'cpu'"),
    ],
)
@pytest.mark.parametrize("source", ["flags", "variables"])
def test_settings_of_the_other_backend_are_refused(
    settings: dict[str, str],
    named: str,
    source: str,
    capsys: pytest.CaptureFixture[str],
    parse_args: ParseArgs,
) -> None:
    flags = [f"{to_flag(name)}={text}" for name, text in settings.items()]
    variables = {to_variable(name): text for name, text in settings.items()}
    arguments, environ = (flags, {}) if source == "flags" else ([], variables)
    with pytest.raises(SystemExit) as caught:
        parse_args(arguments, environ)
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in error
    assert "--backend vllm" in error


def test_resources_of_scorers_are_numbers_by_name(parse_args: ParseArgs) -> None:
    text = '{"node:gpu-box": 0.01, "fast": 2}'
    flags = ["--scorers", "2", "--scorer-gpus", "0.5", "--scorer-resources", text]
    config = parse_args(flags, {})
    assert config.resources_of_scorers == {"node:gpu-box": 0.01, "fast": 2.0}
    assert (config.uses_ray, config.scorer_gpus) == (True, 0.5)
    assert parse_args(["--ray-address", "auto"], {}).uses_ray
    assert not parse_args(["--scorers", "1"], {}).uses_ray


@pytest.mark.parametrize(
    ("flags", "named", "advice"),
    [
        (["--scorer-gpus", "1"], "--scorer-gpus 1.0", "--scorers 2 or more"),
        (["--scorer-cpus", "2"], "--scorer-cpus 2.0", "--scorers 2 or more"),
        (["--scorer-weights", "sent"], "--scorer-weights sent", "--scorers 2 or more"),
        (["--scorer-resources", '{"a": 1}'], '--scorer-resources {"a": 1}', "--ray-address"),
        (["--scorers", "2", "--scorer-resources", "{"], "--scorer-resources '{'", "not JSON"),
        (["--scorers", "2", "--scorer-resources", "[1]"], "'[1]'", "a JSON object"),
        (["--scorers", "2", "--scorer-resources", '{"a": 0}'], "'a': ", "not '0'"),
        (["--scorers", "2", "--scorer-resources", '{"a": true}'], "'a': ", "not 'true'"),
        (["--scorers", "2", "--scorer-resources", "[" * 10**5], "'[[[", "not JSON"),
        (
            ["--scorers", "2", "--scorer-resources", '{"a": 1' + "0" * 400 + "}"],
            "'a'",
            "from 0.0001",
        ),
        (["--scorers", "2", "--scorer-resources", '{"GPU": 1}'], "'GPU'", "use --scorer-gpus"),
        (["--scorers", "2", "--scorer-resources", '{"": 1}'], "''", "not a resource"),
        (["--scorers", "2", "--scorer-resources", '{"memory": 9}'], "'memory'", "not a resource"),
        (["--scorers", "2", "--scorer-resources", '{"a": 1e-5}'], "'a'", "from 0.0001 to"),
        (["--scorers", "2", "--scorer-gpus", "1.5"], "--scorer-gpus 1.5", "a whole number"),
        (["--ray-address", "head:99999"], "--ray-address 'head:99999'", "host:port"),
        (["--ray-address", "head:65536"], "--ray-address 'head:65536'", "host:port"),
        (["--ray-address", "head:0"], "--ray-address 'head:0'", "host:port"),
        (
            ["--scorers=2", "--backend=vllm", "--tensor-parallel-size=2", "--scorer-gpus=1"],
            "--scorer-gpus 1",
            "fewer than --tensor-parallel-size 2",
        ),
        (["--ray-address", "head"], "--ray-address 'head'", "host:port, or auto"),
        (["--ray-address", "ray://head:10001"], "'ray://head:10001'", "a node of the cluster"),
        (["--ray-address", ""], "--ray-address ''", "host:port, or auto"),
        (["--ray-address", "http://head:1"], "'http://head:1'", "host:port, or auto"),
    ],
)
def test_wrong_settings_of_scorers_are_one_clear_line(
    flags: list[str],
    named: str,
    advice: str,
    capsys: pytest.CaptureFixture[str],
    parse_args: ParseArgs,
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(flags, {})
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in error
    assert advice in error
