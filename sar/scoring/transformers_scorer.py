"""The scorer for any causal language model of Hugging Face transformers.

Memory is bounded by the token budget: the transformer body runs on batches of at most
`max_batch_tokens`, only hidden states at response positions are kept, and the output head sees them
in chunks, so that no (tokens x vocabulary) tensor of a batch ever exists.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sar.scoring.base import TokenSequence
from sar.scoring.packing import plan_batches

# Logits held at once, float32; small enough for a CPU's cache pressure, large enough for a GPU.
_LOGITS_CHUNK_BYTES = 128 * 2**20


class TransformersScorer:
    """A `LogprobScorer` over `AutoModelForCausalLM`.

    Shapes: B sequences, T padded tokens, N response positions of a batch, C of them at once at the
    head, H hidden, V vocabulary.
    """

    def __init__(self, model: Any, max_batch_tokens: int) -> None:
        """
        Args:
            model: a causal LM in eval mode, on its device.
            max_batch_tokens: budget of padded tokens in one forward pass.
        Raises:
            ValueError: the model's output head cannot be run apart from its body.
        """
        self._model = model
        if model.base_model is model:
            raise ValueError(
                f"cannot score with {type(model).__name__}: its body cannot be told from its head"
            )
        self._body = model.base_model
        self._head = _Head(model)
        self._max_batch_tokens = max_batch_tokens
        self._check_head()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_tokens: int,
        trust_remote_code: bool = False,
    ) -> TransformersScorer:
        """Loads a local folder or hub id.

        Args:
            device: "auto" takes CUDA if there is one, else the CPU; or a torch device.
            dtype: "auto" is float32 on a CPU and the checkpoint's own elsewhere; or a torch dtype.
        """
        from transformers import AutoModelForCausalLM

        target = resolve_device(device)
        if dtype == "auto" and target.type == "cpu":
            dtype = "float32"
        model = AutoModelForCausalLM.from_pretrained(
            path_or_id, dtype=dtype, trust_remote_code=trust_remote_code
        )
        return cls(model.to(target).eval(), max_batch_tokens)

    @property
    def max_context_tokens(self) -> int | None:
        config = self._model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def description(self) -> str:
        """One line for logs: class, size, dtype, device."""
        millions = sum(p.numel() for p in self._model.parameters()) / 1e6
        name = type(self._model).__name__
        return f"{name}, {millions:.1f}M parameters, {self._model.dtype}, {self._model.device}"

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        results: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sequences)
        for batch in plan_batches([len(s) for s in sequences], self._max_batch_tokens):
            for index, logprobs in zip(
                batch, self._score_batch([sequences[i] for i in batch]), strict=True
            ):
                results[index] = logprobs
        return results

    @torch.inference_mode()
    def _score_batch(self, batch: Sequence[TokenSequence]) -> Iterator[npt.NDArray[np.float32]]:
        width = max(map(len, batch))
        ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
        predicts_BT = torch.zeros(len(batch), width, dtype=torch.bool)
        for row, seq in enumerate(batch):
            ids_BT[row, : len(seq)] = torch.tensor(seq.context_ids + seq.response_ids)
            # The state at position t predicts token t + 1.
            predicts_BT[row, len(seq.context_ids) - 1 : len(seq) - 1] = True
        targets_N = torch.cat([torch.tensor(seq.response_ids) for seq in batch])

        device = self._model.device
        # No attention mask: with padding on the right, causal attention never looks at it, and
        # without a mask the fast causal kernels apply.
        body = self._body(input_ids=ids_BT.to(device), use_cache=False, return_dict=True)
        hidden_NH = body.last_hidden_state[predicts_BT.to(device)]
        body.last_hidden_state = None  # frees (B, T, H) before the head runs
        logprobs_N = self._target_logprobs(hidden_NH, targets_N.to(device), body)
        return iter(
            chunk.numpy()
            for chunk in logprobs_N.cpu().split([len(seq.response_ids) for seq in batch])
        )

    def _target_logprobs(self, hidden_NH: Tensor, targets_N: Tensor, body: Any) -> Tensor:
        """(N,) float32 log-probabilities of the targets, a chunk of positions at a time."""
        vocabulary = self._model.config.get_text_config().vocab_size
        rows = max(1, _LOGITS_CHUNK_BYTES // (4 * vocabulary))
        chunks = []
        for hidden_CH, targets_C in zip(hidden_NH.split(rows), targets_N.split(rows), strict=True):
            logits_CV = self._head(hidden_CH, body).float()
            target_logits_C = logits_CV.gather(1, targets_C[:, None])[:, 0]
            chunks.append(target_logits_C - logits_CV.logsumexp(dim=1))
        return torch.cat(chunks)

    @torch.inference_mode()
    def _check_head(self) -> None:
        """Body then head must give what the whole model gives: a wrong reward is never silent."""
        ids_BT = torch.arange(1, 5, device=self._model.device)[None]
        expected = self._model(input_ids=ids_BT, use_cache=False).logits[0].float()
        try:
            body = self._body(input_ids=ids_BT, use_cache=False, return_dict=True)
            got = self._head(body.last_hidden_state[0], body).float()
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"cannot score with {type(self._model).__name__}: {error}") from error
        if not torch.allclose(got, expected, rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"cannot score with {type(self._model).__name__}: its output head gives other "
                "logits when run apart from its body"
            )


class _Head:
    """The model's own forward on given hidden states, so that its logit scaling and soft-capping
    apply whatever the architecture: a shallow copy of the model whose body replays an output."""

    def __init__(self, model: Any) -> None:
        self._body = _ReplayedBody(model.base_model)
        self._model = copy.copy(model)
        self._model._modules = dict(model._modules)
        del self._model._modules[model.base_model_prefix]
        self._model.__dict__[model.base_model_prefix] = self._body

    def __call__(self, hidden_CH: Tensor, body: Any) -> Tensor:
        """(C, H) hidden states -> (C, V) logits; `body` is any output of the body, for its type."""
        self._body.output = type(body)(**{**body, "last_hidden_state": hidden_CH[None]})
        logits_CV: Tensor = self._model(inputs_embeds=hidden_CH[None], use_cache=False).logits[0]
        self._body.output = None
        return logits_CV


class _ReplayedBody:
    def __init__(self, body: Any) -> None:
        self._body = body
        self.output: Any = None
        self.decoder = self  # OPT's head calls its body's decoder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


def resolve_device(device: str) -> torch.device:
    """A torch device from its name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {device!r} here: {str(error).splitlines()[0]}") from error
    return torch.device(device)
