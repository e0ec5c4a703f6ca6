"""constraints.txt fits every extra, and the lock files of the image fit constraints.txt.

uv resolves from metadata, and downloads no wheel. Without a network these tests are skipped, but
not in CI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "requirements"
UV = Path(sys.executable).with_name("uv")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
IN_THE_IMAGE = ("server.lock", "torch-cuda.lock", "scale.lock")
PLATFORM = ("--python-platform", "x86_64-unknown-linux-gnu", "--python-version", "3.11")
# Those that are installed together: to train, `train` and `eval`.
TOGETHER = [[extra] for extra in EXTRAS] + [["train", "eval"]]


def run(command: list[str], **env: str) -> None:
    """Runs uv. Fails if the versions contradict each other, skips if the index is not reached."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    assert "No solution found" not in done.stderr, done.stderr
    message = f"{' '.join(command)}: {done.stderr[-800:]}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def read_pins(path: Path) -> dict[str, str]:
    """The version of each package in a file of requirements, by the package's normalized name."""
    pins = re.findall(r"^([\w.-]+)==([\w.+!]+)", path.read_text(), re.MULTILINE)
    assert pins
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


@pytest.mark.slow
@pytest.mark.parametrize("extras", TOGETHER, ids=",".join)
def test_every_extra_can_be_installed_with_the_constraints(
    extras: list[str], tmp_path: Path
) -> None:
    wanted = [f"--extra={extra}" for extra in extras]
    files = ["--constraints", "constraints.txt", "--output-file", str(tmp_path / "resolved.txt")]
    run([str(UV), "pip", "compile", "--quiet", "pyproject.toml", *wanted, *PLATFORM, *files])


@pytest.mark.slow
def test_the_lock_files_are_up_to_date(tmp_path: Path) -> None:
    for name in IN_THE_IMAGE:  # versions that no constraint names are taken from these
        shutil.copy(LOCKS / name, tmp_path)
    run([str(ROOT / ".ci" / "lock"), str(tmp_path)], UV=str(UV))
    for name in IN_THE_IMAGE:
        assert (tmp_path / name).read_text() == (LOCKS / name).read_text(), f"{name}: run make lock"


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.14"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_files_have_a_wheel_of_each_package(
    machine: str, python: str, tmp_path: Path
) -> None:
    platform = [f"--python-platform={machine}-manylinux_2_28", f"--python-version={python}"]
    files = [f"--requirements={LOCKS / name}" for name in IN_THE_IMAGE]
    as_in_the_image = ["--require-hashes", "--only-binary=:all:", "--no-deps"]
    install = [str(UV), "pip", "install", "--dry-run", f"--target={tmp_path / 'none'}"]
    run([*install, *as_in_the_image, *platform, *files])


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.lock")), ids=lambda path: path.name)
def test_a_lock_file_has_the_versions_of_the_constraints(path: Path) -> None:
    pins = read_pins(path)
    constraints = read_pins(ROOT / "constraints.txt")
    # A build of torch adds its name to the version: 2.13.0+cpu.
    found = {name: version.partition("+")[0] for name, version in pins.items()}
    assert found == {name: constraints.get(name, version) for name, version in found.items()}


def test_the_lock_files_have_hashes_and_name_no_index_of_their_own() -> None:
    for path in LOCKS.glob("*.lock"):
        lines = [
            line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
        ]
        options = [line for line in lines if line.startswith("-")]
        assert set(options) <= {"--extra-index-url ${TORCH_INDEX}"}, path
        # Each requirement is followed by its hashes.
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if "==" in line:
                assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}(?: \\)?", following), line


def test_ray_comes_beside_the_packages_of_the_server_and_changes_none() -> None:
    added = read_pins(LOCKS / "scale.lock")
    (wanted,) = EXTRAS["scale"]
    assert wanted.replace("[default]", "") == f"ray=={added['ray']}"
    installed = read_pins(LOCKS / "server.lock") | read_pins(LOCKS / "torch-cuda.lock")
    assert set(added) & set(installed) == set()


def test_an_image_without_a_gpu_has_no_package_for_cuda() -> None:
    for_cuda = ("cuda-", "nvidia-", "triton")
    for file in ("server.lock", "scale.lock"):
        assert not [name for name in read_pins(LOCKS / file) if name.startswith(for_cuda)]
    assert [name for name in read_pins(LOCKS / "torch-cuda.lock") if name.startswith(for_cuda)]
