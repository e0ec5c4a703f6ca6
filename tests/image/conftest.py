"""Builds and runs the image of the Dockerfile: `make image-test`, as root on Debian.

No container engine is needed: buildah's chroot isolation works without a daemon and namespaces.
debootstrap creates the base image from this machine's apt mirror. Inside the build, pip uses the
same package sources as on this machine. All files are in build/image.
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
    """Skips unless IMAGE_TEST is set. If it is set, fails if the image cannot be built here."""
    if not os.environ.get("IMAGE_TEST"):
        pytest.skip("builds an image, which takes minutes: make image-test")
    missing = [tool for tool in ("buildah", "debootstrap") if not shutil.which(tool)]
    if missing:
        pytest.fail(f"no {' and no '.join(missing)}: install the packages of .ci/apt.txt")
    if os.geteuid() != 0:
        pytest.fail("make image-test needs root, as debootstrap does")
    FOLDER.mkdir(parents=True, exist_ok=True)


def make_command(*arguments: str) -> list[str]:
    """A buildah command line whose storage is in this repository's build folder."""
    return [*find_storage(), *arguments]


@functools.cache
def find_storage() -> tuple[str, ...]:
    """The buildah command with its storage driver: overlay if it works here, else the slow vfs."""
    for driver in ("overlay", "vfs"):
        folder = FOLDER / driver
        folders = ("--root", str(folder / "storage"), "--runroot", str(folder / "run"))
        found = ("buildah", *folders, "--storage-driver", driver)
        if subprocess.run([*found, "info"], check=False, capture_output=True).returncode == 0:
            return found
    pytest.fail("buildah info fails: neither overlay nor vfs storage works here")


def run_buildah(*arguments: str) -> str:
    """Runs buildah and returns its standard output. Its standard error is shown."""
    return subprocess.run(
        make_command(*arguments),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=create_environment(),
    ).stdout.strip()


def create_environment() -> dict[str, str]:
    return {**os.environ, "BUILDAH_ISOLATION": "chroot"}


@pytest.fixture(scope="session")
def base_image(image_tools: None) -> str:
    """A minimal Debian with Python. It is kept for the next run."""
    if run_buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return BASE
    container = run_buildah("from", "scratch")
    try:
        folder = run_buildah("mount", container)
        # Faster without a sync after each file: after a crash the base is simply created again.
        dpkg = Path(folder) / "etc" / "dpkg" / "dpkg.cfg.d"
        dpkg.mkdir(parents=True)
        (dpkg / "no-sync").write_text("force-unsafe-io\n")
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        with (FOLDER / "debootstrap.log").open("w") as log:
            subprocess.run(
                ["debootstrap", *options, SUITE, folder, find_debian_mirror()],
                check=True,
                stdout=log,
                stderr=log,
            )
        run_buildah("commit", "--quiet", container, BASE)
    finally:
        run_buildah("rm", container)
    return BASE


def find_debian_mirror() -> str:
    """The mirror from which this machine's apt gets the suite."""
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
    """Builds the Dockerfile; gives the image's configuration as a container engine reads it."""
    pip = read_pip_settings()
    config_file = FOLDER / "pip.conf"
    config_file.touch(mode=0o600)  # an index URL may contain a password
    config_file.write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in pip.items()))
    # A machine with its own package sources has torch there too.
    torch_index = pip.get("index-url", PYPI) if any(s in pip for s in SOURCES) else PYTORCH_CPU
    volumes = [f"{config_file}:/etc/pip.conf:ro", *(f"{p}:{p}:ro" for p in find_local_paths(pip))]
    # The output is shown, because it says where a build failed.
    subprocess.run(
        make_command(
            "build",
            "--format=docker",  # the OCI format has no health check
            "--pull-never",
            f"--tag={IMAGE}",
            f"--build-arg=BASE_IMAGE={base_image}",
            "--build-arg=TORCH=cpu",
            f"--build-arg=TORCH_INDEX={torch_index}",
            *(f"--volume={volume}" for volume in volumes),
            str(ROOT),
        ),
        check=True,
        env=create_environment(),
    )
    yield json.loads(run_buildah("inspect", "--type=image", IMAGE))["Docker"]["config"]
    run_buildah("rmi", "--force", IMAGE)


def read_pip_settings() -> dict[str, str]:
    """pip's settings on this machine about package sources. Environment variables win."""
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


