"""Loads a model with its tokenizer. Imports torch, transformers or vLLM only when called."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from reward_server.config import ServerConfig
from reward_server.observe.logs import adopt_loggers
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.batcher import Batcher, BatcherCounters
from reward_server.pipeline.engine import Engine
from reward_server.weights.checkpoints import LORA_ADVICE
from reward_server.weights.identity import describe_tokenizer
from sar.scoring.base import ScoringPath
from sar.special_tokens import read_eos_token_ids
from sar.tokenization import RolloutTokenizer

if TYPE_CHECKING:
    from sar.scoring.transformers_scorer import TransformersScorer
    from sar.scoring.vllm_scorer import VllmScorer

_log = logging.getLogger("reward_server")


def load_engine(
    config: ServerConfig, metrics: Metrics, counters: BatcherCounters, path: str
) -> Engine:
    """Loads the model at `path`, a folder or Hugging Face id, as `config` says.

    Args:
        metrics, counters: the server's, which outlive each engine.
    Raises:
        Exception: of any kind; a broken model folder raises whatever the libraries do.
    """
    _refuse_adapter(path)
    scorer = load_scorer(config, path)
    from transformers import AutoTokenizer  # slow: imported after a missing vLLM was reported

    limits = [n for n in (scorer.max_context_tokens, config.max_context_tokens) if n]
    max_context_tokens = min(limits, default=None)
    own = AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    tokenizer = RolloutTokenizer(
        own,
        system_prompt=config.system_prompt,
        standalone_prompt=config.standalone_prompt,
        max_context_tokens=max_context_tokens,
        eos_token_ids=read_eos_token_ids(path),
    )
    scoring_path = _find_scoring_path(scorer)
    _log.info(
        "model %s: %s; scoring path %s%s",
        path,
        scorer.description,
        scoring_path.name,
        f" ({scoring_path.reason})" if scoring_path.reason else "",
    )
    _log.info(
        "limits: %d tokens per forward pass, context of %s tokens, %d queued tokens, "
        "%g s per request, %d graders with %g s per response",
        config.max_batch_tokens,
        max_context_tokens or "unlimited",
        config.max_queued_tokens,
        config.request_timeout,
        config.grader_workers,
        config.grader_timeout,
    )
    batcher = Batcher(scorer, config.max_batch_tokens, metrics, counters)
    identity = scorer.architecture | describe_tokenizer(own, tokenizer)
    return Engine(
        tokenizer, batcher, path, identity, scorer.make_room_check(), scoring_path=scoring_path
    )


def _find_scoring_path(scorer: TransformersScorer | VllmScorer) -> ScoringPath:
    from sar.scoring.vllm_scorer import VllmScorer

    return ScoringPath("vllm") if isinstance(scorer, VllmScorer) else scorer.path


def _refuse_adapter(path: str) -> None:
    """
    Raises:
        ValueError: the model is a LoRA adapter. transformers would load it if peft is installed,
            and its base model from wherever the adapter says.
    """
    from transformers.utils import find_adapter_config_file

    if find_adapter_config_file(path) is not None:
        raise ValueError(f"it {LORA_ADVICE}")


def load_scorer(config: ServerConfig, path: str) -> TransformersScorer | VllmScorer:
    """Loads the model at `path` with the configured backend."""
    if config.backend == "vllm":
        from sar.scoring.vllm_import import import_vllm
        from sar.scoring.vllm_scorer import VllmScorer

        import_vllm()  # adds the handlers that `adopt_loggers` removes, in this process
        adopt_loggers("vllm", "transformers", "huggingface_hub")
        return VllmScorer.from_pretrained(
            path,
            dtype=config.dtype,
            max_batch_tokens=config.max_batch_tokens,
            tensor_parallel_size=config.tensor_parallel_size,
            trust_remote_code=config.trust_remote_code,
        )
    import transformers.utils.logging  # noqa: F401  adds the handlers that `adopt_loggers` removes

    from sar.scoring.transformers_scorer import TransformersScorer

    adopt_loggers("transformers", "huggingface_hub")
    return TransformersScorer.from_pretrained(
        path,
        device=config.device,
        dtype=config.dtype,
        max_batch_tokens=config.max_batch_tokens,
        trust_remote_code=config.trust_remote_code,
    )
