"""The part of Python that a candidate may use, and what to write instead of the rest.

The sandbox is the wall; these lists are here for messages that an author can act on, and to refuse
at once what would fail later.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

MODULES = frozenset({"math", "re"})
"""The modules that a candidate may import."""

BUILTINS = frozenset(
    {
        *("abs", "all", "any", "bool", "chr", "dict", "divmod", "enumerate", "filter", "float"),
        *("frozenset", "int", "isinstance", "len", "list", "map", "max", "min", "ord", "pow"),
        *("range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip"),
        *("ArithmeticError", "AttributeError", "Exception", "IndexError", "KeyError"),
        *("LookupError", "OverflowError", "TypeError", "ValueError", "ZeroDivisionError"),
    }
)
"""The built-in names that a candidate may use."""

DICT_METHODS = frozenset({"get", "items", "keys", "values"})
"""What a candidate may call on its sample."""

ALLOWED_NODES: tuple[type[ast.AST], ...] = (
    *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Import, ast.alias),
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Pass, ast.If, ast.For, ast.While),
    *(ast.Break, ast.Continue, ast.Try, ast.ExceptHandler),
    *(ast.BoolOp, ast.NamedExpr, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Lambda, ast.Compare),
    *(ast.Dict, ast.Set, ast.List, ast.Tuple, ast.ListComp, ast.SetComp, ast.DictComp),
    *(ast.GeneratorExp, ast.comprehension, ast.Call, ast.keyword, ast.JoinedStr),
    *(ast.FormattedValue, ast.Constant, ast.Attribute, ast.Subscript, ast.Starred, ast.Name),
    *(ast.Slice, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)

REFUSED_NODES: Mapping[type[ast.AST], tuple[str, str]] = {
    ast.AsyncFunctionDef: ("an async function", "write a plain `def`"),
    ast.Await: ("`await`", "call plain functions only"),
    ast.ClassDef: ("a class", "use functions, tuples and dictionaries"),
    ast.Yield: ("`yield`", "build a list and return it"),
    ast.YieldFrom: ("`yield from`", "build a list and return it"),
    ast.With: ("`with`", "leave it out: there are no files or locks"),
    ast.Global: ("`global`", "pass values as arguments: no call may change the next"),
    ast.Nonlocal: ("`nonlocal`", "pass values as arguments"),
    ast.Delete: ("`del`", "leave it out"),
    ast.Raise: ("`raise`", "return a number for every sample"),
    ast.Assert: ("`assert`", "return a number for every sample"),
    ast.Match: ("`match`", "use if and elif"),
}
"""What is refused most often: its name, and what to use instead."""

REFUSED_NAMES: Mapping[str, str] = {
    "print": "return the number, and write nothing",
    "input": "all that is known stands in the sample",
    "open": "there are no files; all that is known stands in the sample",
    "eval": "read numbers with float() or int()",
    "exec": "write the code as functions",
    "compile": "write the code as functions; re.compile is allowed",
    "__import__": "only `import math` and `import re` are allowed",
    "getattr": "read fields as sample['...']",
    "setattr": "keep values in local variables",
    "hasattr": "use isinstance, or `in` for a dictionary",
    "type": "use isinstance",
    "callable": "leave it out",
    "next": "use a for loop",
    "iter": "use a for loop",
    "bytes": "texts are str; use ord() for the number of a letter",
    "repr": "use str()",
    "format": "use an f-string",
    "hash": "compare the values themselves",
    "id": "compare the values themselves",
    "BaseException": "catch Exception",
    "random": "a reward must be the same each time",
    "time": "a reward must be the same each time",
}
"""Names outside `BUILTINS` that authors try most often, and what to do instead."""
