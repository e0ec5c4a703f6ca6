"""Running out of memory changes no log-probability; freed memory is used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, GptOssConfig, LlamaConfig, LlamaForCausalLM

from sar.scoring import TokenSequence
from sar.scoring import transformers_scorer as module
from sar.scoring.output_head import OutputHead
from sar.scoring.packing import Pack
from sar.scoring.self_check import whole_model_logprobs
from sar.scoring.transformers_scorer import TransformersScorer

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError("Unable to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)"
    ),
]
out_of_memory = pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)


def scorer_of(config: Any, budget: int = 1000) -> TransformersScorer:
    torch.manual_seed(0)
    return TransformersScorer(AutoModelForCausalLM.from_config(config).eval(), budget)


@pytest.fixture
def scorer() -> TransformersScorer:
    return scorer_of(LlamaConfig(**SHAPE))


def groups(num_prompts: int = 3, num_rollouts: int = 4, seed: int = 0) -> list[TokenSequence]:
    """Rollouts of a few prompts, each also after the empty-question context."""
    rng = np.random.default_rng(seed)

    def ids(longest: int) -> list[int]:
        drawn: list[int] = rng.integers(0, VOCABULARY, rng.integers(1, longest)).tolist()
        return drawn

    empty = ids(10)
    sequences = []
    for _ in range(num_prompts):
        prompt = ids(20)
        for _ in range(num_rollouts):
            response = ids(25)
            sequences += [TokenSequence(prompt, response), TokenSequence(empty, response)]
    return sequences


class Limited:
    """A body that raises when it gets more tokens than fit, and remembers what it got."""

    def __init__(
        self,
        scorer: TransformersScorer,
        monkeypatch: pytest.MonkeyPatch,
        num_tokens: int,
        error: Exception,
    ) -> None:
        self.fits, self.error = num_tokens, error
        self.asked: list[int] = []
        self.body = scorer._body
        monkeypatch.setattr(scorer, "_body", self)

    def __call__(self, **inputs: Any) -> Any:
        num_tokens = inputs["input_ids"].shape[1]
        self.asked.append(num_tokens)
        if num_tokens > self.fits:
            raise self.error
        return self.body(**inputs)


def assert_same(got: Sequence[npt.NDArray[Any]], expected: Sequence[npt.NDArray[Any]]) -> None:
    assert len(got) == len(expected)
    for logprobs, wanted in zip(got, expected, strict=True):
        assert logprobs.dtype == np.float32
        np.testing.assert_allclose(logprobs, wanted, rtol=0, atol=1e-5)


@out_of_memory
@pytest.mark.parametrize("fits", [250, 120, 45])
def test_out_of_memory_changes_neither_numbers_nor_order(
    scorer: TransformersScorer,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    fits: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sequences = groups()
    expected = scorer.response_logprobs(sequences)
    body = Limited(scorer, monkeypatch, fits, error)
    assert_same(scorer.response_logprobs(sequences), expected)
    assert body.asked[0] > fits, "the test is of running out"
    assert "--max-batch-tokens" in caplog.text


@out_of_memory
def test_only_the_pack_that_failed_is_halved(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sequences = [TokenSequence([i], [1] * 20) for i in range(16)]  # 20 tokens each
    body = Limited(scorer, monkeypatch, 170, error)
    scorer.response_logprobs(sequences)
    assert body.asked == [320, 160, 160]
    body.asked.clear()
    body.fits = 100
    scorer.response_logprobs(sequences)
    assert body.asked == [320, 160, 80, 80, 160, 80, 80]


@out_of_memory
def test_the_next_call_tries_the_full_budget_again(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sequences = [TokenSequence([i], [1] * 20) for i in range(4)]
    body = Limited(scorer, monkeypatch, 40, error)
    scorer.response_logprobs(sequences)
    body.fits = 1000
    body.asked.clear()
    scorer.response_logprobs(sequences)
    assert body.asked == [80]


@out_of_memory
def test_one_sequence_that_does_not_fit_is_an_error(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sequences = [*groups(), TokenSequence([1] * 50, [2] * 80)]
    Limited(scorer, monkeypatch, 100, error)
    with pytest.raises(type(error)) as caught:
        scorer.response_logprobs(sequences)
    assert caught.value is error


@out_of_memory
def test_sequences_that_share_everything_are_divided_too(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    # Only two in one pack do not fit; a response of one token adds none to its context.
    sequences = [TokenSequence([1, 2, 3], [token]) for token in (4, 5, 6)]
    expected = scorer.response_logprobs(sequences)
    calls = []
    score = TransformersScorer._score_pack

    def picky(self: Any, pack: Pack, members: Sequence[TokenSequence]) -> Any:
        calls.append(len(pack.members))
        if len(pack.members) > 1:
            raise error
        return score(self, pack, members)

    monkeypatch.setattr(TransformersScorer, "_score_pack", picky)
    assert_same(scorer.response_logprobs(sequences), expected)
    assert calls == [3, 1, 1, 1]


@out_of_memory
def test_running_out_at_the_output_head_halves_the_pack(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sequences = groups()
    expected = scorer.response_logprobs(sequences)
    head = OutputHead.__call__

    def picky(self: Any, hidden: Any, body: Any) -> Any:
        if len(hidden) > 50:
            raise error
        return head(self, hidden, body)

    monkeypatch.setattr(OutputHead, "__call__", picky)
    assert_same(scorer.response_logprobs(sequences), expected)


@out_of_memory
def test_a_model_that_cannot_be_packed_raises_as_it_has_nothing_to_halve(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    config = GptOssConfig(**SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    scorer = scorer_of(config)
    assert scorer._attention is None
    body = Limited(scorer, monkeypatch, 10, error)
    with pytest.raises(type(error)):
        scorer.response_logprobs([TokenSequence([1], [2]), TokenSequence([1] * 9, [2] * 9)])
    assert body.asked == [1, 17]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("can't allocate memory"),
        KeyError("x"),
    ],
    ids=str,
)
def test_other_errors_are_raised_at_once(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    body = Limited(scorer, monkeypatch, 0, error)
    with pytest.raises(type(error)) as caught:
        scorer.response_logprobs(groups())
    assert caught.value is error
    assert len(body.asked) == 1


def test_after_an_error_the_scorer_works_as_before(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = groups()
    expected = scorer.response_logprobs(sequences)
    with monkeypatch.context() as patch:
        Limited(scorer, patch, 0, RuntimeError("something"))
        with pytest.raises(RuntimeError, match="something"):
            scorer.response_logprobs(sequences)
    assert_same(scorer.response_logprobs(sequences), expected)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.num_elements = max(self.num_elements, tensor.numel())
        return output


@pytest.mark.parametrize("vocabulary", [20_000, 100_000])
def test_logits_are_bounded_whatever_the_vocabulary(vocabulary: int) -> None:
    shape = SHAPE | {"vocab_size": vocabulary, "hidden_size": 8, "intermediate_size": 8}
    scorer = scorer_of(LlamaConfig(**shape), budget=5000)
    limit = module._CPU_BLOCK_BYTES // 4
    sequences = [TokenSequence([i] * 10, [i + 1] * 300) for i in range(5)]
    with Largest() as largest:
        scorer.response_logprobs(sequences)
    assert 1000 * module._CPU_BLOCK_WORDS < largest.num_elements <= limit


class RankedLlama(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """Logits that depend on others: they cannot be made block by block."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits - output.logits.abs().mean(-1, keepdim=True) * output.logits
        return output


