"""The Dockerfile and the compose files: what is pinned, confined and limited."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from reward_server.command_line import parse_args
from reward_server.config import ENV_PREFIX, ServerConfig

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")
COMPOSE = ("compose.yaml", "compose.gpu.yaml", "compose.key.yaml", "compose.scale.yaml")
# Services that only compose.scale.yaml has.
SCORERS = {"scorer-1", "scorer-2"}


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def read_services() -> list[Any]:
    """Every service of compose.yaml, and of it with the changes of each other file."""
    base = load("compose.yaml")["services"]
    found = []
    for name in COMPOSE:
        changes = load(name)["services"]
        new = SCORERS if name == "compose.scale.yaml" else set()
        assert set(changes) - set(base) == new, f"{name}: compose.yaml lacks a service of it"
        found += [
            pytest.param({**base.get(s, {}), **changes[s]}, id=f"{name} {s}") for s in changes
        ]
    return found


def test_every_file_of_compose_is_tested() -> None:
    assert {path.name for path in ROOT.glob("compose*.yaml")} == set(COMPOSE)


@pytest.mark.parametrize("service", read_services())
def test_every_service_is_confined_and_limited(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["read_only"] is True
    # A default that the environment may change is a limit too.
    assert re.fullmatch(r"(?:\$\{\w+:-)?\d+[mg]\}?", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 4096
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode"} & set(service)
    for port in service.get("ports", []):
        assert re.match(r"127\.0\.0\.1:|\$\{BIND:-127\.0\.0\.1\}:", port), port
    for mount in service.get("volumes", []):
        assert mount.endswith(":ro") or not mount.startswith((".", "/")), mount


@pytest.mark.parametrize("service", read_services())
def test_every_image_that_is_not_built_has_a_tag_and_a_digest(service: dict[str, Any]) -> None:
    if "build" not in service and not service["image"].startswith("sar-reward-server:"):
        assert PINNED.fullmatch(service["image"]), service["image"]


def test_the_base_image_has_a_tag_and_a_digest() -> None:
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert PINNED.fullmatch(base)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE_IMAGE}"}
    assert f"`{base.partition('@')[0]}`" in (ROOT / "docs" / "docker.md").read_text()


def test_pip_takes_only_files_whose_hash_is_known_and_builds_only_our_sources() -> None:
    commands = re.findall(r"\bpip (?:install|wheel|download) [^\n&]*", DOCKERFILE)
    assert len(commands) >= 4
    for command in commands:
        locked = {"--require-hashes", "--only-binary=:all:"} <= set(command.split())
        assert locked or "--no-index" in command.split(), command
    # The lock files are complete: nothing is added to what they list.
    assert "PIP_NO_DEPS=1" in DOCKERFILE
    assert "pip check" in DOCKERFILE


def test_each_build_of_torch_that_is_asked_for_has_a_lock_file() -> None:
    (default,) = re.findall(r"^ARG TORCH=(\w+)$", DOCKERFILE, re.MULTILINE)
    files = ("compose.yaml", "compose.gpu.yaml")
    asked = [load(name)["services"]["reward-server"]["build"]["args"]["TORCH"] for name in files]
    for torch in {default, *asked}:
        lock = (ROOT / "requirements" / f"torch-{torch}.lock").read_text()
        assert re.search(r"^torch==", lock, re.MULTILINE)
        # An index that one build needs must not be asked for the packages of another.
        assert ("${TORCH_INDEX}" in lock) == (torch != "cuda")


def test_the_extra_of_the_image_has_a_lock_file_and_none_is_the_default() -> None:
    assert re.findall(r"^ARG EXTRA=(.*)$", DOCKERFILE, re.MULTILINE) == [""]
    extra = load("compose.scale.yaml")["services"]["reward-server"]["build"]["args"]["EXTRA"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    assert (ROOT / "requirements" / f"{extra}.lock").is_file()


def test_nobody_can_log_in_to_grafana() -> None:
    environment = load("compose.yaml")["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_the_server_reads_keys_from_the_secret_of_compose_key_yaml() -> None:
    compose = load("compose.key.yaml")
    service = compose["services"]["reward-server"]
    (secret,) = compose["secrets"]
    assert service["secrets"] == [secret]
    assert service["environment"] == [f"{ENV_PREFIX}API_KEY_FILE=/run/secrets/{secret}"]
    assert "api_key_file" in ServerConfig.model_fields
    # Without the file's name, compose says what is missing.
    assert compose["secrets"][secret]["file"].startswith("${API_KEY_FILE:?")


def test_the_front_of_compose_scale_yaml_and_its_scorers_find_each_other() -> None:
    compose = load("compose.scale.yaml")
    services = compose["services"]
    front = services["reward-server"]
    flags = [flag for flag in front["command"] if not flag.startswith("${")]
    # Without BIND, compose puts this flag in.
    config = parse_args([*flags, "--allow-anyone"])
    assert front["entrypoint"][-2].endswith('exec python -m reward_server "$$@"')
    assert config.scorers == len(SCORERS)
    wanted = json.loads(config.scorer_resources)
    (port,) = re.findall(r"ray start --head .*--port=(\d+)", front["entrypoint"][-2])
    assert config.ray_address == f"127.0.0.1:{port}"
    for name in SCORERS:
        scorer = services[name]
        assert scorer["entrypoint"][:2] == ["ray", "start"]
        options = dict(option.lstrip("-").split("=", 1) for option in scorer["command"])
        assert options["address"] == f"reward-server:{port}"
        # Room for one scorer in each.
        assert json.loads(options["resources"]) == wanted
        assert int(options["num-gpus"]) == 0
    for service in services.values():
        assert service["image"] == front["image"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        path = f"/run/secrets/{service['secrets'][0]}"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == path
        assert "ports" not in service  # Ray's are open to these services only
    (secret,) = compose["secrets"].values()
    assert secret["file"].startswith("${RAY_TOKEN_FILE:?")
