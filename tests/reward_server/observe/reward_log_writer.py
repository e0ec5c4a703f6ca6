"""Fills a reward log until it is killed: reward_log_writer.py FOLDER DECISION yes|no

With "yes" it kills itself in the middle of writing line 61.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from reward_server.observe.reward_log import RewardLog
from sar.decision import Decision


def main(folder: str, line: str, dies_in_write: str) -> None:
    one = Decision.from_json(line)
    log = RewardLog(Path(folder), max_file_bytes=10_000_000)
    write = os.write
    num_writes = itertools.count()  # one for each line

    def write_and_die(fd: int, data: Any) -> int:
        if next(num_writes) < 60:
            return write(fd, data)
        write(fd, data[:60_000])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    if dies_in_write == "yes":
        os.write = write_and_die
    for number in itertools.count():
        while log.num_queued >= 100:
            pass
        log.record([replace(one, request_id=f"r{number}")])


if __name__ == "__main__":
    main(*sys.argv[1:])
