"""Loads the backend that --backend names."""

from __future__ import annotations

from eval.backends.base import Backend, Sampling
from eval.run.config import RunConfig


def load_backend(config: RunConfig) -> Backend:
    """Loads the model, or connects to the server. torch, vLLM and openai are imported only here.

    Raises:
        UserError: the model cannot be loaded, or the server does not answer.
    """
    sampling = Sampling(config.temperature, config.top_p, config.max_tokens)
    if config.backend == "openai":
        return _openai_backend(config, sampling)
    if config.backend == "vllm":
        from eval.backends.vllm_backend import VllmBackend

        return VllmBackend.from_pretrained(
            config.model_path,
            sampling=sampling,
            dtype=config.dtype,
            tensor_parallel_size=config.tensor_parallel_size,
            enable_thinking=config.enable_thinking,
            trust_remote_code=config.trust_remote_code,
        )
    from eval.backends.transformers_backend import TransformersBackend

    return TransformersBackend.from_pretrained(
        config.model_path,
        sampling=sampling,
        device=config.device,
        dtype=config.dtype,
        batch_size=config.batch_size,
        enable_thinking=config.enable_thinking,
        trust_remote_code=config.trust_remote_code,
    )


def _openai_backend(config: RunConfig, sampling: Sampling) -> Backend:
    from eval.backends.openai_backend import OpenAIBackend

    tokenizer = None
    if config.endpoint == "completions":
        from eval.backends.chat_tokenizer import ChatTokenizer

        tokenizer = ChatTokenizer.from_pretrained(
            config.tokenizer or config.model_path,
            enable_thinking=config.enable_thinking,
            trust_remote_code=config.trust_remote_code,
        )
    return OpenAIBackend(
        config.base_url or "",  # parse_args refuses this backend without a URL
        config.model_path,
        sampling=sampling,
        tokenizer=tokenizer,
        concurrency=config.concurrency,
        max_retries=config.max_retries,
        timeout_s=config.timeout,
        enable_thinking=config.enable_thinking,
    )
