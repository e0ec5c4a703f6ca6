"""The process in which the server's vLLM runs: python -m sar.scoring.vllm_child DESCRIPTOR

`sar.scoring.vllm_process` starts it in a session of its own, which Ctrl-C at the server's terminal
does not reach. It ends when the connection to the server closes, however the server ended, and
takes vLLM's worker processes along.

A message is a tuple: its kind, and what it carries.

    received   load (arguments of `VllmScorer.from_pretrained`), then score (list of token ids)
    sent       ready (`EngineFacts`); then logprobs (list of arrays), or error (text); at any time
               broken (text), after which this process ends
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from sar.errors import MAX_MESSAGE_CHARS, one_line
from sar.scoring.base import TokenSequence
from sar.scoring.vllm_import import import_vllm
from sar.scoring.vllm_scorer import VllmScorer

# How long vLLM may take to end by itself once the server has gone.
_END_S = 3.0


def main(descriptor: int) -> None:
    """Loads a model and scores with it until the connection closes, or vLLM breaks."""
    connection: Connection[Any, Any] = Connection(descriptor)
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    _, arguments = received.get()
    try:
        import_vllm()
    except ValueError as error:  # it is not installed: no traceback is needed
        connection.send(("broken", str(error)))
        return
    try:
        scorer = VllmScorer.from_pretrained(**arguments)
    # Libraries raise anything for a broken model, also what is no Exception.
    except BaseException as error:  # noqa: BLE001
        _send_failure(connection, error)
        return
    connection.send(("ready", scorer.facts))
    while message := received.get():
        sequences = [TokenSequence(*ids) for ids in message[1]]
        reply: tuple[str, object]
        try:
            reply = ("logprobs", scorer.response_logprobs(sequences))
        except FloatingPointError as error:  # the weights' fault: vLLM itself is as before
            reply = ("error", one_line(error, MAX_MESSAGE_CHARS))
        except Exception as error:  # noqa: BLE001
            if scorer.is_refusal(error):
                reply = ("error", one_line(error, MAX_MESSAGE_CHARS))
            else:  # vLLM may hold half-finished requests, so it is not used again
                _send_failure(connection, error)
                return
        connection.send(reply)


def _receive(connection: Connection[Any, Any], received: SimpleQueue[Any]) -> None:
    """Passes messages on. Ends this process and vLLM's workers once the connection closes."""
    try:
        while True:
            received.put(connection.recv())
    except (EOFError, OSError):
        received.put(None)
        time.sleep(_END_S)
        _end()


def _send_failure(connection: Connection[Any, Any], error: BaseException) -> None:
    traceback.print_exception(error)
    connection.send(("broken", one_line(error, MAX_MESSAGE_CHARS)))


def _end() -> None:
    """Ends this process and vLLM's workers, and deletes what they leave."""
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    # Each vLLM leaves a file, and a server that follows a policy starts many.
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="vllm_")
    main(int(sys.argv[1]))
    gc.collect()  # vLLM tidies up when it is collected
    _end()
