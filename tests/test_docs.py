"""What the documentation names exists: links, files, tests, make targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("sar", "reward_server", "eval", "recipes", "performance", "monitoring", "deploy"),
    *("tests", "docs"),
)
# docs/architecture.md leaves out `reward_server/`.
SERVER_FOLDERS = ("http", "pipeline", "weights", "observe")
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(p for name in FOLDERS for p in ROOT.glob(f"{name}/**/*.md"))]
    if ".pytest_cache" not in page.parts
)
MAX_README_LINES = 130

LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS + SERVER_FOLDERS)})/(?:[\w./-]*(?:/|\.\w+))?)`")
CHAOS_TEST = re.compile(r"::(test_\w+)`")
PYTEST = re.compile(r"pytest (?:-\w )?(tests/[\w./]+)")
MAKE = re.compile(r"(?:`| {4})make ([a-z0-9-]+)")


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = []
    for path, anchor in LINK.findall(text):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in heading_anchors(target)):
            missing.append(f"{path}#{anchor}")
    folders = (ROOT, ROOT / "reward_server")
    paths = PATH.findall(text) + PYTEST.findall(text)
    missing += [path for path in paths if not any((f / path).exists() for f in folders)]
    assert missing == []


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {name for page in PAGES for name in MAKE.findall(page.read_text(encoding="utf-8"))}
    assert {"demo", "test"} <= named
    assert {name for name in named if not re.search(f"^{name}:", makefile, re.M)} == set()


def test_every_promise_names_a_test() -> None:
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    tests = "".join(p.read_text(encoding="utf-8") for p in ROOT.glob("tests/**/test_*.py"))
    names = CHAOS_TEST.findall(operations)
    assert len(names) > 20
    assert [name for name in names if f"def {name}(" not in tests] == []


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES
