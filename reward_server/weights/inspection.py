"""Checks a checkpoint before vLLM loads it, so that one that is refused never interrupts service.

vLLM looks for no NaN and for no constant matrices, and starting it takes long. transformers loads
the checkpoint into the CPU's memory for a moment, with the same checks as in the other backend.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from reward_server.config import ServerConfig
from reward_server.weights.checkpoints import LORA_ADVICE, read_signature
from reward_server.weights.identity import describe_tokenizer
from sar.special_tokens import read_eos_token_ids
from sar.tokenization import RolloutTokenizer


def load_tokenizers(
    config: ServerConfig, path: str, max_context_tokens: int | None = None
) -> tuple[Any, RolloutTokenizer]:
    """The tokenizer of the model at `path`, and the server's own, made of it.

    Args:
        max_context_tokens: the scorer's limit. The shorter of this and the configured one holds.
    """
    from transformers import AutoTokenizer

    limits = [n for n in (max_context_tokens, config.max_context_tokens) if n]
    own = AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    return own, RolloutTokenizer(
        own,
        system_prompt=config.system_prompt,
        standalone_prompt=config.standalone_prompt,
        max_context_tokens=min(limits, default=None),
        eos_token_ids=read_eos_token_ids(path),
    )


def refuse_adapter(path: str) -> None:
    """
    Raises:
        ValueError: the model is a LoRA adapter. transformers would load it if peft is installed,
            and its base model from wherever the adapter says.
    """
    from transformers.utils import find_adapter_config_file

    if find_adapter_config_file(path) is not None:
        raise ValueError(f"it {LORA_ADVICE}")


class Inspector:
    """Finds out what model a checkpoint is of, and refuses weights that no trained model has."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        # The checkpoint read last: it is inspected before the old engine ends, and then loaded.
        self._last: tuple[str, Hashable] | None = None
        self._architecture: dict[str, str] = {}

    def identify(self, path: str) -> dict[str, str]:
        """The checkpoint's identity, as `Engine.identity` has it.

        Raises:
            Exception: of any kind; the model at `path` cannot be used.
        """
        refuse_adapter(path)
        architecture = self.read_architecture(path)
        return architecture | describe_tokenizer(*load_tokenizers(self._config, path))

    def read_architecture(self, path: str) -> dict[str, str]:
        """Class, sizes and settings by name. Reads all weights, unless they were read last.

        Raises:
            Exception: of any kind; the model at `path` cannot be used.
        """
        signature = read_signature(Path(path))
        if self._last != (path, signature):
            self._architecture = self._inspect(path)
            self._last = path, signature
        return dict(self._architecture)

    def _inspect(self, path: str) -> dict[str, str]:
        from transformers import AutoConfig

        from sar.scoring.checkpoint import (
            describe_architecture,
            describe_config,
            load_model,
            raise_if_untrained,
        )

        trust = self._config.trust_remote_code
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust)
        if getattr(config, "quantization_config", None) is not None:
            # transformers needs a package of each quantisation to load it; vLLM brings its own.
            return {"class": ", ".join(config.architectures or ()), **describe_config(config)}
        model = load_model(path, dtype=self._config.dtype, trust_remote_code=trust)
        raise_if_untrained(model)
        return describe_architecture(model)
