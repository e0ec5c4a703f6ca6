"""The option that rewrites disagreements.toml, and the fixture that downloads peers' sources.

pytest knows the option only when this folder is named: `pytest tests/sar/grading/suites`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Version and SHA-256 of each source distribution.
RELEASES = {
    "math-verify": ("0.9.0", "45ac6c61344ba056b9e99a660a4bc8d044ed408f730aed68c60435aa5eec4645"),
    "lm-eval": ("0.4.13", "f592269f21a5e173d7993ae01267f61fc84be393cee1f51779e3e104a70c967e"),
    "verl": ("0.9.1", "3e03d8816b2546b2c5580705671b8d0bb3f79b8364e7b5c56dbfc1245536ba22"),
}

ReadSource = Callable[[str, str], dict[str, str]]
"""`read_source("math-verify", "tests/")`: the text of each Python file under a folder, by path."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--refresh-disagreements",
        action="store_true",
        help="rewrite disagreements.toml: drop what is settled, add what is new without a reason",
    )


@pytest.fixture(scope="session")
def refresh(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--refresh-disagreements", default=False))


@pytest.fixture(scope="session")
def is_shown(request: pytest.FixtureRequest) -> bool:
    """Whether a person reads what the tests print (`-s`)."""
    return bool(request.config.getoption("capture") == "no")


@pytest.fixture(scope="session")
def read_source(request: pytest.FixtureRequest) -> ReadSource:
    """Reads a peer's source distribution, which is downloaded once and kept in pytest's cache."""

    def read(package: str, prefix: str) -> dict[str, str]:
        assert request.config.cache
        folder = request.config.cache.mkdir(f"sources-{package}")
        files = {}
        with tarfile.open(_download(package, folder)) as archive:
            for member in archive.getmembers():
                path = member.name.partition("/")[2]
                if path.startswith(prefix) and path.endswith(".py"):
                    file = archive.extractfile(member)
                    assert file
                    files[path] = file.read().decode()
        return files

    return read


def _download(package: str, folder: Path) -> Path:
    """Returns the source distribution's path. Without a network the test is skipped, but not in CI.

    pip checks the hash before it runs the package's build backend, which it needs for the metadata.
    """
    version, sha256 = RELEASES[package]
    path = folder / f"{package.replace('-', '_')}-{version}.tar.gz"
    if not path.exists():
        # In a folder of its own: another pytest worker may download the same file.
        with tempfile.TemporaryDirectory(dir=folder) as name:
            done = _run_pip(f"{package}=={version} --hash=sha256:{sha256}", Path(name))
            if done.returncode:
                message = f"cannot download {package} {version}: {done.stderr[-800:]}"
                if os.environ.get("CI") == "true":
                    pytest.fail(message)
                pytest.skip(message)
            (Path(name) / path.name).replace(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == sha256, f"{path} is not the file that was checked; delete it"
    return path


def _run_pip(requirement: str, folder: Path) -> subprocess.CompletedProcess[str]:
    wanted = folder / "requirements.txt"
    wanted.write_text(requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    options = ["--require-hashes", "--requirement", str(wanted), "--dest", str(folder)]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)
