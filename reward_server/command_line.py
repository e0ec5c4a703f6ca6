"""The server's command line and docs/configuration.md, both made of the declaration of its settings
in `ServerConfig`. To write the documentation again:

    python -m reward_server.command_line > docs/configuration.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from reward_server.config import ENV_PREFIX, ServerConfig, to_flag, to_variable
from sar.arguments import CommandParser
from sar.errors import quote


def parse_args(argv: Sequence[str] | None = None) -> ServerConfig:
    """The configuration from a command line and the environment.

    A wrong value ends the process with exit code 2 and one line that names it.
    """
    parser = _build_parser()
    flags = vars(parser.parse_args(argv))
    try:
        return ServerConfig(**flags)
    except ValidationError as error:
        detail = error.errors()[0]
        if not detail["loc"]:  # from `_check`
            parser.error(str(detail["ctx"]["error"]))
        name = str(detail["loc"][0])
        source = to_flag(name) + " " if name in flags else to_variable(name) + "="
        parser.error(f"{source}{quote(str(detail['input']))}: must be {_describe_values(name)}")


def render_docs() -> str:
    """The text of docs/configuration.md."""
    parts = [_DOCS_HEAD]
    for group, names in _group_names():
        rows = "".join(_render_row(name) for name in names)
        parts.append(f"## {group}\n\n{_DOCS_COLUMNS}{rows}")
    return "\n".join(parts)


_DOCS_HEAD = f"""# Configuration

<!-- Written by `python -m reward_server.command_line > docs/configuration.md`; do not edit. -->

Settings of the server, `python -m reward_server`. Each is a flag and an environment variable:
`--max-batch-tokens 8192` and `{ENV_PREFIX}MAX_BATCH_TOKENS=8192` are the same. If both are given,
the flag wins.
"""
_DOCS_COLUMNS = "| setting | value | default | what it does |\n| --- | --- | --- | --- |\n"


def _render_row(name: str) -> str:
    setting = _read_declaration()[name]
    names = f"`{to_variable(name)}`"
    if _is_flag(name):
        names = f"`{to_flag(name)}`<br>{names}"
    default = setting["default_in_words"] or f"`{setting['default']}`"
    return f"| {names} | {_describe_values(name)} | {default} | {setting['description']} |\n"


@cache
def _read_declaration() -> dict[str, dict[str, Any]]:
    """Each setting's JSON schema: type, bounds, choices, default, and what `_setting` adds."""
    properties = ServerConfig.model_json_schema()["properties"]
    # An optional setting is `anyOf`: its type, or null.
    return {name: {**p, **p.get("anyOf", [{}])[0]} for name, p in properties.items()}


def _group_names() -> Iterator[tuple[str, list[str]]]:
    """Each group with the names of its settings, in their order."""
    settings = _read_declaration()
    for group, names in groupby(settings, lambda name: settings[name]["group"]):
        yield str(group), list(names)


def _describe_values(name: str) -> str:
    """The values that a setting may have, such as "a whole number from 0 to 65535"."""
    setting = _read_declaration()[name]
    if "enum" in setting:
        return "one of " + ", ".join(setting["enum"])
    if setting["type"] == "boolean":
        return "true or false"
    if setting["type"] == "string":
        return "text"
    kind = "a whole number" if setting["type"] == "integer" else "a number"
    return f"{kind} from {setting['minimum']:g} to {setting['maximum']}"


def _is_flag(name: str) -> bool:
    return not _read_declaration()[name].get("writeOnly")  # pydantic's mark of a secret


def _build_parser() -> argparse.ArgumentParser:
    """A parser that collects the text of the flags given; `ServerConfig` checks it."""
    parser = CommandParser(
        prog="python -m reward_server",
        usage="%(prog)s [--model PATH_OR_ID] [--port PORT] [options]; --help lists them",
        description="Serves correctness + SAR rewards to OpenRLHF (--reward.remote_url).",
        epilog=f"Every flag is also an environment variable: {to_variable('port')}=5000.",
        argument_default=argparse.SUPPRESS,
    )
    for group, names in _group_names():
        section = parser.add_argument_group(group)
        for name in filter(_is_flag, names):
            setting = _read_declaration()[name]
            if setting["type"] == "boolean":
                section.add_argument(
                    to_flag(name), action="store_true", help=setting["description"]
                )
                continue
            default = setting.get("default")
            default = setting["default_in_words"] if default is None else default
            text = f"{setting['description']} (default: {default})".replace("%", "%%")
            metavar = setting["value"] or name.rpartition("_")[2].upper()
            if "enum" in setting:
                metavar = "{" + ",".join(setting["enum"]) + "}"
            section.add_argument(to_flag(name), metavar=metavar, help=text)
    return parser


if __name__ == "__main__":
    sys.stdout.write(render_docs())
