"""python -m eval run --output DIR [--model MODEL] [--benchmarks all|a,b] [options]

Writes the files that `eval.records` describes into DIR. The same command resumes an interrupted
run: it asks again for samples that are missing or failed, and keeps those that were graded.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from eval.backends.base import Backend
from eval.benchmarks import BENCHMARKS, LoadedBenchmark, load_problems
from eval.errors import UserError
from eval.records import (
    RUN_FILE,
    SUMMARY_FILE,
    Record,
    RunDescription,
    iter_records,
    records_path,
    write_json,
)
from eval.run.backend import load_backend
from eval.run.config import RunConfig, parse_args
from eval.run.loop import Task, ask_and_grade, make_requests
from eval.run.output import (
    GradedSamples,
    collect_versions,
    find_changed_versions,
    lock_run,
    open_writers,
    read_earlier_run,
    read_graded,
    refuse_other_prompts,
    refuse_other_run,
)
from eval.run.progress import Progress
from eval.run.prompts import PromptStyle, choose_prompt_style
from eval.run.summary_table import format_summary
from eval.statistics.metrics import summarize
from sar.errors import MAX_MESSAGE_CHARS, shorten
from sar.grading.processes.pool import GraderPool


@dataclass(frozen=True)
class _Part:
    """One benchmark of the run, and which of its samples are graded."""

    loaded: LoadedBenchmark
    graded: GradedSamples

    @property
    def name(self) -> str:
        return self.loaded.benchmark.name


def main(argv: Sequence[str]) -> int:
    """Exit code: 0; 1 if some samples failed; 2 for wrong flags or data; 130 if interrupted."""
    config = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # On a CPU, generation shares its cores with the graders. OpenMP threads that spin while they
    # wait would take those cores. torch reads this variable when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return run(config)
    except UserError as error:
        message = shorten(str(error), MAX_MESSAGE_CHARS)
        print(f"python -m eval run: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes this run", file=sys.stderr)
        return 130


def run(config: RunConfig) -> int:
    """Generates and grades the samples that are missing, then writes and prints the summary.

    Returns:
        The exit code: 0, or 1 if some samples failed.
    Raises:
        UserError: the flags, the data or the model cannot be used.
    """
    style = choose_prompt_style(config.prompt_style, config.system_prompt, config.instruction)
    with lock_run(config.output):
        names = config.benchmarks.split(",")
        loaded = [load_problems(BENCHMARKS[b], config.data_dir, config.limit) for b in names]
        earlier = read_earlier_run(config.output, names)
        if earlier:
            descriptions = {b: one.description for b, one in zip(names, loaded, strict=True)}
            refuse_other_run(config, earlier, style, descriptions)
        parts = [_Part(one, read_graded(config.output, one.benchmark.name)) for one in loaded]
        num_samples = config.n * sum(len(part.loaded.problems) for part in parts)
        if num_samples > sum(len(part.graded.keys) for part in parts):
            _make_missing_samples(config, style, parts, earlier)
        return _summarize(config, names, num_samples)


def _make_missing_samples(
    config: RunConfig, style: PromptStyle, parts: Sequence[_Part], earlier: RunDescription | None
) -> None:
    backend = load_backend(config)
    try:
        _describe(config, style, parts, backend, earlier)
        with (
            closing(GraderPool(config.grader_workers, config.grader_timeout)) as graders,
            open_writers(config.output, [part.name for part in parts]) as writers,
            closing(
                Progress(
                    total=config.n * sum(len(part.loaded.problems) for part in parts),
                    num_done=sum(len(part.graded.keys) for part in parts),
                    num_correct=sum(part.graded.num_correct for part in parts),
                )
            ) as progress,
        ):

            def write(task: Task, record: Record) -> None:
                writers[task.benchmark.name].write(record)
                progress.count(task.benchmark.name, record)

            seed = config.seed if config.temperature > 0 else None
            requests = make_requests(_iter_missing(parts, config.n), backend, style, seed)
            ask_and_grade(requests, backend, graders, write, config.grader_workers)
    finally:
        backend.close()


def _describe(
    config: RunConfig,
    style: PromptStyle,
    parts: Sequence[_Part],
    backend: Backend,
    earlier: RunDescription | None,
) -> None:
    """Writes run.json. If it exists, checks that it describes this run.

    Raises:
        UserError: the run in the folder used other prompts.
    """
    template = backend.description.chat_template
    now = RunDescription(
        model=config.model,
        backend=config.backend,
        flags=config.to_json(),
        versions=collect_versions(),
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
        prompts_fingerprint=_compute_prompts_fingerprint(style, parts, backend),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model_details=backend.description.details,
    )
    if earlier is None:
        write_json(config.output / RUN_FILE, asdict(now))
        return
    refuse_other_prompts(config.output, earlier, now)
    if changed := find_changed_versions(earlier, now):
        print(
            f"warning: versions changed since this run was started: {', '.join(changed)}",
            file=sys.stderr,
        )


def _compute_prompts_fingerprint(
    style: PromptStyle, parts: Sequence[_Part], backend: Backend
) -> str:
    digest = hashlib.sha256()
    for part in parts:
        tasks = (Task(part.loaded.benchmark, problem, 0) for problem in part.loaded.problems)
        for request in make_requests(tasks, backend, style, seed=None):
            digest.update(request.prompt.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _iter_missing(parts: Iterable[_Part], n: int) -> Iterator[Task]:
    """The missing samples. Those of one problem come together, so that prompt caches help."""
    for part in parts:
        for problem in part.loaded.problems:
            for sample in range(n):
                if (problem.id, sample) not in part.graded.keys:
                    yield Task(part.loaded.benchmark, problem, sample)


def _summarize(config: RunConfig, benchmarks: Sequence[str], num_samples: int) -> int:
    """Writes summary.json and prints it; returns the exit code."""
    summary = summarize(
        {name: iter_records(records_path(config.output, name)) for name in benchmarks}
    )
    write_json(config.output / SUMMARY_FILE, summary)
    print(format_summary(summary))
    print(f"\n{config.output / SUMMARY_FILE}")
    num_errors = sum(b["num_errors"] for b in summary["benchmarks"].values())
    if num_errors:
        print(
            f"{num_errors} of {num_samples} samples are errors and not in these figures; "
            "the same command asks for them again",
            file=sys.stderr,
        )
        return 1
    return 0
