"""A measurement, and how measurements are printed and saved."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Measurement:
    """One measured quantity and its bound, if it has one.

    `samples` holds one value per repetition; `value` is their median.
    """

    name: str
    samples: Sequence[float]
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def is_reached(self) -> bool:
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    @property
    def bound(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


def format_table(measurements: Sequence[Measurement]) -> str:
    """Formats measurements as a Markdown table."""
    lines = ["| measured | median | range | aim | reached |", "| --- | --- | --- | --- | --- |"]
    for m in measurements:
        verdict = "" if not m.bound else "yes" if m.is_reached else "NO"
        spread = f"{_format_number(min(m.samples))} to {_format_number(max(m.samples))}"
        lines.append(
            f"| {m.name} | {_format_number(m.value)} {m.unit} | {spread} | {m.bound} | {verdict} |"
        )
    return "\n".join(lines)


def _format_number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def save(path: Path, measurements: Sequence[Measurement], **about: Any) -> None:
    """Writes the measurements, `about` and a description of this machine as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [asdict(m) | {"value": m.value, "reached": m.is_reached} for m in measurements]
    document = {"machine": describe_machine(), **about, "measurements": entries}
    path.write_text(json.dumps(document, indent=1) + "\n")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and library versions, which the results depend on."""
    import torch
    import transformers

    model_names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": model_names[0] if model_names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
