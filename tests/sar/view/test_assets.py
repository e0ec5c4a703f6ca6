"""The files of the page are all served, and the vendored ones are as they were released."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sar.view import assets

PAGE = Path(assets.__file__).parent / "page"
VENDORED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def test_every_file_is_served_and_every_reference_exists() -> None:
    names = {path.name for path in PAGE.rglob("*") if path.is_file()}
    served = {name for name in names if assets.read_asset(name)}
    assert names - served == {"LICENSE.uPlot.txt", "README.md"}
    texts = {name: (PAGE / name).read_text("utf-8") for name in ("index.html", "app.js")}
    linked = re.findall(r'(?:href|src)="dashboard/([^"]+)"', texts["index.html"])
    imported = [
        n for path in PAGE.glob("*.js") for n in re.findall(r'from "./(.+)"', path.read_text())
    ]
    assert {*linked, *imported, "index.html"} == served


def test_no_file_of_ours_makes_html_of_text_or_names_another_server() -> None:
    for path in PAGE.glob("*.*"):
        text = path.read_text("utf-8")
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ):
            assert forbidden not in text, path
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, path


def test_the_vendored_files_are_as_they_were_released() -> None:
    for name, digest in VENDORED.items():
        asset = assets.read_asset(name)
        assert asset is not None
        assert hashlib.sha256(asset.body).hexdigest() == digest
    version = re.search(r"\(v([\d.]+)\)", (PAGE / "vendor/uPlot.iife.min.js").read_text("utf-8"))
    assert version is not None
    assert f"uPlot) {version[1]}, MIT" in (PAGE / "vendor/README.md").read_text("utf-8")
    assert "Leon Sorokin" in (PAGE / "vendor/LICENSE.uPlot.txt").read_text("utf-8")
