"""Lists the terms that a reward can be composed of, or checks a reward file or a candidate.

python -m sar terms
python -m sar terms copied overlong
python -m sar terms --check reward.toml
python -m sar terms --check candidate.py
python -m sar terms --update docs/rewards.md
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sar.arguments import CommandParser
from sar.errors import quote

if TYPE_CHECKING:
    from sar.terms.catalogue import TermDescription
    from sar.terms.composition import Composition, WeightedTerm

_MIN_WIDTH, _MAX_WIDTH = 60, 100
_INDENT = " " * 10


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = _parse(argv)
    # Imported here, so that --help is instant.
    from sar.pages import PageError, update_page
    from sar.terms.catalogue import UPDATE_COMMAND, list_terms, render_tables
    from sar.terms.reward_file import RewardFileError

    try:
        if arguments.check and arguments.check.suffix == ".py":
            return _check_candidate(arguments.check)
        if arguments.check:
            sys.stdout.write(_format_reward(_read_reward(arguments.check)))
        elif arguments.update:
            update_page(arguments.update, UPDATE_COMMAND, render_tables(list_terms()))
        else:
            sys.stdout.write(_format_terms(list_terms(), arguments.name))
    except BrokenPipeError:
        raise
    except (RewardFileError, PageError, _UsageError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


class _UsageError(ValueError):
    """What the command line names does not exist, or cannot be used here."""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m sar terms",
        description="Lists the terms that a reward can be composed of: what each pays, its\n"
        "formula, range, source and options. docs/rewards.md says how to compose a reward.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="show these terms only, with all details")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="check a reward file (.toml), and show its sum; or try a candidate (.py) on right, "
        "wrong and hostile responses and on attacks, which takes about half a minute: exit status "
        "1 if it is rejected",
    )
    mode.add_argument(
        "--update",
        type=Path,
        metavar="PAGE.md",
        help="write the tables of terms into a page, between its markers",
    )
    arguments = parser.parse_args(argv)
    if arguments.check and any(Path(name).suffix for name in arguments.name):
        parser.error(f"--check takes one file; leave out {quote(arguments.name[0])}")
    if arguments.name and (arguments.check or arguments.update):
        parser.error("a term's name cannot be combined with --check or --update")
    return arguments


def _read_reward(path: Path) -> Composition:
    from sar.terms.reward_file import RewardFileError, read_reward_file

    try:
        return read_reward_file(path)
    except RewardFileError as error:
        if path.suffix == ".toml":
            raise
        raise _UsageError(f"{error}; give a reward file (.toml) or a candidate (.py)") from error


def _check_candidate(path: Path) -> int:
    """Tries a candidate as the search for rewards does."""
    from sar.probe.scorer import ProbeError
    from sar.terms.candidate.batch import load_batch
    from sar.terms.candidate.errors import CandidateError, SandboxError
    from sar.terms.candidate.source import check_source
    from sar.terms.candidate.term import read_source
    from sar.terms.candidate.validate import Rejection, validate

    try:
        source = read_source(path)
        check_source(source)  # first, as the batch needs the model, which takes long to load
        batch = load_batch()
        found = validate(source, batch)
    except CandidateError as error:
        return _reject(error.fault, str(error))
    except (ValueError, ProbeError, SandboxError) as error:
        raise _UsageError(str(error)) from error
    if isinstance(found, Rejection):
        return _reject(found.check, found.reason)
    sys.stdout.write(
        f"accepted: over {len(batch)} responses, right ones earn {found.mean_right:.3g} and wrong "
        f"ones {found.mean_wrong:.3g} on average; no attack earns more than honest right ones; a "
        f"call takes {found.call_s * 1e3:.2g} ms\n"
    )
    return 0


def _reject(check: str, reason: str) -> int:
    sys.stdout.write(f"rejected ({check}): {reason}\n")
    return 1


def _format_terms(terms: Sequence[TermDescription], names: Sequence[str]) -> str:
    known = [term.name for term in terms]
    if unknown := [name for name in names if name not in known]:
        raise _UsageError(f"{quote(unknown[0])} is unknown; known: {', '.join(known)}")
    chosen = [term for term in terms if not names or term.name in names]
    formatted = ("\n".join(_format_term(term, bool(names))) for term in chosen)
    return "\n".join(f"{text}\n" for text in formatted)


def _format_term(term: TermDescription, with_details: bool) -> Iterator[str]:
    yield term.name
    yield from _wrap("does", term.summary)
    for paragraph in term.details if with_details else ():
        yield from _wrap("", paragraph)
    yield from _wrap("value", term.formula)
    yield from _wrap("range", term.bounds)
    yield from _wrap("source", term.source)
    if term.compares:
        yield from _wrap("needs", "group_size in the reward file, as it compares rollouts")
    for number, option in enumerate(term.options):
        text = f"{option.name} = {option.default}. {option.meaning}"
        yield from _wrap("options" if number == 0 else "", text.rstrip())


def _wrap(title: str, text: str) -> list[str]:
    width = min(max(shutil.get_terminal_size((_MAX_WIDTH, 24)).columns, _MIN_WIDTH), _MAX_WIDTH)
    first = f"  {title}".ljust(len(_INDENT)) + " "
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=_INDENT + "   ")


def _format_reward(composition: Composition) -> str:
    from sar.grading.label import Label

    first, *others = map(_format_summand, composition.terms)
    lines = [f"reward = {first.removeprefix('+ ')}", *(f"       {other}" for other in others)]
    if composition.group_size:
        lines.append(f"rollouts of a prompt: {composition.group_size}")
    if composition.normalize == "gdpo":
        lines.append("each term is normalised in its group before the sum (GDPO)")
    try:
        composition.check_label(Label("0", "math"))
    except ValueError as error:
        lines.append(f"note: {error}")
    return "\n".join(lines) + "\n"


def _format_summand(one: WeightedTerm) -> str:
    sign = "-" if one.weight < 0 else "+"
    condition = f", if the answer is {one.only_if}" if one.only_if else ""
    return f"{sign} {abs(one.weight):g} x {one.name}{condition}"
