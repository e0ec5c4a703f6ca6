"""Saves a model in one step: its folder appears only when it is complete."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes to `folder.unfinished` and then renames it. `folder` must not exist yet."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
