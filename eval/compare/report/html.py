"""report.html: one file that loads nothing from the network.

Responses of models are not trusted. They are embedded as JSON with every `<` escaped and shown as
text only. A content security policy allows only this page's own script, identified by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.compare.comparison import Comparison
from eval.compare.report.disagreements import Disagreements
from eval.compare.report.explanations import explain_statistics
from eval.compare.report.tables import make_metrics_tables, make_pair_table, make_runs_table
from eval.compare.report.wording import describe_findings, summarize_pair

_PAGE = Path(__file__).parent / "page"


def render_html(
    comparison: Comparison, correction: str, figures: Sequence[Path], disagreements: Disagreements
) -> str:
    """Returns the report as HTML.

    Args:
        figures: SVG files to embed.
    """
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    style = (_PAGE / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template("report.html.jinja").render(
        baseline=comparison.baseline.name,
        runs=make_runs_table(comparison),
        notes=comparison.notes,
        pairs=[
            {
                "name": pair.other.name,
                "verdicts": summarize_pair(pair, correction),
                "table": make_pair_table(pair, correction),
                "findings": describe_findings(pair, correction),
            }
            for pair in comparison.pairs
        ],
        metrics=make_metrics_tables(comparison),
        explanations=explain_statistics(comparison, correction),
        figures=[(path.stem, _make_data_uri(path)) for path in figures],
        num_shown=len(disagreements.shown),
        num_all=disagreements.num_all,
        benchmarks=comparison.benchmarks,
        data={
            "baseline": comparison.baseline.name,
            "others": [pair.other.name for pair in comparison.pairs],
            "items": [asdict(item) for item in disagreements.shown],
        },
        script=script,
        style=style,
        script_hash=_hash_for_csp(script),
        style_hash=_hash_for_csp(style),
    )


def _hash_for_csp(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _make_data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
