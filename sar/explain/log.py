"""Finds the rollouts of one request in a reward log, and explains them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sar.decision import Decision
from sar.errors import first_line
from sar.explain.explanation import Explanation
from sar.explain.model import ModelExplainer

# The same weights on another machine, or in other batches, differ by less. Other weights, or
# another system prompt, differ by more.
_MAX_DIFFERENCE_NATS = 1e-3


class LogError(Exception):
    """The log cannot be read. The message names the file and the line."""


def find_request(files: Sequence[Path], request_id: str) -> Iterator[Decision]:
    """The rollouts of a request, in the order of the log.

    Raises:
        LogError: a line that names the request is not a decision.
        OSError: a file cannot be read.
    """
    # Reading a line as JSON takes a hundred times as long as looking for the id in it.
    written = [
        json.dumps(request_id, ensure_ascii=is_ascii)[1:-1].encode() for is_ascii in (False, True)
    ]
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not any(one in line for one in written):
                    continue
                try:
                    decision = Decision.from_json(line.decode())
                except ValueError as error:
                    if not line.endswith(b"\n"):  # a server that was killed leaves such a line
                        continue
                    raise LogError(
                        f"{file}:{number}: not a decision: {first_line(error)}"
                    ) from error
                if decision.request_id == request_id:
                    yield decision


def explain_decision(explainer: ModelExplainer, decision: Decision) -> Explanation:
    """The tokens of a logged rollout, with the verdict, the reward and the terms of the log."""
    explanation = explainer.explain(decision.prompt, decision.response)
    return replace(
        explanation, verdict=decision.verdict, reward=decision.reward, terms=decision.terms
    )


def note_differences(decision: Decision, explanation: Explanation) -> Iterator[str]:
    """What the reader of the explanation has to know, one sentence each."""
    logged, found = decision.likelihood, explanation.likelihood
    differences = abs(logged.nll_qa - found.nll_qa), abs(logged.nll_a - found.nll_a)
    if max(differences) > _MAX_DIFFERENCE_NATS:
        yield (
            f"This model is not the one that gave the reward, or its system prompt, context or "
            f"empty-question prompt is another: the log has mean nll_qa {logged.nll_qa:.4f}, "
            f"nll_a {logged.nll_a:.4f} and SAR {logged.sar:.4f}."
        )
    if decision.template_mismatch:
        yield NOTE_OF_MISMATCH


NOTE_OF_MISMATCH = (
    "The prompt's template or system prompt is not that of the empty-question prompt, so the "
    "difference is more than what the question explains."
)
"""For a rollout whose prompt has another frame (`RolloutTokenizer.has_other_frame`)."""
