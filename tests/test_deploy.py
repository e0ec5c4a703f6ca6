"""deploy/kuberay.yaml: the schemas of Kubernetes and KubeRay, and that its parts fit together.

Deployment, Service and the templates of pods are checked against Kubernetes' own schemas. KubeRay's
schema has a megabyte: `RAY_CLUSTER` has the fields that our file uses. If the whole schema lies in
the shared data (ray.io_rayclusters.yaml of KubeRay 1.6.2), the file is checked against it too.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from reward_server.command_line import parse_args
from reward_server.config import ENV_PREFIX, ServerConfig

ROOT = Path(__file__).parents[1]
KUBERNETES = "1.31"
# The image's user, and what KubeRay calls the service of a head.
USER = 1000
HEAD = "{}-head-svc:6379"

POD = {"type": "object"}  # checked as a PodTemplate of Kubernetes
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}


def only(required: list[str], **properties: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


RAY_CLUSTER = only(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata={"type": "object"},
    spec=only(
        ["headGroupSpec"],
        rayVersion={"type": "string"},
        authOptions=only([], mode={"enum": ["disabled", "token"]}, secretName={"type": "string"}),
        headGroupSpec=only(["template"], rayStartParams=TEXTS, template=POD),
        workerGroupSpecs={
            "type": "array",
            "items": only(
                ["groupName", "minReplicas", "maxReplicas", "template"],
                groupName={"type": "string"},
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                rayStartParams=TEXTS,
                template=POD,
            ),
        },
    ),
)


def read() -> dict[str, Any]:
    """The file's objects by their kind."""
    text = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8")
    objects = [json.loads(json.dumps(one)) for one in yaml.safe_load_all(text)]
    by_kind = {one["kind"]: one for one in objects}
    assert len(by_kind) == len(objects)
    return by_kind


def list_pods() -> list[Any]:
    objects = read()
    cluster = objects["RayCluster"]["spec"]
    pods = [cluster["headGroupSpec"]["template"], objects["Deployment"]["spec"]["template"]]
    return [*pods, *(group["template"] for group in cluster["workerGroupSpecs"])]


def find_container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in pod["spec"]["containers"] if one["name"] == name)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def front() -> dict[str, Any]:
    """The front's container."""
    return find_container(read()["Deployment"]["spec"]["template"], "front")


@pytest.fixture
def config(front: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServerConfig:
    """The front's settings, as the server reads them. The file of keys lies elsewhere."""
    keys = tmp_path / "api_keys"
    keys.write_text("a-key-of-a-test\n")
    (name,) = (one["name"] for one in front["env"] if one["name"].startswith(ENV_PREFIX))
    monkeypatch.setenv(name, str(keys))
    return parse_args(front["args"])


def make_strict(schema: Any) -> Any:
    """A custom resource's schema that refuses unknown fields, as the API server does with
    `kubectl apply --validate=strict`."""
    if isinstance(schema, list):
        return [make_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: make_strict(one) for name, one in schema.items()}
    if made.get("type") == "object" and "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def test_kubernetes_own_kinds_fit_their_schemas() -> None:
    objects = read()
    assert set(objects) == {"RayCluster", "Deployment", "Service"}
    for kind in ("Deployment", "Service"):
        kubernetes_validate.validate(objects[kind], KUBERNETES, strict=True)
    for template in list_pods():
        pod = {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "x"},
            "template": template,
        }
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_an_unknown_field_of_a_pod_is_found() -> None:
    pod = read()["Deployment"]
    pod["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_ray_cluster_fits_the_fields_that_we_know() -> None:
    cluster = read()["RayCluster"]
    jsonschema.validate(cluster, RAY_CLUSTER)
    cluster["spec"]["workerGroupSpecs"][0]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="'replica' was unexpected"):
        jsonschema.validate(cluster, RAY_CLUSTER)


def test_the_ray_cluster_fits_the_whole_schema_of_kuberay(data_folder: Path) -> None:
    file = data_folder / "ray.io_rayclusters.yaml"
    if not file.is_file():
        pytest.skip(f"no {file}: KubeRay's schema of a RayCluster")
    definition = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
    schema = make_strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {}  # Kubernetes' own
    jsonschema.validate(read()["RayCluster"], schema)


def test_the_versions_of_ray_agree() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras["scale"] == [f"ray[default]=={read()['RayCluster']['spec']['rayVersion']}"]


def test_every_container_runs_one_image_and_is_confined() -> None:
    containers = [one for pod in list_pods() for one in pod["spec"]["containers"]]
    assert len(containers) == 4
    assert len({one["image"] for one in containers}) == 1
    for one in containers:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in one["resources"]["limits"]
        # What the root file system does not take: Ray's files and the hub's cache.
        assert {"/tmp", "/cache"} <= {mount["mountPath"] for mount in one["volumeMounts"]}
    for pod in list_pods():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["fsGroup"] == USER
        assert pod["spec"]["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert f"ARG UID={USER}\n" in (ROOT / "Dockerfile").read_text()


def test_the_service_finds_the_front_when_it_is_ready(
    front: dict[str, Any], config: ServerConfig
) -> None:
    objects = read()
    deployment, service = objects["Deployment"]["spec"], objects["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    (port,), (published,) = front["ports"], service["ports"]
    assert published["targetPort"] == port["name"]
    assert published["port"] == port["containerPort"] == config.port
    assert front["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    assert front["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    grace_s = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > config.request_timeout
    # Groups meet in one front, and a second one would wait for the GPUs of the first.
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}


def test_keys_and_the_token_come_from_one_secret() -> None:
    objects = read()
    secret = objects["RayCluster"]["spec"]["authOptions"]["secretName"]
    assert objects["RayCluster"]["spec"]["authOptions"]["mode"] == "token"
    pod = objects["Deployment"]["spec"]["template"]
    (keys,) = (one for one in pod["spec"]["volumes"] if one["name"] == "keys")
    assert keys["secret"]["secretName"] == secret
    for container in pod["spec"]["containers"]:
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "keys")
        assert mount["readOnly"] is True
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert environment["RAY_AUTH_MODE"] == "token"
        # KubeRay reads the token from this entry of the secret.
        assert environment["RAY_AUTH_TOKEN_PATH"] == f"{mount['mountPath']}/auth_token"
        if container["name"] == "front":
            assert environment[f"{ENV_PREFIX}API_KEY_FILE"] == f"{mount['mountPath']}/api_keys"
    text = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"kubectl create secret generic ([\w-]+) ", text)
    assert command == secret
    assert {"api_keys", "auth_token"} <= set(re.findall(r"--from-\w+=(\w+)=", text))


def test_there_is_a_gpu_for_each_scorer_and_the_front_is_a_node_without_one(
    front: dict[str, Any], config: ServerConfig
) -> None:
    objects = read()
    cluster = objects["RayCluster"]
    (group,) = cluster["spec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    gpus = int(worker["resources"]["limits"]["nvidia.com/gpu"])
    # Without the flag, the front asks Ray whether it has GPUs: nodes may join later.
    assert config.scorer_gpus is not None
    assert group["replicas"] * gpus == config.scorers * config.scorer_gpus
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    address = HEAD.format(cluster["metadata"]["name"])
    assert config.ray_address == address
    node = find_container(objects["Deployment"]["spec"]["template"], "ray")
    assert node["command"][:2] == ["ray", "start"]
    assert {f"--address={address}", "--num-cpus=0", "--num-gpus=0"} <= set(node["args"])
    # The front finds the node in /tmp/ray.
    assert node["volumeMounts"] == front["volumeMounts"]
