"""The battery's results as JSON: the tables' numbers, and every response with what it earned."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sar.probe.battery import Result, Results
from sar.probe.tables import Report


def to_json(report: Report, results: Results) -> str:
    """One JSON object, indented."""
    value = {
        "model": report.model,
        "num_problems": report.num_problems,
        "failed": report.has_failed,
        "rewards": [{"name": one.name, "formula": one.formula} for one in report.rewards],
        "findings": [{**asdict(one), "fails": one.fails} for one in report.findings],
        "attacks": [
            {
                "name": row.attack.name,
                "trick": row.attack.trick,
                "solves": row.attack.solves,
                "num_problems": row.num_problems,
                "num_right": row.num_right,
                "terms": dict(row.terms),
                "rewards": dict(row.rewards),
                "beside_honest": {name: asdict(one) for name, one in row.beside_honest.items()},
                "beside_attempt": {name: asdict(one) for name, one in row.beside_attempt.items()},
                "rollouts": [_describe(one) for one in results[row.attack]],
            }
            for row in report.rows
        ],
    }
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _describe(result: Result) -> dict[str, Any]:
    sample = result.scored.sample
    return {
        "problem": result.problem,
        "prompt": sample.prompt,
        "label": sample.label.answer,
        "response": result.response,
        "graded": sample.response,
        "correctness": sample.verdict.correctness,
        "reason": sample.verdict.reason,
        "answer": sample.verdict.answer,
        "tokens": sample.num_tokens,
        "sar": sample.likelihood.sar,
        "terms": dict(result.scored.terms),
        "rewards": dict(result.scored.rewards),
    }
