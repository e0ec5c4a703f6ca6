"""Finds a model's folder: a local one, or the hub's cache."""

from __future__ import annotations

from pathlib import Path

from sar.errors import first_line

# Configs, tokenizer and weights. Code stays behind, and so do subfolders with other formats.
MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.tiktoken", "*.txt")


def fetch_model(model: str) -> Path:
    """The folder of a model.

    Args:
        model: a folder or hub id. A hub id that is not in the cache is fetched.
    Raises:
        ValueError: it is neither.
    """
    if Path(model).is_dir():
        return Path(model).resolve()
    from huggingface_hub import snapshot_download

    try:
        # Subfolders and consolidated.safetensors have the same weights in other formats.
        folder = snapshot_download(
            model, allow_patterns=list(MODEL_FILES), ignore_patterns=["*/*", "consolidated*"]
        )
    except Exception as error:  # the hub's, the network's and the disk's
        raise ValueError(
            f"{model} is no folder, and cannot be fetched from the hub: {first_line(error)}"
        ) from error
    return Path(folder)
