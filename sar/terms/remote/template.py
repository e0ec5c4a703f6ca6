"""Texts with placeholders: what a term sends to a model elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from sar.errors import quote
from sar.grading.rules.answers import find_thinking_tag
from sar.terms.base import Sample

PLACEHOLDERS = ("prompt", "question", "response", "answer")
_JOINED = "prompt}{response"
_PLACEHOLDER = re.compile(rf"\{{({'|'.join((_JOINED, *PLACEHOLDERS))})\}}")
_IN_BRACES = re.compile(r"\{([^{}\n]{1,20})\}")
_SIMILARITY = 0.75


def check_template(template: str) -> str:
    """
    Raises:
        ValueError: it has no {response}, or a misspelt placeholder.
    """
    for name in _IN_BRACES.findall(template):
        close = get_close_matches(name.strip().lower(), PLACEHOLDERS, 1, _SIMILARITY)
        if close and name not in PLACEHOLDERS:
            raise ValueError(f"without {quote('{' + name + '}')}: did you mean {{{close[0]}}}?")
    if "{response}" not in template:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"a text with {{response}}; placeholders: {known}")
    return template


def fill(template: str, sample: Sample, question_between: Sequence[str] | None) -> str:
    """Fills in the placeholders. A rollout's own braces stay as they are.

    Args:
        question_between: see `find_question`; None if the template has no {question}.
    Raises:
        ValueError: the prompt does not have the texts around its question.
    """
    # If the prompt ends with `<think>`, the response starts with that tag again, for graders.
    rest = sample.response.removeprefix(find_thinking_tag(sample.prompt))
    values: Mapping[str, str] = {
        _JOINED: sample.prompt + rest,
        "prompt": sample.prompt,
        "response": sample.response,
        "answer": sample.label.answer,
    }
    if "{question}" in template:
        assert question_between is not None
        question = find_question(sample.prompt, question_between)
        values = {**values, "question": question}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def find_question(prompt: str, between: Sequence[str]) -> str:
    """The text of the prompt's last user turn.

    Args:
        between: the texts before and after it, such as "<|im_start|>user\\n" and "<|im_end|>".
    Raises:
        ValueError: the prompt does not have them.
    """
    before, after = between
    _, found_before, rest = prompt.rpartition(before)
    question, found_after, _ = rest.partition(after)
    if not (found_before and found_after):
        raise ValueError(f"the prompt has no text between {quote(before)} and {quote(after)}")
    return question
