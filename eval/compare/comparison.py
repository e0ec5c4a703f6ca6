"""Compares runs: whether they are comparable, and how they differ. The first is the baseline.

Reads run folders (see `eval.records`); writes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from eval.records import (
    BenchmarkDescription,
    Record,
    RunDescription,
    iter_records,
    read_run,
    records_path,
)
from eval.statistics.bootstrap import make_generator
from eval.statistics.metrics import METRICS, Resampled, average_metrics, resample
from eval.statistics.paired import (
    PairedAverage,
    PairedBenchmark,
    average_benchmarks,
    compare_benchmark,
    correct_p_values,
)
from eval.statistics.samples import Samples, collect_samples


class Digests(NamedTuple):
    """What a run asked the model about one problem, as digests of 16 bytes."""

    problem: bytes
    """Of question and label."""
    prompt: bytes


@dataclass(frozen=True)
class Run:
    """A run: its description, and its records as columns."""

    name: str
    folder: Path
    description: RunDescription
    samples: dict[str, Samples]
    """By benchmark."""
    inputs: dict[str, dict[str, Digests]]
    """By benchmark and problem id."""


@dataclass(frozen=True)
class RunPair:
    """One run compared with the baseline."""

    other: Run
    benchmarks: dict[str, PairedBenchmark]
    average: PairedAverage


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows."""

    runs: list[Run]
    """The baseline first."""
    benchmarks: list[str]
    """The benchmarks that all runs have."""
    metrics: dict[str, dict[str, dict[str, Resampled]]]
    """By run, benchmark and metric, over all problems of that run."""
    averages: dict[str, dict[str, Resampled]]
    """By run and metric."""
    k: int
    pairs: list[RunPair]
    notes: list[str]
    """What was left out, and what differs between the runs."""

    @property
    def baseline(self) -> Run:
        return self.runs[0]


def compare_runs(
    folders: Sequence[Path],
    *,
    allow_different_inputs: bool,
    k: int | None,
    num_resamples: int,
    seed: int,
) -> Comparison:
    """Reads the runs and computes all metrics and paired differences.

    Args:
        folders: one per run, the baseline first.
        allow_different_inputs: compare runs even if data or prompts differ. The notes then list the
            differences.
        k: for pass@k; None is the smallest number of samples per problem of any run.
        num_resamples: of the bootstrap and of permutation tests.
        seed: of all resampling.
    Raises:
        ValueError: there are fewer than two runs, a folder holds no run, the runs have no benchmark
            in common, their inputs differ, or k is larger than the number of samples.
    """
    if len(folders) < 2:
        raise ValueError(f"a comparison needs two runs or more, got {len(folders)}")
    runs = [
        load_run(folder, name) for folder, name in zip(folders, _name_runs(folders), strict=True)
    ]
    benchmarks = [b for b in runs[0].samples if all(b in run.samples for run in runs)]
    if not benchmarks:
        has = "; ".join(f"{run.name} has {', '.join(run.samples) or 'none'}" for run in runs)
        raise ValueError(f"the runs have no benchmark in common: {has}")
    different = [d for run in runs[1:] for d in find_different_inputs(runs[0], run, benchmarks)]
    if different and not allow_different_inputs:
        raise ValueError(
            f"the runs had different inputs, so more than the models differs: "
            f"{'; '.join(different)}. To compare them anyway, add --allow-different-inputs"
        )
    fewest = min(run.samples[b].samples_per_problem for run in runs for b in benchmarks)
    if k is not None and k > fewest:
        raise ValueError(f"pass@{k} needs {k} samples per problem, but a run has {fewest}")
    chosen_k = max(1, fewest) if k is None else k
    metrics = {
        run.name: {
            b: resample(run.samples[b], chosen_k, num_resamples, make_generator(seed, b))
            for b in benchmarks
        }
        for run in runs
    }
    return Comparison(
        runs=runs,
        benchmarks=benchmarks,
        metrics=metrics,
        averages={
            name: {m: average_metrics([found[b][m] for b in benchmarks]) for m in METRICS}
            for name, found in metrics.items()
        },
        k=chosen_k,
        pairs=_pair_runs(runs, benchmarks, num_resamples, seed),
        notes=[*different, *_make_notes(runs, benchmarks)],
    )


def load_run(folder: Path, name: str) -> Run:
    """Reads one run.

    Raises:
        ValueError: the folder holds no run, or a line is not a record.
    """
    description = read_run(folder)
    samples, inputs = {}, {}
    for benchmark in description.benchmarks:
        path = records_path(folder, benchmark)
        if path.exists():
            digests: dict[str, Digests] = {}
            samples[benchmark] = collect_samples(_collect_digests(iter_records(path), digests))
            inputs[benchmark] = digests
    return Run(name, folder, description, samples, inputs)


