"""The image of the Dockerfile, built and run for real: `make image-test`, as root on Debian.

No container engine is needed: buildah's chroot isolation does with neither daemon nor namespaces.
The base image is made by debootstrap from the mirror that this machine's apt uses, and pip inside
of the build asks the package sources that pip outside of it asks. All of it stays in build/image.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "image"
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv")
BASE = f"localhost/base:{SUITE}-{'-'.join(PACKAGES)}"
IMAGE = "localhost/sar-reward-server:test"
PYPI = "https://pypi.org/simple"
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"
SOURCES = ("index-url", "extra-index-url", "find-links")
_START_S = 60.0
_STOP_S = 90.0


@pytest.fixture(scope="session", autouse=True)
def image_tools() -> None:
    """Skips where nobody asked for an image; fails where it was asked for and cannot be had."""
    if not os.environ.get("IMAGE_TEST"):
        pytest.skip("builds an image, which takes minutes: make image-test")
    missing = [tool for tool in ("buildah", "debootstrap") if not shutil.which(tool)]
    if missing:
        pytest.fail(f"no {' and no '.join(missing)}: install the packages of .ci/apt.txt")
    if os.geteuid() != 0:
        pytest.fail("make image-test needs root, as debootstrap does")
    FOLDER.mkdir(parents=True, exist_ok=True)


def command(*arguments: str) -> list[str]:
    """A buildah command line whose storage is in this repository's build folder."""
    return [*storage(), *arguments]


@functools.cache
def storage() -> tuple[str, ...]:
    """buildah with layers laid over each other where the system can, else as slow copies."""
    for driver in ("overlay", "vfs"):
        folder = FOLDER / driver
        folders = ("--root", str(folder / "storage"), "--runroot", str(folder / "run"))
        found = ("buildah", *folders, "--storage-driver", driver)
        if subprocess.run([*found, "info"], check=False, capture_output=True).returncode == 0:
            return found
    pytest.fail("buildah info fails: neither overlay nor vfs storage works here")


def buildah(*arguments: str) -> str:
    """What buildah prints to stdout; its stderr goes to the test's."""
    return subprocess.run(
        command(*arguments), check=True, stdout=subprocess.PIPE, text=True, env=environment()
    ).stdout.strip()


def environment() -> dict[str, str]:
    return {**os.environ, "BUILDAH_ISOLATION": "chroot"}


@pytest.fixture(scope="session")
def base_image(image_tools: None) -> str:
    """A minimal Debian with Python; the one thing that is kept for the next run."""
    if buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return BASE
    container = buildah("from", "scratch")
    try:
        folder = buildah("mount", container)
        # A base that a crash would lose is made anew: no waiting for the disk after each file.
        dpkg = Path(folder) / "etc" / "dpkg" / "dpkg.cfg.d"
        dpkg.mkdir(parents=True)
        (dpkg / "no-sync").write_text("force-unsafe-io\n")
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        with (FOLDER / "debootstrap.log").open("w") as log:
            subprocess.run(
                ["debootstrap", *options, SUITE, folder, debian_mirror()],
                check=True,
                stdout=log,
                stderr=log,
            )
        buildah("commit", "--quiet", container, BASE)
    finally:
        buildah("rm", container)
    return BASE


def debian_mirror() -> str:
    """Where this machine's apt gets the suite from."""
    lines = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    mirrors = [line.split()[2] for line in lines if line.startswith(f"{SUITE} main ")]
    return mirrors[0] if mirrors else "http://deb.debian.org/debian"


@pytest.fixture(scope="session")
def image(base_image: str) -> Iterator[dict[str, Any]]:
    """The configuration of the image that the Dockerfile gives, as a container engine reads it."""
    pip = pip_configuration()
    config_file = FOLDER / "pip.conf"
    config_file.touch(mode=0o600)  # an index's address may hold a password
    config_file.write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in pip.items()))
    # A machine with package sources of its own has its torch there too.
    torch_index = pip.get("index-url", PYPI) if any(s in pip for s in SOURCES) else PYTORCH_CPU
    volumes = [f"{config_file}:/etc/pip.conf:ro", *(f"{p}:{p}:ro" for p in local_paths(pip))]
    # Not captured: what a build prints says where it failed.
    subprocess.run(
        command(
            "build",
            "--format=docker",  # the other format has no health check
            "--pull-never",
            f"--tag={IMAGE}",
            f"--build-arg=BASE_IMAGE={base_image}",
            f"--build-arg=TORCH_INDEX={torch_index}",
            *(f"--volume={volume}" for volume in volumes),
            str(ROOT),
        ),
        check=True,
        env=environment(),
    )
    yield json.loads(buildah("inspect", "--type=image", IMAGE))["Docker"]["config"]
    buildah("rmi", "--force", IMAGE)


