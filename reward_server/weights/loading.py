"""Loads a model with its tokenizer. Imports torch, transformers or vLLM only when called."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reward_server.config import ServerConfig
from reward_server.observe.logs import adopt_loggers
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.weights.checkpoints import read_signature
from reward_server.weights.identity import describe_tokenizer
from reward_server.weights.inspection import Inspector, load_tokenizers, refuse_adapter
from reward_server.weights.remote import RemoteScorers
from sar.scoring.base import ScoringPath
from sar.tokenization import RolloutTokenizer

if TYPE_CHECKING:
    from sar.scoring.transformers_scorer import TransformersScorer
    from sar.scoring.vllm_process import VllmProcess

_log = logging.getLogger("reward_server")


class EngineLoader:
    """Loads engines as the configuration says."""

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        counters: BatcherCounters,
        on_lost: Callable[[], None],
        scorers: RemoteScorers | None = None,
    ) -> None:
        """
        Args:
            metrics, counters: the server's, which outlive each engine.
            on_lost: called if the scorer has ended and cannot be started again.
            scorers: load the model elsewhere; None: it is loaded in this process.
        """
        self._config = config
        self._metrics = metrics
        self._counters = counters
        self._on_lost = on_lost
        self._scorers = scorers
        self.inspector = Inspector(config) if config.backend == "vllm" else None
        """Checks a checkpoint before it is loaded; None if loading it checks it."""

    def load(self, path: str) -> Engine:
        """Loads the model at `path`, a folder or Hugging Face id.

        Raises:
            Exception: of any kind; a broken model folder raises whatever the libraries do.
        """
        refuse_adapter(path)
        if self._scorers:
            return self._load_elsewhere(path, self._scorers)
        scorer = self.load_scorer(path)
        own, tokenizer = load_tokenizers(self._config, path, scorer.max_context_tokens)
        self._log_facts(path, scorer.description, scorer.scoring_path, tokenizer)
        return Engine(
            tokenizer,
            Batcher(scorer, self._config.max_batch_tokens, self._metrics, self._counters),
            path,
            scorer.architecture | describe_tokenizer(own, tokenizer),
            scorer.make_room_check(),
            scoring_path=scorer.scoring_path,
        )

    def _load_elsewhere(self, path: str, scorers: RemoteScorers) -> Engine:
        """Has the scorers load the model. This process needs its tokenizer only."""
        if self.inspector:  # so that no scorer loads what vLLM does not check
            architecture = self.inspector.read_architecture(path)
        model = scorers.load(path)
        batcher = Batcher(
            None, self._config.max_batch_tokens, self._metrics, self._counters, model.unload
        )
        try:
            facts = model.facts
            if not self.inspector:
                architecture = facts["architecture"]
            own, tokenizer = load_tokenizers(self._config, path, facts["max_context_tokens"])
            scoring_path = ScoringPath(*facts["scoring_path"])
            identity = architecture | describe_tokenizer(own, tokenizer)
            model.serve(batcher)
        except BaseException:
            batcher.close()  # this unloads the model
            raise
        self._log_facts(path, facts["description"], scoring_path, tokenizer)
        return Engine(
            tokenizer, batcher, path, identity, model.has_room_for_copy, scoring_path=scoring_path
        )

    def _log_facts(
        self, path: str, description: str, scoring_path: ScoringPath, tokenizer: RolloutTokenizer
    ) -> None:
        config = self._config
        _log.info(
            "model %s: %s; scoring path %s%s",
            path,
            description,
            scoring_path.name,
            f" ({scoring_path.reason})" if scoring_path.reason else "",
        )
        _log.info(
            "limits: %d tokens per forward pass, context of %s tokens, %d queued tokens, "
            "%g s per request, %d graders with %g s per response",
            config.max_batch_tokens,
            tokenizer.max_context_tokens or "unlimited",
            config.max_queued_tokens,
            config.request_timeout,
            config.grader_workers,
            config.grader_timeout,
        )

    def load_scorer(self, path: str) -> TransformersScorer | VllmProcess:
        """Loads the model at `path` with the configured backend."""
        import transformers.utils.logging  # noqa: F401  adds handlers that `adopt_loggers` removes

        adopt_loggers("transformers", "huggingface_hub")
        return self._start_vllm(path) if self.inspector else self._load_transformers(path)

    def _load_transformers(self, path: str) -> TransformersScorer:
        from sar.scoring.transformers_scorer import TransformersScorer

        return TransformersScorer.from_pretrained(
            path,
            device=self._config.device,
            dtype=self._config.dtype,
            max_batch_tokens=self._config.max_batch_tokens,
            trust_remote_code=self._config.trust_remote_code,
        )

    def _start_vllm(self, path: str) -> VllmProcess:
        from sar.scoring.vllm_process import VllmProcess

        assert self.inspector
        loaded = read_signature(Path(path))
        return VllmProcess(
            path,
            architecture=self.inspector.read_architecture(path),
            has_changed=lambda: read_signature(Path(path)) != loaded,
            on_lost=self._on_lost,
            dtype=self._config.dtype,
            max_batch_tokens=self._config.max_batch_tokens,
            memory_share=self._config.vllm_memory_share,
            tensor_parallel_size=self._config.tensor_parallel_size,
            trust_remote_code=self._config.trust_remote_code,
        )
