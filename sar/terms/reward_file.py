"""Reads a reward file: the TOML of `--reward FILE.toml`. docs/rewards.md explains it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from sar.errors import MAX_MESSAGE_CHARS, first_line, one_line, quote
from sar.terms.base import UNSHOWN, GroupTerm, Term
from sar.terms.candidate.errors import SandboxError
from sar.terms.candidate.term import PREFIX, CandidateTerm, make_name, read_candidate
from sar.terms.composition import Composition, Condition, Normalization, WeightedTerm
from sar.terms.registry import TERMS
from sar.tokenization import NEEDS

_MAX_WEIGHT = 1000.0
_MAX_FILE_BYTES = 1 << 20
_NAME = r"^[a-z][a-z0-9_]{0,40}$"
_TOML_TYPES = (int, float, str, bool)
_NAME_IN_WORDS = "a to z, 0 to 9 and _, starting with a letter, at most 41 characters"


class RewardFileError(ValueError):
    """The reward file is wrong. The message is one line that names the file and the value."""


class _TermTable(BaseModel):
    """One `[[terms]]` table. Further keys are options of the term."""

    model_config = ConfigDict(extra="allow", strict=True)

    term: str
    name: Annotated[str, Field(pattern=_NAME)] | None = None
    weight: Annotated[FiniteFloat, Field(ge=-_MAX_WEIGHT, le=_MAX_WEIGHT)] = 1.0
    only_if: Condition | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    terms: Annotated[list[_TermTable], Field(min_length=1)]
    group_size: Annotated[int, Field(ge=2, le=1024)] | None = None
    normalize: Normalization = "none"


def default_composition(sar_weight: float) -> Composition:
    """Correctness + `sar_weight` x SAR: the reward without a file, as terms.

    `sar.reward.combine` computes the same number, to the bit. It needs no text and no label, so it
    also serves `rescore`, where each line of a log has its own weight.
    """
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
        tables = tomllib.loads(_read_text(path))
        _check_keys(tables)
        return _compose(_File.model_validate(tables), path.parent)
    except OSError as error:
        raise RewardFileError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RewardFileError(f"{path}: not a text in UTF-8") from error
    except ValidationError as error:
        raise RewardFileError(f"{path}: {_describe(error)}") from error
    except (ValueError, TypeError, SandboxError) as error:  # not TOML, or what the calls raise
        raise RewardFileError(f"{path}: {first_line(error, MAX_MESSAGE_CHARS)}") from error
    except RecursionError as error:
        raise RewardFileError(f"{path}: tables or lists are nested too deeply") from error


def _read_text(path: Path) -> str:
    """
    Raises:
        OSError: the file cannot be read.
        ValueError: it is no text in UTF-8, too large, or something that has no end, such as a pipe.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # `open` says it of a folder
        raise ValueError("a pipe or a device, not a file")
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"larger than {_MAX_FILE_BYTES:,} bytes: not a reward file")
    # Some editors start a file with a byte order mark. TOML's lines may end in \r\n.
    return content.decode("utf-8-sig")


