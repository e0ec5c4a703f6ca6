"""How much of the requests the server holds at once."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import pytest

from reward_server.errors import Overloaded
from reward_server.pipeline.admission import Admission
from reward_server.pipeline.rollout import SubmittedRollout
from sar.grading.label import parse_label

LONG = "x" * 400  # 100 tokens
LABELS: dict[str, Any] = {
    "text": LONG,
    "answer": {"answer": LONG, "grader": "exact"},
    "choices": {"answer": "A", "choices": [LONG, "b"]},
    "group": {"answer": "5", "group": LONG},
    "blanks": json.dumps({"answer": "5"}) + " " * 400,
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_label_counts_as_long_as_it_is_held(kind: str) -> None:
    admission = Admission(250)
    rollout = SubmittedRollout("Q: 5", "Q:", parse_label(LABELS[kind]), LABELS[kind])
    for _ in range(2):
        with ExitStack() as held:
            # A plain text is held as it was sent, and as the answer.
            for _ in range(1 if kind == "text" else 2):
                held.enter_context(admission.admit([rollout]))
            with pytest.raises(Overloaded):
                held.enter_context(admission.admit([rollout]))
        assert admission.num_in_flight == 0
