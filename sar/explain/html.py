"""Writes explanations as one HTML file that loads nothing from elsewhere.

What a model wrote is escaped, and shown as text only. A content security policy allows only the
page's own script and style, identified by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sar.errors import shorten
from sar.explain.explanation import ExplainedToken, Explanation
from sar.explain.sentences import Sentence, sum_sentences

_PAGE = Path(__file__).parent / "page"
_TITLE = "What the question explains, token by token"
# Nats at which the shade changes.
_BOUNDS = (0.1, 0.3, 1.0, 2.0, 4.0)
_MAX_SENTENCES = 500
_MAX_SENTENCE_CHARS = 160
# Characters that HTML does not keep, as the signs that stand for them.
_SIGNS: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


@dataclass(frozen=True)
class PageRollout:
    """One rollout of a page."""

    explanation: Explanation
    label: str | None = None
    formula: str = ""
    """What the reward is the sum of. Empty: not known."""
    notes: Sequence[str] = ()
    """What the reader has to know, one sentence each."""


class _Piece(NamedTuple):
    """Characters with tokens of their own: one token, or those of a character that is split."""

    text: str
    num_tokens: int
    nll_qa: float
    nll_a: float

    @property
    def css(self) -> str:
        end = "end" if "\n" in self.text else ""
        return " ".join(filter(None, (_shade(self.nll_a - self.nll_qa), end)))


def write_page(
    rollouts: Sequence[PageRollout], *, model: str, special_tokens: Sequence[str] = ()
) -> Iterator[str]:
    """The HTML in parts.

    Args:
        special_tokens: texts that are sentences of their own, such as "<|im_end|>".
    """
    script = (_PAGE / "explain.js").read_text(encoding="utf-8")
    style = (_PAGE / "explain.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    described = (
        _describe(rollout, f"{number}. " if len(rollouts) > 1 else "", special_tokens)
        for number, rollout in enumerate(rollouts, 1)
    )
    return environment.get_template("explain.html.jinja").generate(
        title=_TITLE,
        model=show(model),
        legend=list(_make_legend()),
        rollouts=described,
        script=script,
        style=style,
        script_hash=_hash_for_csp(script),
        style_hash=_hash_for_csp(style),
    )


def show(text: str) -> str:
    """A text with visible signs for the characters that HTML does not keep."""
    return text.translate(_SIGNS)


def _describe(rollout: PageRollout, number: str, special_tokens: Sequence[str]) -> dict[str, Any]:
    explanation = rollout.explanation
    response, tokens = explanation.response, explanation.tokens
    sentences = sum_sentences(response, tokens, special_tokens)
    pieces = list(_divide(response, tokens))
    return {
        "heading": f"{number}{_name(explanation)}",
        "facts": _state_facts(explanation),
        "notes": [*rollout.notes, *_note_cut(explanation)],
        "pieces": [{"text": show(piece.text), "css": piece.css} for piece in pieces],
        "numbers": json.dumps([(p.num_tokens, *_round(p.nll_qa, p.nll_a)) for p in pieces]),
        "unscored": show(response[tokens[-1].end :]) if tokens else "",
        "is_empty": not response,
        "sentences": list(_make_rows(response, sentences)),
        "total": _make_row("", _add_up(sentences)),
        "parts": list(_list_parts(rollout)),
        "prompt": show(explanation.prompt),
    }


def _divide(response: str, tokens: Sequence[ExplainedToken]) -> Iterator[_Piece]:
    """The response in pieces, each with the tokens that start in it."""
    # Where a token ends before the next one starts, a piece ends.
    furthest = list(accumulate((token.end for token in tokens), max))
    first = 0
    for index in range(len(tokens)):
        if index + 1 < len(tokens) and tokens[index + 1].start < furthest[index]:
            continue
        several = tokens[first : index + 1]
        yield _Piece(
            response[several[0].start : furthest[index]],
            len(several),
            sum(token.nll_qa for token in several),
            sum(token.nll_a for token in several),
        )
        first = index + 1


def _shade(gain: float) -> str:
    """CSS class of a difference in nats; empty if it is next to nothing."""
    step = sum(abs(gain) >= bound for bound in _BOUNDS)
    return f"{'b' if gain > 0 else 'o'}{step}" if step else ""


def _make_legend() -> Iterator[dict[str, str]]:
    steps = len(_BOUNDS)
    for step in range(steps, 0, -1):
        ends = "or less" if step == steps else ""
        yield {"css": f"o{step}", "text": f"\u2212{_BOUNDS[step - 1]:g} {ends}".strip()}
    yield {"css": "", "text": "0"}
    for step in range(1, steps + 1):
        ends = "or more" if step == steps else ""
        yield {"css": f"b{step}", "text": f"+{_BOUNDS[step - 1]:g} {ends}".strip()}


def _name(explanation: Explanation) -> str:
    if explanation.verdict is None:
        return "Not graded"
    name = explanation.verdict.reason.value.replace("_", " ").capitalize()
    return name if explanation.reward is None else f"{name}, reward {_format(explanation.reward)}"


def _state_facts(explanation: Explanation) -> str:
    likelihood, num_tokens = explanation.likelihood, len(explanation.tokens)
    if not num_tokens:
        return "0 tokens"
    mean = likelihood.nll_a - likelihood.nll_qa
    return (
        f"{num_tokens:,} tokens · mean nll_qa {_format(likelihood.nll_qa)}, mean nll_a "
        f"{_format(likelihood.nll_a)}, difference {_format(mean)} · SAR {_format(likelihood.sar)}"
    )


def _note_cut(explanation: Explanation) -> Iterator[str]:
    num_all, num_scored = explanation.likelihood.num_response_tokens, len(explanation.tokens)
    if num_scored < num_all:
        yield (
            f"The response is longer than the context: its first {num_scored:,} of {num_all:,} "
            "tokens are scored."
        )
    elif explanation.likelihood.over_context:
        yield "The prompt is longer than the context: its start is cut off."


def _make_rows(response: str, sentences: Sequence[Sentence]) -> Iterator[dict[str, Any]]:
    for sentence in sentences[:_MAX_SENTENCES]:
        text = response[sentence.start : sentence.end].strip()
        shown = show(shorten_text(" ".join(text.split()), _MAX_SENTENCE_CHARS))
        yield _make_row(shown or "(white space)", sentence)
    if others := sentences[_MAX_SENTENCES:]:
        yield _make_row(f"({len(others):,} more sentences)", _add_up(others))


def shorten_text(text: str, max_chars: int) -> str:
    """The start of a text, and an ellipsis if that is not all."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "\u2026"


