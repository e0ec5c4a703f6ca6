"""Checks the source of a candidate before it runs, for messages with a line number.

Python parses the source, and never runs it.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import warnings
from collections.abc import Iterator
from difflib import get_close_matches

from sar.errors import quote, shorten
from sar.terms.candidate.errors import CandidateError
from sar.terms.candidate.language import (
    ALLOWED_NODES,
    BUILTINS,
    DICT_METHODS,
    MODULES,
    REFUSED_NAMES,
    REFUSED_NODES,
)
from sar.terms.candidate.sample import FIELDS

FUNCTION = "reward"
"""The function that a candidate defines."""

MAX_SOURCE_CHARS = 10_000
"""Deeper nesting than fits in here could overflow the parser's stack."""

_OUTSIDE = "only functions, constants, `import math` and `import re` may stand outside functions"
_FENCE = "```"


def check_source(source: str) -> None:
    """
    Raises:
        CandidateError: the source is no candidate. The message names the line and what to write.
    """
    tree = _parse(source)
    for node in ast.walk(tree):
        _check_node(node)
    parameter = _check_module(tree)
    _check_names(tree)
    for node in ast.walk(_find_function(tree)):
        _check_field(node, parameter)


def _refuse(node: ast.AST | int, message: str) -> CandidateError:
    line = node if isinstance(node, int) else getattr(node, "lineno", 0)
    return CandidateError(f"line {line}: {message}" if line else message, "source")


