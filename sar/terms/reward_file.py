"""Reads a reward file: the TOML of `--reward FILE.toml`.

group_size = 6                 # only if a term compares rollouts, or normalize is set
normalize = "gdpo"             # or "none"
[[terms]]
term = "correctness"
[[terms]]
term = "sar"
weight = 0.2
[[terms]]
term = "my_package.my_module:MyTerm"
only_if = "correct"
# any further key is an option of the term
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sar.errors import first_line, one_line, quote
from sar.terms.base import UNSHOWN, GroupTerm, Term
from sar.terms.composition import Composition, Condition, Normalization, WeightedTerm
from sar.terms.registry import TERMS
from sar.tokenization import NEEDS

_MAX_WEIGHT = 1000.0


class RewardFileError(ValueError):
    """The reward file is wrong. The message is one line that names the file and the value."""


class _TermTable(BaseModel):
    """One `[[terms]]` table. Further keys are options of the term."""

    model_config = ConfigDict(extra="allow", strict=True)

    term: str
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")] | None = None
    weight: Annotated[float, Field(ge=-_MAX_WEIGHT, le=_MAX_WEIGHT)] = 1.0
    only_if: Condition | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    terms: Annotated[list[_TermTable], Field(min_length=1)]
    group_size: Annotated[int, Field(ge=2, le=1024)] | None = None
    normalize: Normalization = "none"


def default_composition(sar_weight: float) -> Composition:
    """Correctness + `sar_weight` x SAR, the reward without a file."""
    return Composition(
        (
            WeightedTerm("correctness", TERMS["correctness"]()),
            WeightedTerm("sar", TERMS["sar"](), sar_weight),
        )
    )


def read_reward_file(path: Path) -> Composition:
    """
    Raises:
        RewardFileError: the file cannot be read, or a key, a term, an option or a weight is wrong.
    """
    try:
        return _compose(_File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise RewardFileError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise RewardFileError(f"{path}: {_describe(error)}") from error
    except (ValueError, TypeError) as error:  # not TOML, not UTF-8, or from `_compose`
        raise RewardFileError(f"{path}: {first_line(error)}") from error


def _compose(file: _File) -> Composition:
    terms = tuple(_make_term(number, table) for number, table in enumerate(file.terms, 1))
    names = [one.name for one in terms]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two terms are called {repeated[0]!r}; give one another `name`")
    comparing = [one.name for one in terms if isinstance(one.term, GroupTerm)]
    reason = f"term {comparing[0]!r} compares rollouts" if comparing else ""
    reason = reason or ('normalize = "gdpo" compares rollouts' if file.normalize == "gdpo" else "")
    if reason and file.group_size is None:
        raise ValueError(f"{reason}: set group_size to the number of rollouts of a prompt")
    if file.group_size is not None and not reason:
        raise ValueError("group_size is set, but no term compares rollouts; leave it out")
    return Composition(terms, file.group_size, file.normalize)


def _make_term(number: int, table: _TermTable) -> WeightedTerm:
    where = f"terms[{number}] {quote(table.term)}"
    kind = TERMS.get(table.term) or _import_term(where, table.term)
    if not (isinstance(kind, type) and issubclass(kind, (Term, GroupTerm))):
        raise TypeError(f"{where} is no subclass of sar.terms.base.Term or GroupTerm")
    options: Mapping[str, Any] = table.model_extra or {}
    try:
        term = kind(**options)
    except ValidationError as error:
        raise ValueError(f"{where}: {_describe(error)}") from error
    except Exception as error:  # a term of the user's own may raise anything
        raise ValueError(f"{where}: {one_line(error)}") from error
    if unknown := term.needs - NEEDS:
        known = ", ".join(sorted(NEEDS))
        raise ValueError(f"{where} needs {quote(min(unknown))}, which is unknown; known: {known}")
    name = table.name or table.term.rpartition(":")[2].lower()
    return WeightedTerm(name, term, table.weight, table.only_if)


def _import_term(where: str, path: str) -> Any:
    """The class that `package.module:Class` names."""
    module, colon, name = path.partition(":")
    if not colon:
        known = ", ".join(TERMS)
        raise ValueError(f"{where} is unknown; known: {known}, or package.module:Class of yours")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # code of the user's own may raise anything
        raise ValueError(f"{where} cannot be imported: {one_line(error)}") from error


def _describe(error: ValidationError) -> str:
    """The first wrong key, its value, and what is allowed."""
    first = error.errors(include_url=False)[0]
    key = ".".join(
        f"{part}" if isinstance(part, str) else f"[{part + 1}]" for part in first["loc"]
    ).replace(".[", "[")
    match first["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{key!r} is unknown"
        case error_type if error_type == UNSHOWN:
            return f"{key} must be {first['msg']}"
        case _:
            message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return f"{key} = {quote(first['input'])}: must be {message}"