def find_different_inputs(baseline: Run, other: Run, benchmarks: Sequence[str]) -> list[str]:
    """One phrase per difference in data or prompts; empty if the inputs are the same.

    Prompts are compared problem by problem, because the runs may have further benchmarks.
    """
    found = []
    for name in benchmarks:
        ours, theirs = (run.description.benchmarks[name] for run in (baseline, other))
        one, two = baseline.inputs[name], other.inputs[name]
        common = one.keys() & two.keys()
        if ours.fingerprint != theirs.fingerprint or any(
            one[i].problem != two[i].problem for i in common
        ):
            found.append(
                f"{name}: data of {baseline.name} ({_describe_data(ours)}) and {other.name} "
                f"({_describe_data(theirs)})"
            )
        if changed := sorted(i for i in common if one[i].prompt != two[i].prompt):
            found.append(
                f"{name}: prompts of {baseline.name} and {other.name} on {len(changed):,} of "
                f"{len(common):,} problems, the first being {changed[0]!r}"
                f"{_list_prompt_differences(baseline, other)}"
            )
    return found


def _describe_data(data: BenchmarkDescription) -> str:
    return (
        f"{data.num_problems:,} problems from {data.source}, revision {data.revision}, "
        f"fingerprint {data.fingerprint[:12]}"
    )


def _list_prompt_differences(baseline: Run, other: Run) -> str:
    """The settings that explain why prompts differ."""
    one, two = baseline.description, other.description
    parts = [
        part.replace("_", " ")
        for part in ("prompt_style", "system_prompt", "instruction", "chat_template")
        if getattr(one, part) != getattr(two, part)
    ]
    return f" (different: {', '.join(parts)})" if parts else ""


def _pair_runs(
    runs: Sequence[Run], benchmarks: Sequence[str], num_resamples: int, seed: int
) -> list[RunPair]:
    """Pairs the baseline with every other run. Corrects p-values over all benchmarks and runs."""
    baseline = runs[0]
    found = [
        {
            b: compare_benchmark(
                baseline.samples[b], run.samples[b], num_resamples, make_generator(seed, b)
            )
            for b in benchmarks
        }
        for run in runs[1:]
    ]
    flat = [paired for by_name in found for paired in by_name.values()]
    accuracy = iter(correct_p_values([p.accuracy.test for p in flat]))
    tokens = iter(correct_p_values([p.tokens.test for p in flat]))
    pairs = []
    for run, by_name in zip(runs[1:], found, strict=True):
        tested = {
            b: replace(
                paired,
                accuracy=replace(paired.accuracy, test=next(accuracy)),
                tokens=replace(paired.tokens, test=next(tokens)),
            )
            for b, paired in by_name.items()
        }
        pairs.append(RunPair(run, tested, average_benchmarks(list(tested.values()))))
    return pairs


def _make_notes(runs: Sequence[Run], benchmarks: Sequence[str]) -> list[str]:
    notes = []
    for run in runs:
        if left_out := [b for b in run.description.benchmarks if b not in benchmarks]:
            notes.append(f"{run.name}: {', '.join(left_out)} left out, not all runs have it")
        for name in benchmarks:
            samples = run.samples[name]
            wanted = run.description.benchmarks[name].num_problems
            if samples.num_problems < wanted:
                notes.append(
                    f"{run.name}: {name} is unfinished, {samples.num_problems:,} of {wanted:,} "
                    f"problems"
                )
            if samples.num_errors:
                notes.append(
                    f"{run.name}: errors in {name}, left out of all figures: {samples.num_errors:,}"
                )
    return [*notes, *_note_different_settings(runs)]


def _note_different_settings(runs: Sequence[Run]) -> list[str]:
    """Settings besides the inputs that may affect accuracy or length."""
    notes = []
    settings = [
        {
            **run.description.generation,
            "backend": run.description.backend,
            **{f"version of {name}": v for name, v in run.description.versions.items()},
        }
        for run in runs
    ]
    for name in dict.fromkeys(name for of_run in settings for name in of_run):
        values = [of_run.get(name) for of_run in settings]
        if name not in ("seed", "version of platform") and len(set(map(repr, values))) > 1:
            shown = ", ".join(f"{run.name}: {v}" for run, v in zip(runs, values, strict=True))
            notes.append(f"{name} differs ({shown})")
    return notes


def _collect_digests(records: Iterator[Record], digests: dict[str, Digests]) -> Iterator[Record]:
    """Passes the records on, and adds those of each problem to `digests`."""
    for record in records:
        problem = f"{record.question}\0{record.label}"
        digests[record.id] = Digests(_digest(problem), _digest(record.prompt))
        yield record


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _name_runs(folders: Sequence[Path]) -> list[str]:
    """The folders' names. If two are equal: their paths below the deepest folder they share.

    Raises:
        ValueError: the same folder is given twice.
    """
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is given twice")
    if len({path.name for path in paths}) == len(paths):
        return [path.name for path in paths]
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]
