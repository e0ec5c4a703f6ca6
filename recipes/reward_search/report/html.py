"""report.html: one file that loads nothing from the network and runs no script.

Candidates' code and a language model's texts are not trusted. The template escapes them, and a
content security policy allows no script at all.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recipes.reward_search.report.content import Content
from recipes.reward_search.report.figure import ALT_TEXT
from recipes.reward_search.report.tables import make_tables
from recipes.reward_search.report.wording import describe_outcome

_PAGE = Path(__file__).parent / "page"


def render_html(content: Content, picture: Path | None) -> str:
    """
    Args:
        picture: a PNG to embed.
    """
    style = (_PAGE / "search.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = content.search.settings
    by_name = {one.name: one for one in content.candidates}
    return environment.get_template("search.html.jinja").render(
        outcome=describe_outcome(content),
        settings={
            name.replace("_", " "): value for name, value in settings.flatten().items() if value
        },
        tables=make_tables(content),
        picture=_make_data_uri(picture) if picture else None,
        alt_text=ALT_TEXT,
        screened=[(place, by_name[name]) for place, name in enumerate(content.ranked, 1)],
        rejected=[one for one in content.candidates if one.status == "rejected"],
        others=[one for one in content.candidates if one.status in ("waiting", "failed")],
        winner=content.winner,
        style=style,
        style_hash=_hash_for_csp(style),
    )


def _hash_for_csp(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _make_data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
