"""The dashboard, the settings of Prometheus and Grafana, and the compose files fit the server."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from reward_server.command_line import parse_args
from reward_server.config import ServerConfig

if TYPE_CHECKING:
    from tests.conftest import TestedServer

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "reward_server.json"
PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
QUERIES = [
    pytest.param(panel["title"], target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel.get("targets", [])
]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def exported(server: TestedServer) -> dict[str, set[str]]:
    """The names of the series at /metrics, by metric type."""
    status, text = server.request("/metrics")
    assert status == 200
    names: dict[str, set[str]] = {"counter": set(), "gauge": set(), "histogram": set()}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        if kind == "histogram":
            names[kind] |= {f"{name}_bucket", f"{name}_count"}
            # A histogram whose observations may be negative has no sum.
            names[kind] |= {f"{name}_sum"} & set(re.findall(r"^\w+", text, re.MULTILINE))
        elif kind in names:
            names[kind].add(name)
    return names


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_every_query_uses_series_that_the_server_exports(
    title: str, query: str, exported: dict[str, set[str]]
) -> None:
    asked = set(re.findall(r"reward_server_\w+", query))
    assert asked, title
    assert asked <= set().union(*exported.values()), title
    # A gauge has no meaningful rate, and a counter is useful only as a rate.
    rated = set(re.findall(r"(?:rate|increase)\((reward_server_\w+)", query))
    assert rated == asked - exported["gauge"], title


def test_panels_have_titles_and_do_not_overlap() -> None:
    assert all(panel["title"] for panel in PANELS)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart, (one, other)


def test_prometheus_scrapes_the_server_of_the_compose_file() -> None:
    services = load(ROOT / "compose.yaml")["services"]
    (job,) = load(MONITORING / "prometheus.yml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert any(mapping.endswith(f":{port}") for mapping in services[name]["ports"])
    assert f"EXPOSE {port}\n" in (ROOT / "Dockerfile").read_text()


def test_grafana_finds_its_data_and_its_dashboard() -> None:
    services = load(ROOT / "compose.yaml")["services"]
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = load(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    name, port = source["url"].removeprefix("http://").split(":")
    assert any(mapping.endswith(f":{port}") for mapping in services[name]["ports"])
    (provider,) = load(provisioning / "dashboards" / "provider.yaml")["providers"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    assert mounts["./monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"
    folder = provider["options"]["path"]
    assert mounts["./monitoring/grafana/dashboards"] == folder
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{DASHBOARD.name}"


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_mounts_and_build_arguments_of_the_compose_files_exist(name: str) -> None:
    services = load(ROOT / name)["services"]
    for service in services.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
    arguments = services["reward-server"]["build"]["args"]
    assert set(arguments) <= set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.M))


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_opens_the_port_to_others_only_with_a_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (published,) = load(ROOT / "compose.yaml")["services"]["reward-server"]["ports"]
    command = load(ROOT / name)["services"]["reward-server"]["command"]

    def start(**environ: str) -> ServerConfig:
        return parse_args([_interpolate(part, {"MODEL": "a/b", **environ}) for part in command])

    assert _interpolate(published, {}) == "127.0.0.1:5000:5000"
    assert start().host == "0.0.0.0"
    for address in ("0.0.0.0", "10.0.0.5"):
        with pytest.raises(SystemExit):
            start(BIND=address)
    monkeypatch.setenv("REWARD_SERVER_API_KEY", "a-key-of-some-length")
    assert start(BIND="10.0.0.5").host == "0.0.0.0"


def _interpolate(text: str, environ: dict[str, str]) -> str:
    """Replaces `${NAME:-default}`, `${NAME:+replacement}` and `${NAME:?error}` as Compose does."""

    def replace(match: re.Match[str]) -> str:
        name, kind, word = match.groups()
        value = environ.get(name, "")
        return (word if value else "") if kind == ":+" else value or word

    return re.sub(r"\$\{(\w+)(:[-+?])([^}]*)\}", replace, text)
