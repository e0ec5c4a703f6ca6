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
    adapt_flags,
    build_command,
    build_flags,
    build_preflight,
    build_python_path,
    choose_output,
    find_value,
    format_command,
)
from recipes.launch.plain_copy import make_plain_copy
from recipes.launch.prompts import plan_passes, write_prompts
from recipes.launch.resume import check_checkpoints
from recipes.launch.reward import adapt_to_reward
from recipes.launch.settings import LaunchError, Settings, describe_settings
from recipes.launch.training import explain_end, run_training

_MODELS_FILE = Path(__file__).with_name("models.toml")


def launch(algorithm: str, arguments: Sequence[str]) -> int:
    """Runs a script's command line.

    Returns:
        The exit code of the training, or after --help, a dry run or a failed preflight.
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
    is_dry_run = "--dry-run" in more_flags
    more_flags = [flag for flag in more_flags if flag != "--dry-run"]
    output, data = choose_output(algorithm, model, settings), Path(settings.data)
    num_passes, prompts_per_pass = plan_passes(data, settings.steps)
    flags = build_flags(algorithm, settings, output, num_passes)
    notes = adapt_flags(flags, more_flags)
    adapt_to_reward(algorithm, settings, flags, more_flags)
    command = build_command(settings, flags, more_flags)
    print(format_command(command), flush=True)
    sys.stderr.writelines(f"{algorithm}.sh: {note}\n" for note in notes)
    if is_dry_run:
        return 0
    roles = ("_actor",) if algorithm == "grpo" else ("_actor", "_critic")
    step = check_checkpoints(Path(find_value(flags, more_flags, "--ckpt.path")), roles)
    write_prompts(data, prompts_per_pass, flags["--data.prompt_dataset"])
    if settings.plain_copy:
        # A cluster's other nodes see OUTPUT, but not this machine's cache of the hub.
        copy = Path(flags["--actor.model_name_or_path"])
        make_plain_copy(settings.model_path, copy, link=not settings.ray_address)
    environ = {**os.environ, "PYTHONPATH": build_python_path()}
    preflight = subprocess.run(build_preflight(settings, flags, step), env=environ)  # noqa: S603
    if preflight.returncode:
        return preflight.returncode
    code = run_training(command)
    if explanation := explain_end(code, settings.reward_urls):
        sys.stderr.write(f"{algorithm}.sh: {explanation}\n")
    return code


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
