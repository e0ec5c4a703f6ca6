"""Screening runs of a model of one's own, by TRL's GRPOTrainer."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from recipes.reward_search.own.gpus import Places
from recipes.reward_search.own.policy import Policy
from recipes.reward_search.screening import Trial, find_evaluation
from recipes.reward_search.settings import SearchSettings
from recipes.training_run.processes import Commands, train_and_evaluate
from recipes.training_run.run import Arm, Run
from recipes.training_run.trainer import TrainerSettings

_SAVE_EVERY_STEPS = 5
_SERVER_TIMEOUT_S = 1800.0  # to load a model of many gigabytes from a slow disk


class OwnScreener:
    """Trains and evaluates the policy."""

    def __init__(
        self, folder: Path, settings: SearchSettings, policy: Policy, places: Places
    ) -> None:
        """
        Args:
            folder: of the search.
        """
        self._folder = folder
        self._settings = settings
        self._policy = policy
        self._places = places

    def prepare(self, stop: threading.Event) -> None:
        """Nothing: the policy is trained as it is."""

    def run(self, trial: Trial, stop: threading.Event) -> None:
        evaluation = find_evaluation(self._folder, trial.arm.name, trial.seed)
        run = Run(trial.arm, trial.seed, evaluation.parent, self._policy.folder)
        with self._places.take() as environ:
            train_and_evaluate(run, self.make_commands(trial.arm, environ), stop)
        shutil.rmtree(run.final)  # a search would fill the disk with trained models

    def make_commands(self, arm: Arm, environ: Mapping[str, str]) -> Commands:
        """The commands of one run.

        Args:
            environ: of the place where it runs.
        """
        own, settings = self._policy.settings, self._settings
        # One argument, as the text may be empty or start with a dash.
        system_prompt = f"--system-prompt={self._policy.system_prompt}"
        dtype = ("--dtype", "bfloat16") if self._places.on_gpu else ()
        folder = ("--data-dir", own.benchmark_dir) if own.benchmark_dir else ()
        return Commands(
            train=(
                *("-m", "recipes.reward_search.own.train", *arm.server_flags),
                *("--train-data", own.train_data),
                *("--memory-share", f"{self._places.trainer_memory_share:g}"),
                *("--settings", json.dumps(asdict(self._make_trainer_settings()))),
            ),
            server=(system_prompt, *dtype),
            evaluate=(
                *("--benchmarks", own.benchmarks, *folder, *dtype, system_prompt),
                *("--limit", str(settings.eval_problems), "--n", str(settings.eval_samples)),
                *("--temperature", "1", "--max-tokens", str(own.max_tokens)),
                *("--grader-workers", "2"),
            ),
            environ=environ,
            server_timeout_s=_SERVER_TIMEOUT_S,
        )

    def _make_trainer_settings(self) -> TrainerSettings:
        own = self._policy.settings
        return TrainerSettings(
            num_steps=self._settings.steps,
            prompts_per_step=own.prompts_per_step,
            rollouts_per_prompt=own.n_samples,
            learning_rate=self._settings.learning_rate,
            max_response_tokens=own.max_tokens,
            save_every_steps=_SAVE_EVERY_STEPS,
            micro_batch_size=own.rollouts_per_pass,
            on_gpu=self._places.on_gpu,
            gradient_checkpointing=True,
        )