def find_local_paths(pip: dict[str, str]) -> set[Path]:
    """Files and folders in pip's settings, which the build needs."""
    found = set()
    for key, value in pip.items():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if not path.is_absolute() or not path.exists():
                continue
            # The pages of an index may link to packages in the folder beside it.
            beside = key.endswith("index-url") and path.parent != path.parent.parent
            found.add(path.parent if beside else path)
    return found


@pytest.fixture(scope="session")
def container(image: dict[str, Any]) -> Iterator[str]:
    """A container of the image, with nothing running in it."""
    name = run_buildah("from", "--pull-never", IMAGE)
    yield name
    run_buildah("rm", name)


@pytest.fixture(scope="session")
def image_folder(container: str) -> Path:
    """The container's files: those of the image, and what its processes wrote."""
    return Path(run_buildah("mount", container))


@pytest.fixture(scope="session")
def image_bytes(image_folder: Path) -> int:
    """Size of the image's files, including the base image."""
    command = ["du", "-sb", "-x", str(image_folder)]
    used = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(used.stdout.split()[0])


class RunningImage:
    """Runs the image's entry point as the image's user, like `docker run IMAGE ARGUMENTS`."""

    def __init__(
        self, image: dict[str, Any], container: str, log: Path, *arguments: str, **env: str
    ) -> None:
        self.port = find_free_port()
        self.log = log
        self._container = container
        self._env = {"REWARD_SERVER_PORT": str(self.port), "HF_HUB_OFFLINE": "1", **env}
        self._entrypoint = [*image["Entrypoint"], *arguments]
        self._health_check = image["Healthcheck"]["Test"]
        with log.open("wb") as output:
            self._buildah = subprocess.Popen(
                self._inside(self._entrypoint),
                stdout=output,
                stderr=output,
                env=create_environment(),
            )

    def _inside(self, arguments: list[str]) -> list[str]:
        env = [f"--env={name}={value}" for name, value in self._env.items()]
        return make_command("run", *env, self._container, "--", *arguments)

    def run(self, *arguments: str) -> int:
        """Runs another command in the container as the same user; returns its exit code."""
        return subprocess.run(
            self._inside(list(arguments)), check=False, env=create_environment()
        ).returncode

    def is_healthy(self) -> bool:
        """Runs the image's health check, as a container engine does."""
        kind, *arguments = self._health_check
        assert kind == "CMD", self._health_check
        return self.run(*arguments) == 0

    def request(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Sends one request; returns status and JSON, or status 0 if the port is closed."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, data), timeout=600) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return 0, None
            raise

    def wait_for(self, path: str, status: int) -> None:
        """Waits for a route to answer with a status; fails if the server ends or takes too long."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._buildah.poll() is None:
            if self.request(path)[0] == status:
                return
            time.sleep(0.1)
        raise AssertionError(f"{path} did not answer {status}:\n{self.log.read_text()}")

    @property
    def processes(self) -> list[int]:
        """Process ids of the server, which comes first, and its children; not those of buildah."""
        server = next(pid for pid in list_descendants(self._buildah.pid) if self._is_server(pid))
        return [server, *list_descendants(server)]

    def _is_server(self, pid: int) -> bool:
        program, *arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        return [Path(program).name, *arguments] == self._entrypoint

    def stop(self) -> int:
        """Sends SIGTERM to the server, like `docker stop`, and returns the exit code.

        The signal does not go to buildah, which would kill the server.
        """
        os.kill(self.processes[0], signal.SIGTERM)
        return self._buildah.wait(_STOP_S)

    def kill(self) -> None:
        """Kills the processes below buildah, if any. A killed buildah would leave its mounts."""
        for pid in reversed(list_descendants(self._buildah.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._buildah.wait(_STOP_S)


def list_descendants(pid: int) -> list[int]:
    """Process ids of all children and their children, parents first."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in children for child in file.read_text().split()]
    return [*found, *(below for child in found for below in list_descendants(child))]


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def run_image(
    image: dict[str, Any], container: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RunningImage]]:
    """Starts the image's entry point: `run_image("--grader-workers", "2", HF_ENDPOINT="...")`."""
    started: list[RunningImage] = []

    def start(*arguments: str, **env: str) -> RunningImage:
        log = tmp_path_factory.mktemp("image") / "log"
        started.append(RunningImage(image, container, log, *arguments, **env))
        return started[-1]

    yield start
    for running in started:
        running.kill()
