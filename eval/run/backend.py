"""Loads the backend that --backend names."""

from __future__ import annotations

from typing import Any

from eval.backends.base import Backend, Sampling
from eval.run.config import RunConfig


def load_backend(config: RunConfig) -> Backend:
    """Loads the model, or connects to the server. torch, vLLM and openai are imported only here.

    Raises:
        UserError: the model cannot be loaded, or the server does not answer.
    """
    sampling = Sampling(config.temperature, config.top_p, config.max_tokens)
    if config.backend == "openai":
        return _connect(config, sampling)
    settings: dict[str, Any] = {
        "sampling": sampling,
        "dtype": config.dtype,
        "enable_thinking": config.enable_thinking,
        "trust_remote_code": config.trust_remote_code,
    }
    if config.backend == "vllm":
        from eval.backends.vllm_backend import VllmBackend

        num_gpus = config.tensor_parallel_size
        return VllmBackend.from_pretrained(
            config.model_path, tensor_parallel_size=num_gpus, **settings
        )
    from eval.backends.transformers_backend import TransformersBackend

    return TransformersBackend.from_pretrained(
        config.model_path, device=config.device, batch_size=config.batch_size, **settings
    )


def _connect(config: RunConfig, sampling: Sampling) -> Backend:
    from eval.backends.openai_backend import OpenAIBackend

    tokenizer = None
    if config.endpoint == "completions":
        from eval.backends.chat_tokenizer import ChatTokenizer

        tokenizer = ChatTokenizer.from_pretrained(
            config.tokenizer or config.model_path,
            enable_thinking=config.enable_thinking,
            trust_remote_code=config.trust_remote_code,
        )
    if config.base_url is None:
        raise ValueError("the openai backend needs a base_url")
    return OpenAIBackend(
        config.base_url,
        config.model_path,
        sampling=sampling,
        tokenizer=tokenizer,
        concurrency=config.concurrency,
        max_retries=config.max_retries,
        timeout_s=config.timeout,
        enable_thinking=config.enable_thinking,
    )
