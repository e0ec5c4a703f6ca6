"""The image: its configuration, rewards, user, files, health check and stop."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.conftest import TestedServer
    from tests.image.conftest import RunningImage

ROOT = Path(__file__).parents[2]
MAX_CPU_IMAGE_BYTES = 2_000_000_000
NUM_PROBLEMS = 3


@pytest.fixture(scope="module")
def running(run_image: Callable[..., RunningImage]) -> RunningImage:
    """The image with its bundled model, ready."""
    running = run_image("--host", "0.0.0.0", "--allow-anyone")
    running.wait_for("/readyz", 200)
    return running


def test_the_configuration_is_what_the_readme_says(image: dict[str, Any]) -> None:
    assert image["Entrypoint"] == ["python", "-m", "reward_server"]
    assert not image["Cmd"]
    # A number, so that a container engine can check that it is not root.
    assert re.fullmatch(r"[1-9]\d*", image["User"])
    assert list(image["Volumes"]) == ["/cache"]
    assert list(image["ExposedPorts"]) == ["5000/tcp"]


def test_the_rewards_equal_those_of_this_checkout(
    running: RunningImage, server: TestedServer, bundled_tokenizer: Any
) -> None:
    for problem in islice(generate(seed=31, held_out=True), NUM_PROBLEMS):
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        responses = [f"{text}<|im_end|>" for text in (problem.concise, problem.wrong_end)]
        body = {
            "query": [prompt + response for response in responses],
            "prompts": [prompt] * 2,
            "labels": [str(problem.answer)] * 2,
        }
        status, answer = running.request("/get_reward", body)
        assert status == 200, answer
        assert answer["scores"] == [1.0, 0.0]
        assert answer["rewards"][0] > 1  # correct, and its SAR is positive
        expected = server.request("/get_reward", body)[1]
        assert answer["rewards"] == pytest.approx(expected["rewards"], abs=1e-3)


def test_a_candidate_runs_in_its_sandbox(running: RunningImage) -> None:
    code = "def reward(sample):\n    return 1.0 if sample['correct'] else 0.0\n"
    check = f'printf "{code}" > /tmp/right.py && python -m sar terms --check /tmp/right.py'
    assert running.run("sh", "-c", check) == 0


def test_no_process_is_root(running: RunningImage, image: dict[str, Any]) -> None:
    assert len(running.processes) > 1  # the graders are included
    for pid in running.processes:
        status = Path(f"/proc/{pid}/status").read_text()
        for ids in re.findall(r"^[UG]id:\s+(.*)$", status, re.MULTILINE):
            assert set(ids.split()) == {image["User"]}, status


def test_the_user_can_write_to_the_cache_but_not_to_the_code(running: RunningImage) -> None:
    assert running.run("sh", "-c", 'touch "$HF_HOME/model" && test -w "$XDG_CACHE_HOME"') == 0
    writable = "find /opt/venv -writable ! -type l | grep -q ."
    assert running.run("sh", "-c", writable) == 1


def normalize(name: str) -> str:
    """A package's name in the one form that all spellings of it have."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_is_one_of_the_lock_files(running: RunningImage, image_folder: Path) -> None:
    locks = [ROOT / "requirements" / name for name in ("server.lock", "torch-cpu.lock")]
    locked = {
        f"{normalize(name)}=={version}"
        for lock in locks
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE)
    }
    found = {
        f"{normalize(name)}=={version}"
        for path in image_folder.glob("opt/venv/lib/python3*/site-packages/*.dist-info")
        for name, version in [path.name.removesuffix(".dist-info").split("-")]
    }
    others = {package.partition("==")[0] for package in found - locked}
    assert others == {"pip", "sar-reward-server"}


def test_the_server_writes_nothing_outside_the_cache_and_tmp(
    running: RunningImage, image: dict[str, Any], image_folder: Path
) -> None:
    """compose.yaml makes the rest read-only."""
    assert running.request("/readyz")[0] == 200
    (installed,) = image_folder.glob("opt/venv/lib/python3*/site-packages/sar_reward_server-*")
    written = subprocess.run(
        ["find", str(image_folder), "-xdev", "-user", image["User"], "-newer", str(installed)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    folders = {Path(path).relative_to(image_folder).parts[0] for path in written}
    assert folders <= {"cache", "tmp"}, written


def test_a_server_is_healthy_while_its_model_loads(run_image: Callable[..., RunningImage]) -> None:
    """The README's command, with a model hub that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        loading = run_image(
            *("--model", "Qwen/Qwen3-1.7B-Base", "--host", "0.0.0.0", "--allow-anyone"),
            HF_ENDPOINT=f"http://127.0.0.1:{hub.getsockname()[1]}",
            HF_HUB_OFFLINE="0",
            HF_HUB_ETAG_TIMEOUT="60",
            HF_HUB_DOWNLOAD_TIMEOUT="60",
        )
        loading.wait_for("/readyz", 503)
        assert loading.is_healthy()
        assert loading.request("/readyz")[0] == 503
        loading.kill()
        assert not loading.is_healthy()  # the server has ended


def test_the_health_check_ignores_proxy_variables(
    run_image: Callable[..., RunningImage],
) -> None:
    proxied = run_image(http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    proxied.wait_for("/healthz", 200)
    assert proxied.is_healthy()


def test_the_image_has_no_sources_and_no_torch_for_gpus(
    image_bytes: int, running: RunningImage
) -> None:
    print(f"image: {image_bytes / 1e9:.2f} GB")
    assert image_bytes < MAX_CPU_IMAGE_BYTES
    assert running.run("sh", "-c", "test ! -e /source && test ! -e /wheels") == 0


def test_sigterm_stops_the_server_cleanly(run_image: Callable[..., RunningImage]) -> None:
    stopped = run_image()
    stopped.wait_for("/readyz", 200)
    processes = stopped.processes
    assert stopped.stop() == 0, stopped.log.read_text()
    # multiprocessing's two helper processes end when they notice that the server has ended.
    deadline = time.monotonic() + 5
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
