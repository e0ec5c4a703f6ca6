"""Describes the registry's terms, for `python -m sar terms` and for docs/rewards.md."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sar.terms.base import GroupTerm, Term
from sar.terms.registry import TERMS

UPDATE_COMMAND = "python -m sar terms --update docs/rewards.md"
"""What writes the tables into the documentation."""
_COLUMNS = "| term | what it does | value | range | options | source |\n" + "| --- " * 6 + "|\n"


@dataclass(frozen=True)
class OptionDescription:
    """One option of a term."""

    name: str
    default: str
    """As in a reward file, or "required" or "not set"."""
    meaning: str


@dataclass(frozen=True)
class TermDescription:
    """One term, as a person who composes a reward sees it."""

    name: str
    summary: str
    """The first paragraph of its docstring."""
    details: tuple[str, ...]
    """The other paragraphs."""
    formula: str
    bounds: str
    source: str
    options: tuple[OptionDescription, ...]
    compares: bool
    """True if it compares the rollouts of a group."""


def list_terms(
    terms: Mapping[str, type[Term | GroupTerm]] = TERMS,
) -> list[TermDescription]:
    """The terms in the order of the registry."""
    return [_describe(name, kind) for name, kind in terms.items()]


def render_tables(terms: Sequence[TermDescription]) -> str:
    """Two Markdown tables: terms of one rollout, and terms that compare the rollouts of a group."""
    alone = "".join(_render_row(term) for term in terms if not term.compares)
    together = "".join(_render_row(term) for term in terms if term.compares)
    return (
        f"{_COLUMNS}{alone}\nThese compare the rollouts of a group, and need `group_size`:\n\n"
        f"{_COLUMNS}{together}"
    )


def _describe(name: str, kind: type[Term | GroupTerm]) -> TermDescription:
    summary, *details = (inspect.getdoc(kind) or "").split("\n\n")
    fields: Mapping[str, Any] = getattr(kind, "__pydantic_fields__", {})
    return TermDescription(
        name,
        _unwrap(summary),
        tuple(map(_unwrap, details)),
        kind.formula,
        kind.bounds,
        kind.source,
        tuple(
            OptionDescription(option, _show_default(field), _find_meaning(kind, option))
            for option, field in fields.items()
        ),
        issubclass(kind, GroupTerm),
    )


def _find_meaning(kind: type[Term | GroupTerm], option: str) -> str:
    """The text below the option. pydantic finds it only in the class that declares the option."""
    declared = (getattr(each, "__pydantic_fields__", {}).get(option) for each in kind.__mro__)
    texts = (field.description for field in declared if field and field.description)
    return _unwrap(next(texts, ""))


def _show_default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    try:
        return json.dumps(value, ensure_ascii=False)  # JSON's simple values are TOML's
    except TypeError:
        return str(value)


def _render_row(term: TermDescription) -> str:
    options = "<br>".join(
        f"`{option.name}` = {option.default}. {option.meaning}".rstrip() for option in term.options
    )
    cells = (f"`{term.name}`", term.summary, term.formula, term.bounds, options, term.source)
    row = " | ".join(cell.replace("|", r"\|") for cell in cells)
    return f"| {row} |\n"


def _unwrap(text: str) -> str:
    return " ".join(text.split())
