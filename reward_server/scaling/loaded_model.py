"""A model that a scorer has loaded: the backend of `--backend`, in the scorer's process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_server.scaling.options import ModelOptions
from reward_server.weights.checkpoints import read_signature

if TYPE_CHECKING:
    from sar.scoring.transformers_scorer import TransformersScorer
    from sar.scoring.vllm_process import VllmProcess


class LoadedModel:
    """A loaded model. What stands in for it in tests has the same methods."""

    def __init__(self, scorer: TransformersScorer | VllmProcess, *, needs_files: bool) -> None:
        self.scorer = scorer
        self.needs_files = needs_files
        """Whether the files have to stay as long as the model is loaded."""
        self._has_room = scorer.make_room_check()

    @classmethod
    def load(cls, path: str, options: ModelOptions) -> LoadedModel:
        """Loads a folder or Hugging Face id.

        Raises:
            Exception: of any kind; a broken model folder raises whatever the libraries do.
        """
        if options.backend == "vllm":
            return cls(_start_vllm(path, options), needs_files=True)
        from sar.scoring.transformers_scorer import TransformersScorer

        scorer = TransformersScorer.from_pretrained(
            path,
            device=options.device,
            dtype=options.dtype,
            max_batch_tokens=options.max_batch_tokens,
            trust_remote_code=options.trust_remote_code,
        )
        return cls(scorer, needs_files=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What the front needs to know. The values are plain: they cross processes."""
        return {
            "architecture": dict(self.scorer.architecture),
            "max_context_tokens": self.scorer.max_context_tokens,
            "scoring_path": tuple(self.scorer.scoring_path),
            "description": self.scorer.description,
        }

    def has_room_for(self, num_copies: int) -> bool:
        """Whether memory has room for so many more models of this size."""
        return self._has_room(num_copies)

    def response_logprobs(self, sequences: Any) -> Any:
        """See `LogprobScorer`."""
        return self.scorer.response_logprobs(sequences)

    def close(self) -> None:
        """Ends the processes of the model, if it has any."""
        close: Callable[[], None] = getattr(self.scorer, "close", lambda: None)
        close()


def _start_vllm(path: str, options: ModelOptions) -> VllmProcess:
    from sar.scoring.vllm_process import VllmProcess

    loaded = read_signature(Path(path))
    return VllmProcess(
        path,
        architecture={},  # the front reads it from the checkpoint
        has_changed=lambda: read_signature(Path(path)) != loaded,
        on_lost=lambda: os._exit(1),  # Ray starts the scorer elsewhere
        dtype=options.dtype,
        max_batch_tokens=options.max_batch_tokens,
        memory_share=options.vllm_memory_share,
        tensor_parallel_size=options.tensor_parallel_size,
        trust_remote_code=options.trust_remote_code,
    )