def _check_keys(tables: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: a key is unknown, or stands where TOML takes it for another table's.
    """
    known = list(_File.model_fields)
    if unknown := next((key for key in tables if key not in known), None):
        raise ValueError(
            "write [[terms]] for each term, not [[term]]"
            if unknown == "term"
            else f"{quote(unknown)} is unknown{_suggest(unknown, known)}"
        )
    if isinstance(tables.get("terms"), dict):
        raise ValueError("write [[terms]] with two brackets on each side, for each term")


def _suggest(given: str, known: Iterable[str]) -> str:
    """What to write instead: the nearest of the known words, or all of them."""
    known = list(known)
    near = get_close_matches(given.lower(), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _compose(file: _File, folder: Path) -> Composition:
    terms = tuple(_make_term(number, table, folder) for number, table in enumerate(file.terms, 1))
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


def _make_term(number: int, table: _TermTable, folder: Path) -> WeightedTerm:
    where = f"terms[{number}] {quote(table.term)}"
    options: Mapping[str, Any] = table.model_extra or {}
    if misplaced := next((key for key in options if key in _File.model_fields), None):
        raise ValueError(f"{where}: put {misplaced} above the first [[terms]]")
    if table.term.startswith(PREFIX):
        return _make_weighted(where, table, _read_candidate(where, table, folder))
    kind = TERMS.get(table.term) or _import_term(where, table.term)
    if not (isinstance(kind, type) and issubclass(kind, (Term, GroupTerm))):
        raise TypeError(f"{where} is no subclass of sar.terms.base.Term or GroupTerm")
    if issubclass(kind, Term) and issubclass(kind, GroupTerm):
        raise TypeError(f"{where} derives from both Term and GroupTerm; derive it from one")
    if table.term in TERMS:
        known = [*signature(kind).parameters, *_TermTable.model_fields]
        if unknown := next((key for key in options if key not in known), None):
            raise ValueError(f"{where}: {quote(unknown)} is unknown{_suggest(unknown, known)}")
    else:
        _check_types(where, kind, options)
    try:
        term = kind(**options)
        needs: object = term.needs
    except ValidationError as error:
        raise ValueError(f"{where}: {_describe(error)}") from error
    except (Exception, SystemExit) as error:  # a term of the user's own may raise anything
        raise ValueError(f"{where}: {one_line(error)}") from error
    if not isinstance(needs, (set, frozenset)):
        raise TypeError(f"{where}: needs = {quote(needs)}: must be a set")
    if unknown_needs := needs - NEEDS:
        first, known_needs = min(map(quote, unknown_needs)), ", ".join(sorted(NEEDS))
        raise ValueError(f"{where} needs {first}, which is unknown; known: {known_needs}")
    num_threads: object = getattr(term, "max_concurrency", 1)  # the server starts so many
    if type(num_threads) is not int or num_threads < 1:
        raise ValueError(f"{where}: max_concurrency = {quote(num_threads)}: must be 1 or more")
    return _make_weighted(where, table, term)


def _make_weighted(where: str, table: _TermTable, term: Term | GroupTerm) -> WeightedTerm:
    own = table.term.rpartition(":")[2].lower()
    name = table.name or (make_name(table.term) if isinstance(term, CandidateTerm) else own)
    if not re.fullmatch(_NAME, name):
        is_file = not table.name and isinstance(term, CandidateTerm)
        reason = f"the file's name {quote(name)} cannot be a name in the logs; " if is_file else ""
        raise ValueError(f"{where}: {reason}set `name`, which must be {_NAME_IN_WORDS}")
    return WeightedTerm(name, term, table.weight, table.only_if)


def _read_candidate(where: str, table: _TermTable, folder: Path) -> CandidateTerm:
    """The candidate that `candidate:FILE.py` names; FILE is found from the reward file's folder."""
    for unknown in table.model_extra or {}:
        known = _suggest(unknown, _TermTable.model_fields)
        raise ValueError(f"{where}: {quote(unknown)} is unknown{known}")
    try:
        return read_candidate(folder / table.term.removeprefix(PREFIX))
    except ValueError as error:
        raise ValueError(f"{where}: {first_line(error, MAX_MESSAGE_CHARS)}") from error
    except SandboxError as error:
        raise SandboxError(f"{where}: {first_line(error, MAX_MESSAGE_CHARS)}") from error


def _check_types(where: str, kind: Any, options: Mapping[str, Any]) -> None:
    """Compares options with the annotations of a class that is not ours, as far as these are
    simple: it would take `"12"` for an int, and fail at its first rollout.

    Raises:
        ValueError: an option has another type.
    """
    try:
        annotations = get_type_hints(kind.__init__)
    except Exception:  # noqa: BLE001  such as a name that is imported for type checkers only
        return
    for name, value in options.items():
        annotation: Any = annotations.get(name)
        if not _is_simple(annotation):
            continue
        try:
            TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{where}: {_describe(error, name)}") from error


def _is_simple(annotation: Any) -> bool:
    """Whether it is one of TOML's types, a list of one, or a choice of values."""
    if get_origin(annotation) is list:
        return all(one in _TOML_TYPES for one in get_args(annotation))
    return annotation is list or annotation in _TOML_TYPES or get_origin(annotation) is Literal


def _import_term(where: str, path: str) -> Any:
    """The class that `package.module:Class` names."""
    module, colon, name = path.partition(":")
    if not colon:
        near = get_close_matches(path.lower(), TERMS, n=1)
        own = "; a term of yours is written package.module:Class" if "." in path else ""
        list_them = f"; did you mean {near[0]!r}?" if near else "; list them: python -m sar terms"
        raise ValueError(f"{where} is unknown{own or list_them}")
    try:
        return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # code of the user's own may raise anything
        raise ValueError(f"{where} cannot be imported: {one_line(error)}") from error


def _describe(error: ValidationError, *outer: str) -> str:
    """The first wrong key, its value, and what is allowed.

    Args:
        outer: the keys before the error's own.
    """
    first = error.errors(include_url=False)[0]
    key = ".".join(
        f"{part}" if isinstance(part, str) else f"[{part + 1}]" for part in (*outer, *first["loc"])
    ).replace(".[", "[")
    match first["type"]:
        case "missing":
            return f"{key} is missing"
        case "string_pattern_mismatch":
            return f"{key} = {quote(first['input'])}: must be {_NAME_IN_WORDS}"
        case "list_type" | "too_short" | "model_type" if first["loc"][:1] == ("terms",):
            return "write [[terms]] for each term"
        case error_type if error_type == UNSHOWN:
            return f"{key} must be {first['msg']}"
        case _:
            message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            given = "" if first["input"] is None else f" = {quote(first['input'])}"
            _, should_have, rest = message.partition(" should have ")
            return f"{key}{given}: must {f'have {rest}' if should_have else f'be {message}'}"
