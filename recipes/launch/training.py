"""Runs the training command, and says more than OpenRLHF does if it fails for lack of rewards.

If a request for a reward fails five times, OpenRLHF 0.11.2 goes on without a reward and then ends
with "Could not infer dtype of NoneType".
"""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from types import FrameType
from urllib.parse import urlsplit

from recipes.launch.settings import LaunchError

_TIMEOUT_S = 5.0
_NO_REWARD = "Could not infer dtype of NoneType"
_BY_THE_USER = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def run_training(command: Sequence[str]) -> int:
    """Runs a command to its end. Signals to this process go to it.

    Returns:
        Its exit code; 128 + N if signal N ended it.
    Raises:
        LaunchError: the command cannot be started.
    """
    try:
        training = subprocess.Popen(command)  # noqa: S603
    except OSError as error:
        raise LaunchError(f"cannot start {command[0]}: {error.strerror}") from error

    def forward(number: int, _: FrameType | None) -> None:
        training.send_signal(number)

    # The terminal sends Ctrl-C to both. This process waits until the training has ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, forward)
    code = training.wait()
    return code if code >= 0 else 128 - code


def explain_end(code: int, reward_urls: str) -> str:
    """One line for a run that failed: whether the reward servers are there. Empty if the run
    succeeded, or if the user ended it.

    Args:
        code: of `run_training`.
        reward_urls: separated by commas.
    """
    if code in (0, *_BY_THE_USER):
        return ""
    end = f"the run ended with exit code {code}"
    problems = [found for url in reward_urls.split(",") if (found := _find_problem(url))]
    if problems:
        return (
            f"{end}. {'; '.join(problems)}. A rollout without a reward ends the run; OpenRLHF then "
            f"says '{_NO_REWARD}'. Mend the server; the same command continues from the last "
            "checkpoint"
        )
    return (
        f"{end}; the reward servers are ready. '{_NO_REWARD}' above means that a rollout got no "
        "reward in five tries: the server's log says why"
    )


def _find_problem(url: str) -> str:
    """What is wrong with a server; empty if it is ready. Names no key."""
    try:
        parts = urlsplit(url.strip())
        netloc = parts.netloc.rpartition("@")[2]
        root = f"{parts.scheme}://{netloc}{parts.path.removesuffix('/get_reward')}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(f"{root}/readyz", timeout=_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        return f"{root}/get_reward is not ready ({_read_status(error)})"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{root}/get_reward cannot be reached ({reason})"
    return ""


def _read_status(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"
