"""Prints OpenRLHF's command, checks the reward servers with preflight.py and starts the training.

    recipes/grpo.sh MODEL [--dry-run] [flags of openrlhf.cli.train_ppo_ray ...]
    recipes/ppo.sh  MODEL [--dry-run] [flags of openrlhf.cli.train_ppo_ray ...]

--dry-run only prints the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

# The scripts run this folder by its path: that works without installing the repository, and
# leaves PYTHONPATH as the training is to have it.
sys.path.insert(0, str(Path(__file__).absolute().parents[2]))

from recipes.launch.command import (
    build_command,
    build_flags,
    build_preflight,
    build_python_path,
    format_command,
)
from recipes.launch.settings import LaunchError, Settings, describe_settings

_MODELS_FILE = Path(__file__).with_name("models.toml")


def launch(algorithm: str, arguments: Sequence[str]) -> int:
    """Runs a script's command line. The training replaces this process.

    Returns:
        The exit code after --help, a dry run or a failed preflight.
    Raises:
        LaunchError: the run cannot start.
    """
    models = tomllib.loads(_MODELS_FILE.read_text(encoding="utf-8"))
    known = ", ".join(models)
    if not arguments:
        raise LaunchError(f"which model? One of {known}: {algorithm}.sh MODEL [--dry-run] [flags]")
    model, *more_flags = arguments
    if model in ("-h", "--help"):
        print(f"{__doc__}\nModels: {known}\n\nSettings (environment variables):")
        print(describe_settings())
        return 0
    if model not in models:
        raise LaunchError(f"no settings for the model '{model}'; there are {known}")
    settings = Settings.read(os.environ, models[model])
    flags = build_flags(algorithm, model, settings)
    command = build_command(settings, flags, [f for f in more_flags if f != "--dry-run"])
    print(format_command(command), flush=True)
    if "--dry-run" in more_flags:
        return 0
    environ = {**os.environ, "PYTHONPATH": build_python_path()}
    preflight = subprocess.run(build_preflight(settings, flags), env=environ)  # noqa: S603
    if preflight.returncode:
        return preflight.returncode
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        raise LaunchError(f"cannot start {command[0]}: {error.strerror}") from error


def main(algorithm: str, *arguments: str) -> int:
    """Exit code; 1 and one line on standard error if the run cannot start."""
    try:
        return launch(algorithm, arguments)
    except LaunchError as error:
        sys.stderr.write(f"{algorithm}.sh: {error}\n")
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    sys.exit(main(*sys.argv[1:]))
