"""Shows a reward log in the browser: charts, tables and every rollout.

python -m sar view LOG
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sar.arguments import CommandParser, number
from sar.errors import MAX_MESSAGE_CHARS, one_line, shorten

if TYPE_CHECKING:
    from sar.view.log_alarms import LogAlarms
    from sar.view.log_index import LogIndex

_LOOK_EVERY_S = 2.0


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 2 for the user's mistake."""
    arguments = _make_parser().parse_args(argv)
    from sar.log_check import check_log
    from sar.rescore import RescoreError, find_log_files
    from sar.view.dashboard import Dashboard
    from sar.view.http_server import ViewServer
    from sar.view.log_alarms import LogAlarms
    from sar.view.log_index import LogIndex

    try:
        # Before an index is written beside them.
        check_log(arguments.log, find_log_files([arguments.log]))
        index = LogIndex(arguments.log)
        alarms = LogAlarms(index.list_files)
        dashboard = Dashboard(index, alarms.list)
        with closing(index), ViewServer(dashboard, arguments.host, arguments.port) as server:
            threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
            sys.stdout.write(f"{server.url}\n")
            sys.stdout.flush()
            _follow(index, alarms)
    except (RescoreError, OSError, OverflowError) as error:
        sys.stderr.write(f"error: {shorten(str(error), MAX_MESSAGE_CHARS)}\n")
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sar view",
        description=(
            "Shows a reward log in the browser. The log comes from `python -m reward_server "
            "--reward-log`, and may still grow. An index beside it makes later starts quick."
        ),
    )
    parser.add_argument("log", metavar="LOG", type=Path, help="folder of a log, or one file of it")
    parser.add_argument(
        "--port",
        type=number(0, 65535, int),
        default=5001,
        help="port to listen on; 0: any that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others can then read all rollouts (default: %(default)s)",
    )
    return parser


def _follow(index: LogIndex, alarms: LogAlarms) -> None:
    """Indexes the log, and then what it grows by, until the process is interrupted."""
    from tqdm import tqdm

    total = sum(file.stat().st_size for file in index.list_files())
    done = int(index.progress * total)
    with tqdm(
        total=total, initial=done, unit="B", unit_scale=True, disable=None, desc="indexing"
    ) as bar:
        index.update(bar.update)
    waiting = threading.Event()
    has_failed = False
    while True:
        try:
            alarms.update()
            index.update()
        except Exception as error:  # noqa: BLE001  a full disk, say: what is indexed stays
            if not has_failed:
                sys.stderr.write(f"warning: the page does not follow the log: {one_line(error)}\n")
            has_failed = True
        else:
            has_failed = False
        waiting.wait(_LOOK_EVERY_S)
