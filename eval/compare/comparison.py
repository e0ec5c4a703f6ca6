"""Runs side by side: what makes them comparable, and how they differ. The first is the baseline.

Reads run folders (see `eval.records`); writes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.records import Record, RunDescription, iter_records, read_run, records_path
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


@dataclass(frozen=True)
class Run:
    """A run's description and the columns of its records."""

    name: str
    folder: Path
    description: RunDescription
    samples: dict[str, Samples]
    """By benchmark."""
    inputs: dict[str, dict[str, tuple[bytes, bytes]]]
    """By benchmark and problem id: digests of question with label, and of the prompt."""


@dataclass(frozen=True)
class RunPair:
    """One run against the baseline."""

    other: Run
    benchmarks: dict[str, PairedBenchmark]
    average: PairedAverage


@dataclass(frozen=True)
class Comparison:
    """Everything a report says."""

    runs: list[Run]
    """The baseline first."""
    benchmarks: list[str]
    """Those that all runs have."""
    metrics: dict[str, dict[str, dict[str, Resampled]]]
    """By run, benchmark and metric, over all of a run's own problems."""
    averages: dict[str, dict[str, Resampled]]
    """By run and metric."""
    k: int
    pairs: list[RunPair]
    notes: list[str]
    """What a reader has to know: what was left out, what differs."""

    @property
    def baseline(self) -> Run:
        return self.runs[0]


def compare_runs(
    folders: Sequence[Path],
    *,
    allow_different_inputs: bool = False,
    k: int | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """
    Args:
        allow_different_inputs: compare runs over different data or prompts; the notes name what
            differs.
        k: pass@k; the smallest number of samples per problem of any run where None.
    Raises:
        ValueError: fewer than two runs, a folder that is no run, no benchmark in common, inputs
            that differ, or pass@k of too few samples.
    """
    if len(folders) < 2:
        raise ValueError(f"a comparison needs two runs or more, there is {len(folders)}")
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
            f"the runs were given different inputs, so that their difference is not the models' "
            f"alone: {'; '.join(different)}. To compare all the same: --allow-different-inputs"
        )
    fewest = min(run.samples[b].samples_per_problem for run in runs for b in benchmarks)
    if k is not None and k > fewest:
        raise ValueError(f"pass@{k} needs {k} samples of a problem, a run has {fewest}")
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
    """
    Raises:
        ValueError: no run, or a line that is not a record.
    """
    description = read_run(folder)
    samples, inputs = {}, {}
    for benchmark in description.benchmarks:
        path = records_path(folder, benchmark)
        if path.exists():
            digests: dict[str, tuple[bytes, bytes]] = {}
            samples[benchmark] = collect_samples(_collect_digests(iter_records(path), digests))
            inputs[benchmark] = digests
    return Run(name, folder, description, samples, inputs)


def find_different_inputs(baseline: Run, other: Run, benchmarks: Sequence[str]) -> list[str]:
    """What two runs were not both given, a phrase each; empty where their inputs are the same.

    Prompts are compared problem by problem, as the runs may have other benchmarks besides.
    """
    found = []
    for name in benchmarks:
        ours, theirs = (run.description.benchmarks[name] for run in (baseline, other))
        one, two = baseline.inputs[name], other.inputs[name]
        common = one.keys() & two.keys()
        if ours.fingerprint != theirs.fingerprint or any(one[i][0] != two[i][0] for i in common):
            found.append(
                f"{name}: data of {baseline.name} ({_describe_data(ours)}) and {other.name} "
                f"({_describe_data(theirs)})"
            )
        if changed := sorted(i for i in common if one[i][1] != two[i][1]):
            found.append(
                f"{name}: prompts of {baseline.name} and {other.name} on {len(changed):,} of "
                f"{len(common):,} problems, the first being {changed[0]!r}"
                f"{_list_prompt_differences(baseline, other)}"
            )
    return found


def _describe_data(description: object) -> str:
    fields = ("num_problems", "source", "revision", "fingerprint")
    num, source, revision, fingerprint = (getattr(description, f) for f in fields)
    return f"{num:,} problems from {source}, revision {revision}, fingerprint {fingerprint[:12]}"


def _list_prompt_differences(baseline: Run, other: Run) -> str:
    """Which settings explain that prompts differ."""
    one, two = baseline.description, other.description
    parts = [
        part.replace("_", " ")
        for part in ("prompt_style", "system_prompt", "instruction", "chat_template")
        if getattr(one, part) != getattr(two, part)
    ]
    return f" (not the same: {', '.join(parts)})" if parts else ""


def _pair_runs(
    runs: Sequence[Run], benchmarks: Sequence[str], num_resamples: int, seed: int
) -> list[RunPair]:
    """The baseline with every other run; p-values corrected over all benchmarks and runs."""
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
            notes.append(f"{run.name}: {', '.join(left_out)} left out, as not all runs have it")
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
                    f"{run.name}: errors in {name}, left out of every figure: "
                    f"{samples.num_errors:,}"
                )
    return [*notes, *_note_different_settings(runs)]


def _note_different_settings(runs: Sequence[Run]) -> list[str]:
    """Settings other than the inputs that may move accuracy or length."""
    notes = []
    settings = [
        {
            **run.description.generation,
            "backend": run.description.backend,
            **{f"version of {name}": v for name, v in run.description.versions.items()},
        }
        for run in runs
    ]
    for name in dict.fromkeys(key for values in settings for key in values):
        values = [values.get(name) for values in settings]
        if name not in ("seed", "version of platform") and len(set(map(repr, values))) > 1:
            shown = ", ".join(f"{run.name}: {v}" for run, v in zip(runs, values, strict=True))
            notes.append(f"{name} differs ({shown})")
    return notes


def _collect_digests(
    records: Iterator[Record], digests: dict[str, tuple[bytes, bytes]]
) -> Iterator[Record]:
    for record in records:
        asked = f"{record.question}\0{record.label}"
        digests[record.id] = _digest(asked), _digest(record.prompt)
        yield record


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _name_runs(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or as much of their paths as tells them apart.

    Raises:
        ValueError: one folder is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is named twice")
    if len({path.name for path in paths}) == len(paths):
        return [path.name for path in paths]
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]
