"""How quickly `python -m sar view` shows a reward log of 1,000,000 rollouts, in headless Chromium.

The log is made up (`performance.alarms.synthetic`): its texts are short, so a real log of as many
rollouts is larger; the page reads texts of the rows that it shows only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.alarms.synthetic import ROLLOUTS_PER_STEP, make_run
from performance.report import Measurement

NUM_ROLLOUTS = 1_000_000
NUM_OPENED = 10
# Charts, points, rows and the alarms' strip are drawn.
_IS_DRAWN = (
    "document.querySelector('#charts .uplot') && document.querySelector('#points .uplot')"
    " && document.querySelector('#rows tr')"
)
_TIMEOUT_S = 3600.0
_MIB = 2**20


def measure(quick: bool) -> list[Measurement]:
    """Measures the index, and pages opened on the indexed log."""
    num_rollouts, num_opened = (10_000, 2) if quick else (NUM_ROLLOUTS, NUM_OPENED)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "rewards.jsonl"
        _write(log, num_rollouts)
        start_s = time.monotonic()
        with _view(log) as (url, _), _open_browser() as browser:
            page = browser.new_page()
            page.goto(url)
            _wait_until_all_are_shown(page, num_rollouts)
            index_s = time.monotonic() - start_s
        index_mib = sum(file.stat().st_size for file in log.parent.glob("*view.sqlite*")) / _MIB
        opened_s, heaps_mib = [], []
        # A new server: it has only opened the index.
        with _view(log) as (url, process), _open_browser() as browser:
            for _ in range(num_opened):
                page = browser.new_page()
                start_s = time.monotonic()
                page.goto(url)
                _wait(page, _IS_DRAWN)
                opened_s.append(time.monotonic() - start_s)
                _wait_until_all_are_shown(page, num_rollouts)
                heaps_mib.append(page.evaluate("performance.memory.usedJSHeapSize") / _MIB)
                page.close()
            server_mib = _read_peak_mib(process.pid)
    of = f"a log of {num_rollouts:,} rollouts"
    return [
        Measurement(f"{of}: seconds until the page is drawn", opened_s, "s", at_most=3.0),
        Measurement(f"{of}: peak memory of the server", [server_mib], "MiB", at_most=500.0),
        Measurement(f"{of}: heap of the page", heaps_mib, "MiB"),
        Measurement(f"{of}: seconds to index it, once", [index_s], "s"),
        Measurement(f"{of}: size of the index", [index_mib], "MiB"),
    ]


def _write(log: Path, num_rollouts: int) -> None:
    num_steps = -(-num_rollouts // ROLLOUTS_PER_STEP)
    lines = (decision.to_json() + "\n" for decision in make_run(17, num_steps=num_steps))
    with log.open("w") as file:
        file.writelines(islice(lines, num_rollouts))


@contextmanager
def _view(log: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs `python -m sar view`: the URL of its page, and the process."""
    command = [sys.executable, "-m", "sar", "view", str(log), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip(), process
        process.terminate()


@contextmanager
def _open_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without its sandbox, which root may not use; the page is our own.
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def _wait_until_all_are_shown(page: Any, num_rollouts: int) -> None:
    shown = f"{num_rollouts:,} rollouts"
    _wait(page, f"document.querySelector('#facts').textContent.startsWith('{shown}')")


def _wait(page: Any, condition: str) -> None:
    """Playwright's own `wait_for_function` needs what the page's security policy refuses."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while not page.evaluate(f"Boolean({condition})"):
        if time.monotonic() > deadline_s:
            raise TimeoutError(condition)
        time.sleep(0.02)


def _read_peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024