def pip_configuration() -> dict[str, str]:
    """This machine's settings of pip that say where packages come from; the environment wins."""
    wanted = (*SOURCES, "no-index", "trusted-host", "cert", "proxy")
    lines = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    found: dict[str, str] = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        if (key := name.rsplit(".", 1)[-1]) in wanted:
            found[key] = " ".join(ast.literal_eval(value).split())
    return found


def local_paths(pip: dict[str, str]) -> set[Path]:
    """Files and folders that pip's settings name and a build has to see."""
    found = set()
    for key, value in pip.items():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if not path.is_absolute() or not path.exists():
                continue
            # The pages of an index link to packages that may lie beside it.
            beside = key.endswith("index-url") and path.parent != path.parent.parent
            found.add(path.parent if beside else path)
    return found


@pytest.fixture(scope="session")
def container(image: dict[str, Any]) -> Iterator[str]:
    """A container of the image in which nothing runs yet."""
    name = buildah("from", "--pull-never", IMAGE)
    yield name
    buildah("rm", name)


@pytest.fixture(scope="session")
def image_bytes(container: str) -> int:
    """Size of the image's files, the base's included."""
    folder = buildah("mount", container)
    used = subprocess.run(["du", "-sb", "-x", folder], check=True, capture_output=True, text=True)
    return int(used.stdout.split()[0])


class RunningImage:
    """The image's entry point, run by the image's user, as `docker run IMAGE ARGUMENTS` does."""

    def __init__(
        self, image: dict[str, Any], container: str, log: Path, *arguments: str, **env: str
    ) -> None:
        self.port = free_port()
        self.log = log
        self._container = container
        self._env = {"REWARD_SERVER_PORT": str(self.port), "HF_HUB_OFFLINE": "1", **env}
        self._entrypoint = [*image["Entrypoint"], *arguments]
        self._health_check = image["Healthcheck"]["Test"]
        with log.open("wb") as output:
            self._buildah = subprocess.Popen(
                self._inside(self._entrypoint), stdout=output, stderr=output, env=environment()
            )

    def _inside(self, arguments: list[str]) -> list[str]:
        env = [f"--env={name}={value}" for name, value in self._env.items()]
        return command("run", *env, self._container, "--", *arguments)

    def run(self, *arguments: str) -> int:
        """The exit code of another command in the same container, by the same user."""
        return subprocess.run(
            self._inside(list(arguments)), check=False, env=environment()
        ).returncode

    def is_healthy(self) -> bool:
        """What a container engine learns from the image's own health check."""
        kind, *arguments = self._health_check
        assert kind == "CMD", self._health_check
        return self.run(*arguments) == 0

    def request(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one request; status 0 where nobody listens yet."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, data), timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return 0, None
            raise

    def wait_for(self, path: str, status: int) -> None:
        """Until a route answers with a status; fails when the server ends or it takes too long."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._buildah.poll() is None:
            if self.request(path)[0] == status:
                return
            time.sleep(0.1)
        raise AssertionError(f"{path} did not answer {status}:\n{self.log.read_text()}")

    @property
    def processes(self) -> list[int]:
        """The server, first, and its children; not what buildah runs around them."""
        server = next(pid for pid in descendants(self._buildah.pid) if self._is_server(pid))
        return [server, *descendants(server)]

    def _is_server(self, pid: int) -> bool:
        program, *arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        return [Path(program).name, *arguments] == self._entrypoint

    def stop(self) -> int:
        """The exit code after SIGTERM to the server, which is what `docker stop` sends it.

        Not to buildah: it would kill what it runs.
        """
        os.kill(self.processes[0], signal.SIGTERM)
        return self._buildah.wait(_STOP_S)

    def kill(self) -> None:
        """Ends it if it still runs. From below: killed itself, buildah would leave its mounts."""
        for pid in reversed(descendants(self._buildah.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._buildah.wait(_STOP_S)


def descendants(pid: int) -> list[int]:
    """Processes below a process, parents first."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in children for child in file.read_text().split()]
    return [*found, *(below for child in found for below in descendants(child))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def run_image(
    image: dict[str, Any], container: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RunningImage]]:
    """Starts the image's entry point: `run_image("--host", "0.0.0.0", HF_ENDPOINT="...")`."""
    started: list[RunningImage] = []

    def start(*arguments: str, **env: str) -> RunningImage:
        log = tmp_path_factory.mktemp("image") / "log"
        started.append(RunningImage(image, container, log, *arguments, **env))
        return started[-1]

    yield start
    for running in started:
        running.kill()
