"""python -m performance.dashboard_picture RUN [--output docs/dashboard.png]

Takes the picture of the dashboard in the documentation: the page over the reward log of a run of
the training demo, in headless Chromium. RUN is such a run's folder, as build/train-demo/show_work-0
of `make train-demo ARMS=hacked`, or a reward log.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sar.log_check import check_log
from sar.rescore import RescoreError, find_log_files
from sar.view.dashboard import Dashboard
from sar.view.http_server import ViewServer
from sar.view.log_alarms import LogAlarms
from sar.view.log_index import LogIndex

DEFAULT_OUTPUT = Path("docs/dashboard.png")
_WIDTH, _HEIGHT = 1400, 1340
# Opened in the picture, if it rings.
_ALARM = "term_over_correctness"
_SETTLE_MS = 1000


class PictureError(Exception):
    """The picture cannot be taken. The message is one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for the user's mistake."""
    arguments = _make_parser().parse_args(argv)
    try:
        take_picture(arguments.run, arguments.output)
    except (PictureError, RescoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def take_picture(run: Path, output: Path) -> None:
    """Writes the picture of a run's dashboard.

    Raises:
        RescoreError: it is no reward log.
        PictureError: there is no Chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise PictureError("no chromium; the Debian packages in .ci/apt.txt have it")
    log = run / "rewards" if (run / "rewards").is_dir() else run
    check_log(log, find_log_files([log]))
    with closing(LogIndex(log)) as index:
        index.update()
        alarms = LogAlarms(index.list_files)
        alarms.update()
        with ViewServer(Dashboard(index, alarms.list), "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            _photograph(chromium, server.url, output)
            server.shutdown()


def _photograph(chromium: str, url: str, output: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without its sandbox, which root may not use; the page is our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
        page.goto(url)
        page.wait_for_selector("#rows tr")
        page.wait_for_selector("#points .uplot")
        alarm = page.locator(f".alarm-on[data-name={_ALARM}] summary")
        if alarm.count():
            alarm.click()
            page.wait_for_selector("#window:not([hidden])")
        page.mouse.move(0, 0)  # off the charts, which follow the pointer
        page.wait_for_timeout(_SETTLE_MS)
        page.screenshot(path=output)
        browser.close()
    _reduce(output)


def _reduce(picture: Path) -> None:
    """Keeps 128 colours, which makes the file a third as large."""
    from PIL import Image

    with Image.open(picture) as image:
        image.convert("RGB").quantize(128).save(picture, optimize=True)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m performance.dashboard_picture",
        description="Takes the documentation's picture of the dashboard.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a demo's run, or a reward log")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="PNG file (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
