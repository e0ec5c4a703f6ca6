"""The files of the page, and the headers that they and their data are served with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "page"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {
    name: name
    for name in (
        "alarms.js",
        "app.js",
        "charts.js",
        "data.js",
        "rollout.js",
        "scorers.js",
        "style.css",
        "icon.svg",
    )
} | {name: f"vendor/{name}" for name in ("uPlot.iife.min.js", "uPlot.min.css")}

PAGE = "index.html"
JSON = "application/json"
# Nothing comes from elsewhere, no script stands in the page, and no other page can frame it: should
# a text of a model ever be taken for HTML, the browser runs none of it.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Asset(NamedTuple):
    """A file as it is served."""

    body: bytes
    kind: str


@cache
def read_asset(name: str) -> Asset | None:
    """A file of the page; None if there is none of this name."""
    path = PAGE if name == PAGE else _FILES.get(name)
    if path is None:
        return None
    file = _FOLDER / path
    return Asset(file.read_bytes(), _KINDS[file.suffix])
