"""python -m eval run --output DIR [--model PATH_OR_ID] [--benchmarks all|a,b] [options]

Writes the files of `eval.records` into DIR. Started again with the same DIR, it goes on where
it stopped: samples that have a verdict are not asked again, errors are. Exit code: 0, 1 where
samples are errors, 2 for a mistake in the flags or the data, 130 where it was stopped.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from eval.backends.base import Backend
from eval.benchmarks import BENCHMARKS, LoadedBenchmark, load_problems
from eval.errors import UserError
from eval.records import (
    RUN_FILE,
    SUMMARY_FILE,
    RunDescription,
    iter_records,
    records_path,
    write_json,
)
from eval.run.backend import load_backend
from eval.run.config import RunConfig, parse_args
from eval.run.output import (
    Done,
    changed_versions,
    earlier_run,
    locked,
    read_done,
    record_writers,
    refuse_other_prompts,
    refuse_other_run,
    versions,
)
from eval.run.prompts import PromptStyle, prompt_style
from eval.run.summary_table import summary_table


@dataclass(frozen=True)
class _Part:
    """A benchmark of the run, and what is done of it."""

    loaded: LoadedBenchmark
    done: Done

    @property
    def name(self) -> str:
        return self.loaded.benchmark.name


def main(argv: Sequence[str]) -> int:
    config = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # On a CPU, generation shares its cores with graders, and OpenMP threads that spin while they
    # wait would take the cores from them. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return run(config)
    except UserError as error:
        print(f"python -m eval run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def run(config: RunConfig) -> int:
    """Runs what is left of a run, and summarises it.

    Raises:
        UserError: the flags, the data or the model cannot be used, in one line.
    """
    style = prompt_style(config.prompt_style, config.system_prompt, config.instruction)
    with locked(config.output):
        loaded = [
            load_problems(BENCHMARKS[name], config.data_dir, config.limit)
            for name in config.benchmarks.split(",")
        ]
        earlier = earlier_run(config.output, [part.benchmark.name for part in loaded])
        if earlier:
            refuse_other_run(
                config.output,
                earlier,
                flags=config.to_json(),
                system_prompt=style.system_prompt,
                instruction=style.instruction,
                benchmarks={part.benchmark.name: part.description for part in loaded},
            )
        parts = [_Part(part, read_done(config.output, part.benchmark.name)) for part in loaded]
        num_samples = config.n * sum(len(part.problems) for part in loaded)
        if num_samples > sum(len(part.done.keys) for part in parts):
            _ask(config, style, parts, earlier)
        return _summarise(config, [part.name for part in parts], num_samples)


def _ask(
    config: RunConfig, style: PromptStyle, parts: Sequence[_Part], earlier: RunDescription | None
) -> None:
    """Makes the samples that are missing."""
    from eval.run.grading import Grader
    from eval.run.loop import ask_and_grade, requests_of
    from eval.run.progress import Progress

    backend = load_backend(config)
    try:
        _describe(config, style, parts, backend, earlier)
        with (
            closing(Grader(config.grader_workers, config.grader_timeout)) as grader,
            record_writers(config.output, [part.name for part in parts]) as writers,
            closing(
                Progress(
                    total=config.n * sum(len(part.loaded.problems) for part in parts),
                    num_done=sum(len(part.done.keys) for part in parts),
                    num_correct=sum(part.done.num_correct for part in parts),
                )
            ) as progress,
        ):

            def record(task: Any, made: Any) -> None:
                writers[task.benchmark.name].write(made)
                progress.count(task.benchmark.name, made)

            seed = config.seed if config.temperature > 0 else None
            requests = requests_of(_tasks(parts, config.n), backend, style, seed)
            ask_and_grade(requests, backend, grader, record, config.grader_workers)
    finally:
        backend.close()


def _describe(
    config: RunConfig,
    style: PromptStyle,
    parts: Sequence[_Part],
    backend: Backend,
    earlier: RunDescription | None,
) -> None:
    """Writes run.json, or sees that the one that is there describes this run."""
    template = backend.description.chat_template
    now = RunDescription(
        model=config.model,
        backend=config.backend,
        flags=config.to_json(),
        versions=versions(),
        chat_template={
            "text": template,
            "sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        },
        prompt_style=config.prompt_style,
        system_prompt=style.system_prompt,
        instruction=style.instruction,
        generation={
            name: getattr(config, name)
            for name in ("temperature", "top_p", "max_tokens", "n", "seed")
        },
        benchmarks={part.name: part.loaded.description for part in parts},
        prompts_fingerprint=_prompts_fingerprint(style, parts, backend),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model_details=backend.description.details,
    )
    if earlier is None:
        write_json(config.output / RUN_FILE, now.to_json())
        return
    refuse_other_prompts(config.output, earlier, now)
    if changed := changed_versions(earlier, now):
        print(
            f"warning: not the versions the run was started with: {', '.join(changed)}",
            file=sys.stderr,
        )


def _prompts_fingerprint(style: PromptStyle, parts: Sequence[_Part], backend: Backend) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for problem in part.loaded.problems:
            user_turn = style.user_turn(problem.question, part.loaded.benchmark.joiner)
            prompt = backend.prompt(style.system_prompt, user_turn)
            digest.update(prompt.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _tasks(parts: Iterable[_Part], n: int) -> Iterator[Any]:
    """The samples that are missing; all of one problem together, so that caches of prompts help."""
    from eval.run.loop import Task

    for part in parts:
        for problem in part.loaded.problems:
            for sample in range(n):
                if (problem.id, sample) not in part.done.keys:
                    yield Task(part.loaded.benchmark, problem, sample)


def _summarise(config: RunConfig, benchmarks: Sequence[str], num_samples: int) -> int:
    """Writes summary.json and prints it; the exit code."""
    from eval.statistics.metrics import summarize

    summary = summarize(
        {name: iter_records(records_path(config.output, name)) for name in benchmarks}
    )
    write_json(config.output / SUMMARY_FILE, summary)
    print(summary_table(summary))
    print(f"\n{config.output / SUMMARY_FILE}")
    num_errors = sum(b["num_errors"] for b in summary["benchmarks"].values())
    if num_errors:
        print(
            f"{num_errors} of {num_samples} samples are errors and not in these figures; "
            "the same command asks them again",
            file=sys.stderr,
        )
        return 1
    return 0
