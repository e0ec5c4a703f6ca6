"""The commands of compose.scale.yaml and deploy/kuberay.yaml: Ray's own command line reads them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

if not os.environ.get("REAL_TEST"):
    pytest.importorskip("ray", reason="needs Ray: make scale-test")


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The options that `ray start` makes of its arguments. It refuses unknown ones."""
    from ray.scripts.scripts import start

    options: dict[str, Any] = start.make_context("ray start", list(arguments)).params
    return options


def read_compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.scale.yaml").read_text())["services"]
    return services


def test_the_head_and_scorers_of_compose() -> None:
    services = read_compose()
    script = services["reward-server"]["entrypoint"][-2]
    (command,) = re.findall(r"ray start (.*?);", script, re.DOTALL)
    head = parse(shlex.split(command))
    assert (head["head"], head["block"], head["port"]) == (True, True, 6379)
    assert (head["num_cpus"], head["num_gpus"], head["include_dashboard"]) == (0, 0, False)
    for name in ("scorer-1", "scorer-2"):
        _, _, *arguments = services[name]["entrypoint"]
        scorer = parse([*arguments, *services[name]["command"]])
        assert (scorer["head"], scorer["block"]) == (False, True)
        assert scorer["address"] == f"reward-server:{head['port']}"
        assert json.loads(scorer["resources"]) == {"scorer": 1}
        # Docker gives so much shared memory; Ray would be slow beyond it.
        assert scorer["object_store_memory"] < 2**30
        assert services[name]["shm_size"] == "1gb"


def test_the_front_of_kubernetes_is_a_node_without_scorers() -> None:
    text = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8")
    cluster, deployment, _ = yaml.safe_load_all(text)
    (node,) = (
        one for one in deployment["spec"]["template"]["spec"]["containers"] if one["name"] == "ray"
    )
    options = parse([*node["command"][2:], *node["args"]])
    assert (options["num_cpus"], options["num_gpus"], options["block"]) == (0, 0, True)
    # KubeRay makes flags of these.
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        parse([f"--{name}={value}" for name, value in group["rayStartParams"].items()])
