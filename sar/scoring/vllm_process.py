"""Runs vLLM in a process of its own, and starts it again if that process ends.

The server holds requests while vLLM starts again: OpenRLHF's client bridges four seconds without a
server, and a start takes longer. Memory is free as soon as the process has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from sar.errors import MAX_MESSAGE_CHARS, first_line
from sar.scoring.base import ScoringPath, TokenSequence
from sar.scoring.vllm_prompt_logprobs import refuse_certainty
from sar.scoring.vllm_scorer import EngineFacts

# Of the memory that two engines may take together.
_MAX_SHARE_OF_TWO = 0.9
# How long the process may take to end after its connection was closed.
_END_S = 5.0

_log = logging.getLogger(__name__)


class VllmNotStarted(RuntimeError):
    """vLLM does not start. The message says why."""


class VllmProcess:
    """A `LogprobScorer` over a `VllmScorer` in another process. Not safe to share between threads.

    vLLM's process ends with this object: when it is collected, closed, or this process ends.
    """

    scoring_path = ScoringPath("vllm")

    def __init__(
        self,
        path_or_id: str,
        *,
        architecture: Mapping[str, str],
        has_changed: Callable[[], bool] = lambda: False,
        on_lost: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        """Starts vLLM and waits until it is ready.

        Args:
            architecture: the same for all checkpoints of one model.
            has_changed: whether the files are others than those that were loaded. vLLM is then not
                started again, because it would score with other weights.
            on_lost: called once if vLLM has ended and does not start again.
            options: for `VllmScorer.from_pretrained`.
        Raises:
            VllmNotStarted: vLLM does not start.
        """
        self.architecture = dict(architecture)
        self._arguments = {"path_or_id": path_or_id, **options}
        self._has_changed = has_changed
        self._on_lost = on_lost
        self._is_lost = False
        self._child = _Child(self._arguments)
        self._facts = self._child.facts

    @property
    def max_context_tokens(self) -> int | None:
        """Maximum length of a prompt for vLLM."""
        return self._facts.max_context_tokens

    @property
    def description(self) -> str:
        """One line for logs: class, dtype, context, devices."""
        return self._facts.description

    def make_room_check(self) -> Callable[..., bool]:
        """Returns a function that tells whether memory has room for another vLLM, or for as many as
        its argument says: whether twice as many shares of this size leave a tenth of it free."""
        share = self._facts.memory_share
        return lambda num_copies=1: 2 * num_copies * share <= _MAX_SHARE_OF_TWO

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """See `LogprobScorer`. Starts vLLM first if its process has ended.

        Raises:
            RuntimeError: vLLM failed, ended, or does not start again.
            ValueError: a sequence asks for self-certainty.
        """
        if not sequences:
            return []
        refuse_certainty(sequences)
        if self._child.has_ended:
            self._start_again()
        ids = [(s.context_ids, s.response_ids) for s in sequences]
        logprobs: list[npt.NDArray[np.float32]] = self._child.ask("score", ids)
        return logprobs

    def close(self) -> None:
        """Ends vLLM's process."""
        self._child.end()

    def _start_again(self) -> None:
        path = self._arguments["path_or_id"]
        if self._is_lost:
            raise RuntimeError("vLLM ended and did not start again")
        _log.error("vLLM's process %s: it is started again from %s", self._child.how_ended, path)
        self._child.end()  # its workers may be alive
        try:
            if self._has_changed():
                raise RuntimeError(f"the files of {path} have changed since they were loaded")
            # With the context of the first start: what was cut to fit it fits again.
            max_model_len = self._facts.max_model_len
            self._child = _Child({**self._arguments, "max_model_len": max_model_len})
        except Exception as error:
            self._is_lost = True
            reason = first_line(error, MAX_MESSAGE_CHARS)
            _log.error("vLLM does not start again: %s", reason)
            self._on_lost()
            raise RuntimeError(f"vLLM ended and does not start again: {reason}") from error
        _log.info("vLLM's process is started again")


class _Child:
    """A process of `sar.scoring.vllm_child` with a loaded model."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """
        Raises:
            VllmNotStarted: vLLM does not start.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "sar.scoring.vllm_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C at a terminal goes to all processes of the terminal's session.
                start_new_session=True,
            )
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self.end = weakref.finalize(self, _end, self._process, self._connection)
        try:
            self.facts: EngineFacts = self.ask("load", dict(arguments))
        except BaseException as error:
            self.end()
            if isinstance(error, RuntimeError):
                raise VllmNotStarted(str(error)) from error
            raise

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def how_ended(self) -> str:
        """Such as "was ended by signal 9", once it has ended."""
        code = self._process.poll()
        return f"was ended by signal {-code}" if code and code < 0 else f"ended with {code}"

    def ask(self, kind: str, content: object) -> Any:
        """Sends a message and returns what the answer carries.

        Raises:
            RuntimeError: vLLM failed, or its process ended.
        """
        try:
            self._connection.send((kind, content))
            answer, value = self._connection.recv()
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            self.end()
            raise RuntimeError(f"vLLM's process {self.how_ended}") from error
        if answer == "broken":
            self.end()
        if answer in ("broken", "error"):
            raise RuntimeError(value)
        return value


def _end(process: subprocess.Popen[bytes], connection: Connection[Any, Any]) -> None:
    """Ends a process and vLLM's workers, which are in its process group."""
    connection.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