def test_a_head_that_cannot_be_divided_keeps_its_logits_bounded() -> None:
    vocabulary = 20_000
    torch.manual_seed(0)
    model = RankedLlama(LlamaConfig(**SHAPE | {"vocab_size": vocabulary})).eval()
    scorer = TransformersScorer(model, 1000)
    assert not scorer._head.is_divided
    sequence = TokenSequence([5] * 10, list(range(6, 506)))
    expected = whole_model_logprobs(scorer._model, sequence)
    with Largest() as largest:
        got = scorer.response_logprobs([sequence])
    assert_same(got, [expected])
    assert 500 * vocabulary > largest.num_elements
    assert largest.num_elements <= module._CPU_LOGITS_BYTES // 4


@pytest.mark.parametrize("vocabulary", [1023, 1024, 1025, 2048, 5000])
def test_a_divided_vocabulary_gives_what_the_whole_gives(vocabulary: int) -> None:
    scorer = scorer_of(LlamaConfig(**SHAPE | {"vocab_size": vocabulary}))
    assert scorer._head.is_divided == (vocabulary > module._CPU_BLOCK_WORDS)
    last = vocabulary - 1
    targets = [0, 1, 1022, last, last - 1, min(1023, last), min(1024, last), vocabulary // 2]
    sequence = TokenSequence([3, last], targets)
    assert_same(
        scorer.response_logprobs([sequence]), [whole_model_logprobs(scorer._model, sequence)]
    )


def test_long_contexts_cost_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = 20_000
    shape = SHAPE | {"vocab_size": vocabulary, "hidden_size": 8, "intermediate_size": 8}
    scorer = scorer_of(LlamaConfig(**shape))
    with Largest() as largest:
        scorer.response_logprobs([TokenSequence([1] * 500, [2, 3])])
    # Weights are 8 rows of the vocabulary, logits 2.
    assert largest.num_elements <= max(8 * vocabulary, 512 * 512)
