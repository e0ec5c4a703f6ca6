"""Starts a reward server in a child process, waits until it is ready, and stops it.

The demo, the training demo, the speed measurements and the tests all start their servers here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Self

from reward_server.config import ENV_PREFIX

_POLL_S = 0.05
# Time for a process to write the stacks of its threads.
_STACKS_S = 2.0


class ServerDidNotStart(Exception):
    """The server ended or took too long before it was ready. The message contains its log."""


class ServerProcess:
    """A running `python -m reward_server` on a free port; as a context manager, stopped on leaving.

    It inherits this process's environment without the `REWARD_SERVER_*` variables, which may be
    meant for another server on this machine.
    """

    def __init__(
        self,
        *arguments: str,
        log: Path,
        program: Sequence[str] = ("-m", "reward_server"),
        environ: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Starts the server and waits until it listens; `wait_until_ready` waits for its model.

        Args:
            arguments: flags of the server, besides `--port` and `--url-file`.
            log: file for its standard output and error. (A pipe that nobody reads would fill up
                and block the server.)
            program: arguments for Python, in place of `-m reward_server`.
            environ: environment variables to add.
            timeout_s: seconds until starting counts as failed. Applies to `wait_until_ready` too.
            is_cancelled: called while waiting; if it returns True, the server is killed.
        Raises:
            ServerDidNotStart: it ended, timed out, or was cancelled.
        """
        self.log = log
        self._timeout_s = timeout_s
        self._is_cancelled = is_cancelled
        url_file = log.with_suffix(".url")
        url_file.unlink(missing_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
        with log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, *program, "--port", "0", "--url-file", str(url_file), *arguments],
                stdout=output,
                stderr=output,
                env={**inherited, **(environ or {})},
            )
        self._wait_for(url_file.is_file, "listen")
        self.url = url_file.read_text(encoding="utf-8").strip()
        """Such as http://127.0.0.1:5000."""

    def wait_until_ready(self) -> None:
        """Waits until the model is loaded: `/readyz` answers 200.

        Raises:
            ServerDidNotStart: it ended, timed out, or was cancelled.
        """
        self._wait_for(self._is_ready, "become ready")

    def stop(self, timeout_s: float = 90.0) -> int:
        """Sends SIGTERM, and SIGKILL after `timeout_s`. Returns the exit code. Before SIGKILL, the
        server's log gets the stack of each thread, which shows what it waits for."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_s)
        self.process.send_signal(signal.SIGUSR1)
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(_STACKS_S)
        self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/readyz", timeout=self._timeout_s) as response:
                return bool(response.status == HTTPStatus.OK)
        except OSError:  # 503: the model is loading; or the process ended, and `_wait_for` raises
            return False

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + self._timeout_s
        while not condition():
            is_over = self.process.poll() is not None or time.monotonic() > deadline_s
            if is_over or self._is_cancelled():
                self.process.kill()
                self.process.wait()
                log = self.log.read_text(encoding="utf-8", errors="replace")
                raise ServerDidNotStart(f"the server did not {what}; its log {self.log}:\n{log}")
            time.sleep(_POLL_S)
