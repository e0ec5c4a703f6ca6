"""Starts a reward server in a child process, waits until it is ready, and stops it.

The demo, the training demo, the speed measurements and the tests all start their servers here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from reward_server.config import ENV_PREFIX

_POLL_S = 0.05


class ServerDidNotStart(Exception):
    """The server ended, or took too long, before it was ready; the message holds its log."""


class ServerProcess:
    """A running `python -m reward_server` on a free port. A context manager: leaving it stops it.

    Its environment is this process's without the `REWARD_SERVER_*` variables, so that settings of
    a real server on the same machine do not reach it.
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
        """Returns once the server listens; `wait_until_ready` waits for its model.

        Args:
            arguments: flags of the server, besides `--port` and `--url-file`.
            log: file that takes its standard output and error. A pipe that nobody reads would
                fill up and hang it.
            program: what Python runs instead of `-m reward_server`.
            environ: variables to set for it.
            timeout_s: how long starting may take, and `wait_until_ready` too.
            is_cancelled: asked while waiting; True gives up.
        Raises:
            ServerDidNotStart: it ended, the time was over, or `is_cancelled` said so.
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
        """Its address, such as http://127.0.0.1:5000."""

    def wait_until_ready(self) -> None:
        """Waits until `/readyz` answers 200: the model is loaded and rewards are given.

        Raises:
            ServerDidNotStart: as in `__init__`.
        """
        self._wait_for(self._is_ready, "become ready")

    def stop(self, timeout_s: float = 90.0) -> int:
        """Sends SIGTERM and waits; kills it after `timeout_s`. Returns the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/readyz", timeout=self._timeout_s) as response:
                return bool(response.status == HTTPStatus.OK)
        except urllib.error.HTTPError as error:
            error.close()
            return False  # 503 while the model is loading
        except OSError:
            return False  # the process has ended, which `_wait_for` notices

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
