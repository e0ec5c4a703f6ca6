"""docs/evidence.md shows what the committed scores say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval.evidence.effects import summarize
from eval.evidence.scores import read_scores
from eval.evidence.tables import make_tables

DOCS = Path(__file__).parents[3] / "docs"
EVIDENCE = DOCS / "evidence"
MAX_FIGURE_BYTES = 200_000


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summarize(read_scores(EVIDENCE / "scores.csv"))


def test_the_documents_tables_are_those_of_the_scores(summary: dict[str, Any]) -> None:
    document = (DOCS / "evidence.md").read_text(encoding="utf-8")
    for name, table in make_tables(summary).items():
        assert table in document, f"the table {name} of docs/evidence/tables.md is another"


def test_the_summary_is_that_of_the_scores(summary: dict[str, Any]) -> None:
    written = json.loads((EVIDENCE / "summary.json").read_text(encoding="utf-8"))
    assert written["unchanged"]["difference"] == pytest.approx(summary["unchanged"]["difference"])
    assert written.keys() == summary.keys()


def test_figures_exist_and_are_small() -> None:
    document = (DOCS / "evidence.md").read_text(encoding="utf-8")
    figures = re.findall(r"\]\((evidence/\w+\.png)\)", document)
    assert len(figures) == 2
    for figure in figures:
        assert (DOCS / figure).stat().st_size < MAX_FIGURE_BYTES
