"""The vLLM backend against an engine with the shape of vLLM 0.29.0's, which needs a GPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eval.backends.base import Request, Sampling
from eval.backends.chat_tokenizer import ChatTokenizer
from eval.backends.vllm_backend import VllmBackend
from eval.errors import UserError

CONTEXT = 64


class VLLMValidationError(Exception):
    """Of vLLM's errors about a request; no ValueError there either."""


class Engine:
    """Takes requests as `LLMEngine.add_request` does, and finishes the shortest prompts first."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.waiting: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.most_waiting = 0
        self.aborted: list[str] = []
        self.finish_reason = "stop"
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(architectures=["M"], dtype="bf16", max_model_len=CONTEXT),
            parallel_config=SimpleNamespace(tensor_parallel_size=1),
            device_config=SimpleNamespace(device_type="cuda"),
        )

    def add_request(self, request_id: str, prompt: Any, params: Any) -> str:
        assert prompt["type"] == "token"
        assert isinstance(request_id, str)
        if len(prompt["prompt_token_ids"]) >= CONTEXT:
            raise VLLMValidationError("The prompt is longer than the maximum model length")
        self.waiting[request_id] = (prompt, params)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return f"{request_id}-a1b2c3d4"

    def step(self) -> list[Any]:
        by_length = sorted(self.waiting, key=lambda i: len(self.waiting[i][0]["prompt_token_ids"]))
        outputs = []
        for request_id in by_length[:2]:
            prompt, _ = self.waiting.pop(request_id)
            text = self.tokenizer.decode(prompt["prompt_token_ids"])[::-1]
            ids = [*self.tokenizer.encode(text, add_special_tokens=False), 2]
            output = SimpleNamespace(
                token_ids=tuple(ids), text="", finish_reason=self.finish_reason
            )
            outputs.append(SimpleNamespace(request_id=request_id, finished=True, outputs=[output]))
        return outputs

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids


@pytest.fixture
def engine(bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Engine:
    module = ModuleType("vllm.sampling_params")
    module.RequestOutputKind = SimpleNamespace(FINAL_ONLY=2)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", module)
    exceptions = ModuleType("vllm.exceptions")
    exceptions.VLLMValidationError = VLLMValidationError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.exceptions", exceptions)
    return Engine(bundled_tokenizer)


@pytest.fixture
def backend(engine: Engine, bundled_tokenizer: Any) -> VllmBackend:
    return VllmBackend(
        SimpleNamespace(llm_engine=engine),
        ChatTokenizer(bundled_tokenizer),
        dict,
        Sampling(0.6, 0.95, 32),
    )


def _request(key: int, prompt: str) -> Request:
    return Request(key, "", "", prompt, seed=key)


def test_completions_come_as_they_finish(backend: VllmBackend, engine: Engine) -> None:
    prompts = ["how many pens?", "a", "two and two", "so"]
    completions = list(backend.generate([_request(i, p) for i, p in enumerate(prompts)]))
    assert sorted(c.request.key for c in completions) == [0, 1, 2, 3]
    lengths = [len(engine.tokenizer.encode(c.request.prompt)) for c in completions]
    assert lengths == sorted(lengths) != [lengths[0]] * 4
    assert [c.request.key for c in completions] != [0, 1, 2, 3]
    for c in completions:
        assert c.response == prompts[c.request.key][::-1]
        assert (c.finish_reason, c.error) == ("stop", None)
        ids = engine.tokenizer.encode(c.response, add_special_tokens=False)
        assert c.num_tokens == len(ids) + 1
    assert engine.aborted == []


def test_each_request_has_its_seed(backend: VllmBackend, engine: Engine) -> None:
    next(backend.generate([_request(i, "a" * (i + 1)) for i in range(5)]))
    (_, params) = engine.waiting["4"]
    assert params == {
        "temperature": 0.6, "top_p": 0.95, "max_tokens": 32, "seed": 4, "detokenize": False,
        "output_kind": 2,
    }  # fmt: skip


def test_a_rejected_prompt_is_an_error(backend: VllmBackend) -> None:
    requests = [_request(0, "a"), _request(1, "? " * 200), _request(2, "b")]
    by_key = {c.request.key: c for c in backend.generate(requests)}
    assert "longer than the maximum model length" in (by_key[1].error or "")
    assert by_key[0].response == "a"
    assert by_key[2].response == "b"


def test_an_unknown_finish_reason(backend: VllmBackend, engine: Engine) -> None:
    engine.finish_reason = "abort"
    (completion,) = backend.generate([_request(0, "a")])
    assert completion.error == "vLLM finished with 'abort'"


def test_few_requests_are_taken_ahead(backend: VllmBackend, engine: Engine) -> None:
    completions = backend.generate(_request(i, "a") for i in range(3000))
    assert sum(c.error is None for c in completions) == 3000
    assert engine.most_waiting == 1024


def test_closing_cancels_requests_in_flight(backend: VllmBackend, engine: Engine) -> None:
    completions = backend.generate([_request(i, "a") for i in range(10)])
    next(completions)
    completions.close()
    assert len(engine.aborted) == 9


def test_description(backend: VllmBackend) -> None:
    assert backend.description.details == {
        "class": "M", "dtype": "bf16", "context_tokens": CONTEXT, "num_gpus": 1,
    }  # fmt: skip
    assert backend.description.chat_template


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="vLLM is not installed: pip install"):
        VllmBackend.from_pretrained("x", sampling=Sampling(0, 1, 1))
