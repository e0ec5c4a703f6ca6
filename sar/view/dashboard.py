"""The data of the page: answers its questions, whatever the question's parameters hold.

`sar view` and the reward server serve it under the same paths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sar.decision import Decision
from sar.errors import quote
from sar.grading.verdict import Reason
from sar.view import queries, series
from sar.view.queries import Window
from sar.view.source import Source

_T = TypeVar("_T", bound=str)

_REASONS = tuple(reason.value for reason in Reason)
_VERDICTS = {
    "right": (Reason.CORRECT.value,),
    "wrong": tuple(r for r in _REASONS if r != "correct"),
}
_MAX_SEARCH_CHARS = 500
_SEARCH_S = 2.0
_SNIPPET_CHARS = 160
# What a browser still shows without delay. A server refuses longer texts by default.
_MAX_TEXT_CHARS = 1_000_000
_MAX_SIBLING_CHARS = 4000
_MAX_INTEGER = 2**62
# So many of the latest rollouts tell what the reward is made of.
_NUM_LATEST = 8


class BadQuestion(Exception):
    """A parameter is wrong. The message names it."""


class NotThere(Exception):
    """There is no such data, or no such rollout any more."""


@dataclass(frozen=True)
class Dashboard:
    """What the page asks for."""

    source: Source
    list_alarms: Callable[[], list[dict[str, Any]]] = list
    """The alarms as JSON objects, see `sar.alarms`."""
    list_scorers: Callable[[], list[dict[str, Any]]] = list
    """The server's scorers as JSON objects, if it has several."""
    can_explain: bool = False
    """Whether the page may ask `/explain` for heat-maps."""

    def answer(self, name: str, parameters: Mapping[str, str]) -> bytes:
        """The JSON of one kind of data.

        Args:
            name: the last part of the path, such as "series".
            parameters: of the URL's query.
        Raises:
            BadQuestion, NotThere: with a message for the client.
        """
        questions: dict[str, Callable[[_Parameters], dict[str, Any]]] = {
            "status": self._describe,
            "series": self._make_series,
            "points": self._sample_points,
            "table": self._list_rollouts,
            "search": self._search,
            "rollout": self._show_rollout,
            "alarms": lambda _: {"alarms": self.list_alarms()},
        }
        if name not in questions:
            raise NotThere(f"no data {quote(name)}; there are {', '.join(questions)}")
        answer = questions[name](_Parameters(parameters))
        text = json.dumps(answer, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return text.encode()

    def _describe(self, _: _Parameters) -> dict[str, Any]:
        described = self.source.describe()
        with self.source.reading() as db:
            summary = queries.read_summary(db)
            latest = queries.list_latest(db, _NUM_LATEST)
        decisions = [self.source.read(number) for number in latest]
        return {
            **described,
            **summary,
            "can_explain": self.can_explain,
            "pays_sar": _pays_sar([one for one in decisions if one]),
            "reasons": _REASONS,
            "scorers": self.list_scorers(),
        }

    def _make_series(self, given: _Parameters) -> dict[str, Any]:
        by = given.choose("by", series.BY)
        num_buckets = given.count("buckets", 200, series.MAX_BUCKETS)
        with self.source.reading() as db:
            return series.make_series(db, by, is_eval=given.is_eval, num_buckets=num_buckets)

    def _sample_points(self, given: _Parameters) -> dict[str, Any]:
        num_points = given.count("limit", 2000, queries.MAX_POINTS)
        with self.source.reading() as db:
            return queries.sample_points(db, given.window, num_points)

    def _list_rollouts(self, given: _Parameters) -> dict[str, Any]:
        kind = given.choose("kind", queries.KINDS)
        num_rows = given.count("limit", 50, queries.MAX_ROWS)
        with self.source.reading() as db:
            rows = queries.list_rollouts(db, kind, given.window, num_rows)
        return {"rows": self._add_snippets(rows)}

    def _search(self, given: _Parameters) -> dict[str, Any]:
        text = given.text("text")
        if not 0 < len(text) <= _MAX_SEARCH_CHARS:
            raise BadQuestion(f"text: search for 1 to {_MAX_SEARCH_CHARS} characters")
        before = given.integer("before", _MAX_INTEGER)
        num_rows = given.count("limit", 50, queries.MAX_ROWS)
        found = self.source.search(text, before=before, num_rows=num_rows, timeout_s=_SEARCH_S)
        with self.source.reading() as db:
            rows = queries.find_rollouts(db, found.numbers, given.window)
        return {"rows": self._add_snippets(rows), "searched_to": found.searched_to}

    def _show_rollout(self, given: _Parameters) -> dict[str, Any]:
        number = given.integer("id", 0)
        with self.source.reading() as db:
            siblings = queries.list_siblings(db, number)
        decision = self.source.read(number)
        rows = [row for row in siblings if row["id"] == number]
        if decision is None or not rows:
            raise NotThere(f"rollout {number} is not there, or not any more")
        for row in siblings:
            sibling = self.source.read(row["id"])
            response = sibling.response if sibling else ""
            row["response"] = response[:_MAX_SIBLING_CHARS]
            row["num_chars"] = len(response)
        return {"rollout": {**rows[0], **_describe_decision(decision)}, "siblings": siblings}

    def _add_snippets(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            decision = self.source.read(row["id"])
            response = decision.response if decision else ""
            row["snippet"] = response[:_SNIPPET_CHARS]
            row["num_chars"] = len(response)
        return rows


def _pays_sar(decisions: Sequence[Decision]) -> bool | None:
    """Whether SAR is a part of these rewards. None: there are none."""
    if not decisions:
        return None
    if not decisions[0].terms:
        return any(one.sar_weight for one in decisions)
    return any(_is_sar(name, decisions) for name in decisions[0].terms)


def _is_sar(name: str, decisions: Sequence[Decision]) -> bool:
    """Whether a term is SAR. A reward file may give it another name, and may leave it out (0) of
    some rollouts."""
    pairs = [(one.terms.get(name, 0.0), one.sar) for one in decisions]
    return name == "sar" or (
        any(value for value, _ in pairs) and all(value in (0.0, sar) for value, sar in pairs)
    )


def _describe_decision(decision: Decision) -> dict[str, Any]:
    """All fields of a decision, with long texts cut."""
    fields = decision.to_fields()
    for name in ("prompt", "response"):
        fields[f"num_{name}_chars"] = len(fields[name])
        fields[name] = fields[name][:_MAX_TEXT_CHARS]
    fields["time_text"] = fields.pop("time")
    return fields


class _Parameters:
    """The parameters of a question."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def text(self, name: str, default: str = "") -> str:
        return self._given.get(name) or default

    def choose(self, name: str, choices: tuple[_T, ...]) -> _T:
        text = self.text(name, choices[0])
        for choice in choices:
            if choice == text:
                return choice
        raise BadQuestion(f"{name}={quote(text)}: choose one of {', '.join(choices)}")

    def integer(self, name: str, default: int) -> int:
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise BadQuestion(f"{name}={quote(text)}: not a whole number from 0 on")
        return min(int(text), _MAX_INTEGER)

    def count(self, name: str, default: int, at_most: int) -> int:
        number = self.integer(name, default)
        if not 1 <= number <= at_most:
            raise BadQuestion(f"{name}={number}: not from 1 to {at_most}")
        return number

    @property
    def is_eval(self) -> bool:
        return self.choose("mode", ("train", "eval")) == "eval"

    @property
    def window(self) -> Window:
        verdict = self.choose("verdict", ("all", *_VERDICTS, *_REASONS))
        reasons = _VERDICTS.get(verdict, () if verdict == "all" else (verdict,))
        return Window(
            self.is_eval, self.integer("first", 0), self.integer("last", _MAX_INTEGER), reasons
        )