def _parse(source: str) -> ast.Module:
    if len(source) > MAX_SOURCE_CHARS:
        raise _refuse(0, f"{len(source):,} characters; at most {MAX_SOURCE_CHARS:,} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `1and x` and "\d" are Python: nothing to report
            return ast.parse(source)
    except SyntaxError as error:
        raise _refuse(error.lineno or 0, _describe_syntax(source, error)) from None
    except UnicodeEncodeError:
        raise _refuse(0, "not a text: it has half of a surrogate pair in it") from None
    except (RecursionError, MemoryError):
        raise _refuse(0, "nested too deeply") from None
    except ValueError as error:
        raise _refuse(0, f"not Python: {shorten(str(error))}") from None


def _describe_syntax(source: str, error: SyntaxError) -> str:
    """Language models wrap code in Markdown, or begin with a sentence. Python's message does not
    say so."""
    message = f"not Python: {shorten(error.msg)}"
    lines = source.splitlines()[: error.lineno or 0]
    if not lines:
        return message
    *before, line = map(str.strip, lines)
    if line.startswith(_FENCE):
        return f"Markdown, not Python; remove the {_FENCE} lines"
    word = line.partition(" ")[0].rstrip(":(")
    is_first = all(not one or one.startswith("#") for one in before)
    if is_first and not keyword.iskeyword(word) and "=" not in line:
        return f"{message}; the file must hold code only"
    return message


def _check_node(node: ast.AST) -> None:
    if isinstance(node, ast.ImportFrom):
        raise _refuse(node, f"`from ... import` is not allowed; {_suggest_import(node)}")
    for refused, (name, instead) in REFUSED_NODES.items():
        if isinstance(node, refused):
            raise _refuse(node, f"{name} is not allowed; {instead}")
    if not isinstance(node, ALLOWED_NODES):
        raise _refuse(node, f"{type(node).__name__} is not allowed; leave it out")
    if isinstance(node, ast.FunctionDef) and node.decorator_list:
        raise _refuse(node, "a decorator is not allowed; call the function itself")
    if isinstance(node, ast.Import):
        _check_import(node)
    if isinstance(node, ast.Attribute):
        if node.attr.startswith("_"):
            raise _refuse(node, f"{quote(node.attr)} is not allowed; it starts with _")
        if not isinstance(node.ctx, ast.Load):
            raise _refuse(node, "an attribute cannot be set; keep values in local variables")
    if any(name.startswith("__") for name in _list_bound(node)):
        raise _refuse(node, "a name cannot start with __; call it something else")


def _check_import(node: ast.Import) -> None:
    for one in node.names:
        if one.name not in MODULES:
            allowed = "only `import math` and `import re` are"
            raise _refuse(node, f"`import {shorten(one.name, 40)}` is not allowed; {allowed}")
        if one.asname:
            raise _refuse(node, f"write `import {one.name}`, without `as`")


def _suggest_import(node: ast.ImportFrom) -> str:
    if node.module not in MODULES:
        return f"only {' and '.join(sorted(MODULES))} can be imported"
    name = node.names[0].name
    use = "" if name == "*" else f" and `{node.module}.{shorten(name, 40)}`"
    return f"write `import {node.module}`{use}"


def _check_module(tree: ast.Module) -> str:
    """Returns the name of the parameter of `reward`."""
    for node in tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_text and not isinstance(
            node, (ast.FunctionDef, ast.Import, ast.Assign, ast.AnnAssign)
        ):
            is_block = isinstance(node, ast.If)  # mostly: if __name__ == "__main__"
            raise _refuse(node, f"{_OUTSIDE}; remove this block" if is_block else _OUTSIDE)
        if not isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                if FUNCTION in _list_bound(inner):
                    instead = (
                        "name this another way"
                        if _list_functions(tree)
                        else f"write `def {FUNCTION}(sample):` instead of an assignment"
                    )
                    raise _refuse(node, f"{FUNCTION!r} must be a function; {instead}")
    arguments = _find_function(tree).args
    ordinary = [*arguments.posonlyargs, *arguments.args]
    others = [*arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    if len(ordinary) != 1 or any(others) or arguments.defaults:
        raise _refuse(
            _find_function(tree), f"write `def {FUNCTION}(sample):`, with one parameter alone"
        )
    return ordinary[0].arg


def _list_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """The functions that are called `reward`."""
    return [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == FUNCTION
    ]


def _find_function(tree: ast.Module) -> ast.FunctionDef:
    found = _list_functions(tree)
    if not found:
        raise _refuse(0, f"there is no `def {FUNCTION}(sample):`")
    if len(found) > 1:
        raise _refuse(found[1], f"{FUNCTION!r} is defined twice; keep one")
    return found[0]


def _check_names(tree: ast.Module) -> None:
    """Refuses names that are nowhere defined. Annotations are never run, so theirs may be any."""
    bound = {name for node in ast.walk(tree) for name in _list_bound(node)}
    skipped = {id(inner) for node in _list_annotations(tree) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name) or id(node) in skipped:
            continue
        name = node.id
        if name in bound or name in BUILTINS:
            continue
        shown = quote(name, 60)
        if instead := REFUSED_NAMES.get(name):
            raise _refuse(node, f"{shown} is not allowed; {instead}")
        if name in MODULES:
            raise _refuse(node, f"{shown} is not imported; write `import {name}` at the top")
        if hasattr(builtins, name) or name.startswith("__"):
            raise _refuse(node, f"{shown} is not allowed; leave it out")
        near = get_close_matches(name, sorted(bound | BUILTINS), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise _refuse(node, f"{shown} is not defined{hint}")


def _list_annotations(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation:
            yield node.annotation
        if isinstance(node, ast.FunctionDef) and node.returns:
            yield node.returns


def _list_bound(node: ast.AST) -> list[str]:
    """The names that a node itself binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            return [name]
        case ast.FunctionDef(name=name) | ast.arg(arg=name) | ast.alias(name=name):
            return [name]
        case ast.ExceptHandler(name=str(name)):
            return [name]
    return []


def _check_field(node: ast.AST, parameter: str) -> None:
    """Refuses a field that the sample does not have."""
    match node:
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)) if (
            name == parameter
        ):
            _check_key(node, key)
            if not isinstance(node.ctx, ast.Load):
                raise _refuse(node, "the sample cannot be changed; keep values in local variables")
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=name), attr="get"), args=[ast.Constant(key), *_]
        ) if name == parameter:
            _check_key(node, key)
        case ast.Attribute(value=ast.Name(id=name), attr=key) if name == parameter:
            if key in FIELDS:
                raise _refuse(node, f"the sample is a dictionary: write {parameter}[{key!r}]")
            if key not in DICT_METHODS:
                _check_key(node, key)


def _check_key(node: ast.AST, key: object) -> None:
    if key not in FIELDS:
        raise _refuse(node, f"the sample has no {quote(key, 60)}; {_list_fields(key)}")


def iterates_over_sample(source: str) -> bool:
    """Whether `reward` goes over its argument as if that were a list of samples.

    Args:
        source: passes `check_source`.
    """
    tree = _parse(source)
    parameter = _check_module(tree)
    return any(
        isinstance(node, (ast.For, ast.comprehension))
        and isinstance(node.iter, ast.Name)
        and node.iter.id == parameter
        for node in ast.walk(_find_function(tree))
    )


def _list_fields(key: object) -> str:
    near = get_close_matches(str(key), FIELDS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(FIELDS)}"