def _add_up(sentences: Sequence[Sentence]) -> Sentence:
    total = Sentence(0, 0)
    for one in sentences:
        total.num_tokens += one.num_tokens
        total.nll_qa += one.nll_qa
        total.nll_a += one.nll_a
    return total


def _make_row(text: str, sums: Sentence) -> dict[str, Any]:
    return {
        "text": text,
        "tokens": f"{sums.num_tokens:,}",
        "nll_qa": _format(sums.nll_qa),
        "nll_a": _format(sums.nll_a),
        "gain": _format(sums.gain),
        "mean": _format(sums.gain / max(1, sums.num_tokens)),
        "css": _shade(sums.gain),
    }


def _list_parts(rollout: PageRollout) -> Iterator[dict[str, str]]:
    explanation = rollout.explanation
    likelihood, verdict = explanation.likelihood, explanation.verdict
    parts: list[tuple[str, str | float | None]] = []
    if verdict is not None:
        reward = "none: it compares rollouts" if explanation.reward is None else explanation.reward
        parts += [
            ("reward", reward),
            *([("reward is", rollout.formula)] if rollout.formula else []),
            ("correctness", f"{verdict.correctness:g} ({verdict.reason.value.replace('_', ' ')})"),
            ("answer", "none" if verdict.answer is None else verdict.answer),
        ]
    parts += [("label", rollout.label)] if rollout.label is not None else []
    parts += [
        ("SAR", likelihood.sar),
        ("ppl_qa", likelihood.ppl_qa),
        ("ppl_a", likelihood.ppl_a),
        ("tokens", f"{likelihood.num_response_tokens:,}"),
        *((f"term {name}", value) for name, value in explanation.terms.items()),
    ]
    for name, value in parts:
        text = f"{value:.4f}" if isinstance(value, float) and abs(value) < 1e4 else value
        text = f"{text:.4g}" if isinstance(text, float) else str(text)
        yield {"name": name, "value": show(shorten(text))}


def _round(*values: float) -> list[float]:
    return [round(value, 4) for value in values]


def _format(value: float) -> str:
    # Rounded first: a very small number below 0 has no sign.
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\u2212")


def _hash_for_csp(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
