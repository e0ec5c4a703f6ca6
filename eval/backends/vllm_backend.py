"""vLLM's offline engine, on one or more GPUs, or on a CPU.

Optional: `pip install -c constraints.txt -e '.[vllm]'`. Written against vLLM 0.29.0.

We add requests to the engine of `vllm.LLM` and step it ourselves. `LLM.generate` does the same, but
returns only when all prompts are done.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Self

from eval.backends.base import BackendDescription, Completion, Completions, Request, Sampling
from eval.backends.chat_tokenizer import ChatTokenizer
from eval.errors import UserError
from sar.errors import one_line
from sar.scoring.vllm_import import import_vllm

# Requests in the engine at once: enough that it never waits for the next.
_MAX_AHEAD = 1024


class VllmBackend:
    """A `Backend` over `vllm.LLM`."""

    def __init__(
        self, llm: Any, tokenizer: ChatTokenizer, sampling_params: Any, sampling: Sampling
    ) -> None:
        """
        Args:
            llm: a `vllm.LLM`.
            sampling_params: the class `vllm.SamplingParams`.
        """
        self._llm = llm
        self._engine = llm.llm_engine
        self._tokenizer = tokenizer
        self._sampling_params = sampling_params
        self._sampling = sampling

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        sampling: Sampling,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        enable_thinking: bool | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Loads a local folder or hub id onto the GPUs that CUDA_VISIBLE_DEVICES names.

        Raises:
            UserError: vLLM is not installed, or cannot load the model.
        """
        try:
            vllm = import_vllm()
        except ValueError as error:
            raise UserError(str(error)) from error
        tokenizer = ChatTokenizer.from_pretrained(
            path_or_id, enable_thinking=enable_thinking, trust_remote_code=trust_remote_code
        )
        try:
            llm = vllm.LLM(
                model=path_or_id,
                dtype=dtype,
                tensor_parallel_size=tensor_parallel_size,
                trust_remote_code=trust_remote_code,
                # -1: vLLM shortens the context if the KV cache of the whole one does not fit.
                max_model_len=-1,
            )
        except Exception as error:  # vLLM raises many types
            raise UserError(f"cannot load --model {path_or_id}: {one_line(error)}") from error
        return cls(llm, tokenizer, vllm.SamplingParams, sampling)

    @property
    def description(self) -> BackendDescription:
        config = self._engine.vllm_config
        on_cpu = config.device_config.device_type == "cpu"
        details = {
            "class": ", ".join(config.model_config.architectures),
            "dtype": str(config.model_config.dtype),
            "context_tokens": config.model_config.max_model_len,
            "num_gpus": config.parallel_config.tensor_parallel_size * (not on_cpu),
        }
        return BackendDescription(self._tokenizer.chat_template, details)

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        return self._tokenizer.render_prompt(system_prompt, user_turn)

    def generate(self, requests: Iterable[Request]) -> Completions:
        waiting = enumerate(requests)
        running: dict[str, Request] = {}
        try:
            while True:
                for number, request in islice(waiting, _MAX_AHEAD - len(running)):
                    if error := self._add(str(number), request):
                        yield Completion(request, error=error)
                    else:
                        running[str(number)] = request
                if not running:
                    return
                for output in self._engine.step():
                    if output.finished:
                        yield self._make_completion(
                            running.pop(output.request_id), output.outputs[0]
                        )
        finally:
            if running:
                self._engine.abort_request(list(running))

    def close(self) -> None:
        pass

    def _add(self, request_id: str, request: Request) -> str | None:
        """Adds a request to the engine. Returns the error if the engine refuses it."""
        from vllm.exceptions import VLLMValidationError

        ids = self._tokenizer.encode(request.prompt)
        try:
            # "type" marks a prompt that the engine can take as it is.
            prompt = {"type": "token", "prompt_token_ids": ids}
            self._engine.add_request(request_id, prompt, self._make_params(request))
        except (ValueError, VLLMValidationError) as error:
            return one_line(error)
        return None

    def _make_params(self, request: Request) -> Any:
        from vllm.sampling_params import RequestOutputKind

        return self._sampling_params(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            max_tokens=self._sampling.max_tokens,
            seed=request.seed,
            # We decode the token ids ourselves, as the transformers backend does.
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _make_completion(self, request: Request, output: Any) -> Completion:
        if output.finish_reason not in ("stop", "length"):
            return Completion(request, error=f"vLLM finished with {output.finish_reason!r}")
        ids = list(output.token_ids)
        return Completion(
            request,
            response=self._tokenizer.decode(ids),
            num_tokens=len(ids),
            finish_reason=output.finish_reason,
        )
