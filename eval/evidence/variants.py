"""Changed copies of a response: what SAR pays them shows what a policy could learn from it.

Every copy is made from texts alone, without chance, so a second run scores the same texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

HONEST = "honest"
VARIANTS: Mapping[str, str] = {
    HONEST: "unchanged",
    "padded": "with two filler sentences",
    "repeated": "written twice",
    "truncated": "its first half, without an end",
    "other_result": "its last number raised by 1",
    "bare": "its last line alone",
    "unrelated": "the response to another question",
    "restated": "the question, then the response",
    "restated_twice": "the question twice, then the response",
    "question": "the question alone",
}
"""Name -> what the copy is."""

FILLER_BEFORE = "Let me think about this problem carefully, one step at a time, before I answer it."
FILLER_AFTER = "I have checked every step again, and I hope that this explanation was helpful."
_LAST_NUMBER = re.compile(r"(?<![\d.])\d[\d,]*(?:\.\d+)?(?=\D*$)")


@dataclass(frozen=True)
class Rollout:
    """A question, a response to it, and the right answer."""

    question: str
    response: str
    """Without an end-of-sequence token. The last line states the answer."""
    label: str


def make_variants(rollouts: Sequence[Rollout], index: int, end: str) -> dict[str, str]:
    """The copies of one response, by name, each ended by the token `end` unless it is truncated.

    `unrelated` is the next response in the file to another question; after the last comes the
    first. `other_result` is left out if the last line has no number, `unrelated` if there is no
    other question.
    """
    question, response = rollouts[index].question, rollouts[index].response
    steps, _, last_line = response.rpartition("\n")
    padded = (FILLER_BEFORE, steps, FILLER_AFTER, last_line)
    made = {
        HONEST: response,
        "padded": "\n".join(part for part in padded if part),
        "repeated": f"{response}\n{response}",
        "truncated": _take_first_half(response),
        "other_result": _raise_last_number(response),
        "bare": last_line,
        "unrelated": _find_unrelated(rollouts, index),
        "restated": f"{question}\n{response}",
        "restated_twice": f"{question}\n{question}\n{response}",
        "question": question,
    }
    return {
        name: text if name == "truncated" else text + end
        for name, text in made.items()
        if text is not None
    }


def _take_first_half(text: str) -> str:
    """The first half of a text's words, rounded up, with the spaces between them."""
    words = list(re.finditer(r"\S+", text))
    return text[: words[(len(words) - 1) // 2].end()]


def _raise_last_number(response: str) -> str | None:
    """The response with 1 added to the last number of its last line; None if there is none."""
    start = response.rfind("\n") + 1
    found = _LAST_NUMBER.search(response, start)
    if found is None:
        return None
    raised = Decimal(found[0].replace(",", "")) + 1
    return f"{response[: found.start()]}{raised}{response[found.end() :]}"


def _find_unrelated(rollouts: Sequence[Rollout], index: int) -> str | None:
    others = (*rollouts[index + 1 :], *rollouts[:index])
    question = rollouts[index].question
    return next((other.response for other in others if other.question != question), None)
