"""Runs the output head of a transformers model separately from the model's body."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class OutputHead:
    """Turns hidden states into logits and log-probabilities, with the model's own code.

    It calls the `forward` of a shallow copy of the model, whose body returns the given hidden
    states. So the model's logit scaling and soft-capping apply, whatever its architecture.
    Shapes: C tokens, H hidden, V vocabulary, W words of one block of the vocabulary.
    """

    def __init__(self, model: Any) -> None:
        self._body = _ReplayedBody(model.base_model)
        self._model = copy.copy(model)
        self._model._modules = dict(model._modules)
        del self._model._modules[model.base_model_prefix]
        self._model.__dict__[model.base_model_prefix] = self._body
        self._output = model.get_output_embeddings()
        names = (name for name, module in model._modules.items() if module is self._output)
        self._name = next(names, None)
        self._blocks: list[nn.Linear] = []
        self._vocabulary: int = model.config.get_text_config().vocab_size
        self.num_words = self._vocabulary
        """Words of one block; the whole vocabulary if it is not divided."""

    def divide(self, num_words: int) -> bool:
        """Computes logits in blocks of this many words from now on; False if that is not possible.

        The caller has to check that the model treats each logit alone after its last layer.
        """
        output = self._output
        if type(output) is not nn.Linear or not self._name or output.out_features <= num_words:
            return False
        self.num_words = num_words
        self._blocks = [
            _select_rows(output, slice(start, start + num_words))
            for start in range(0, output.out_features, num_words)
        ]
        return True

    def join(self) -> None:
        """Undoes `divide`."""
        self._blocks.clear()
        self.num_words = self._vocabulary
        if self._name:
            self._model._modules[self._name] = self._output

    @property
    def is_divided(self) -> bool:
        return bool(self._blocks)

    def __call__(self, hidden_CH: Tensor, body: Any) -> Tensor:
        """(C, H) hidden states -> (C, V) logits; `body` is any output of the body, for its type."""
        self._body.output = type(body)(**{**body, "last_hidden_state": hidden_CH[None]})
        logits_CV: Tensor = self._model(inputs_embeds=hidden_CH[None], use_cache=False).logits[0]
        self._body.output = None
        return logits_CV

    def target_logprobs(
        self,
        hidden_CH: Tensor,
        targets_C: Tensor,
        body: Any,
        certainty_C: Tensor | None = None,
    ) -> Tensor:
        """(C,) float32 log-probabilities of the target ids.

        Args:
            certainty_C: gets the self-certainties (see `sar.scoring.base`); None: they are not
                computed.
        """
        if not self._blocks:
            # This is one kernel, which reads the model's dtype and sums in float32.
            logprobs_CV = self(hidden_CH, body).log_softmax(dim=1, dtype=torch.float32)
            if certainty_C is not None:
                certainty_C.copy_(-logprobs_CV.mean(1) - math.log(logprobs_CV.shape[1]))
            return logprobs_CV.gather(1, targets_C[:, None])[:, 0]
        logits_C = torch.empty(len(targets_C), dtype=torch.float32, device=targets_C.device)
        normalizers_C = torch.full_like(logits_C, -torch.inf)
        # In float64: the sum over all words is large, and the certainty is a small difference.
        sums_C = None if certainty_C is None else torch.zeros_like(logits_C, dtype=torch.float64)
        for number, block in enumerate(self._blocks):
            self._model._modules[self._name] = block
            logits_CW = self(hidden_CH, body).float()
            here = (targets_C // self.num_words == number).nonzero()[:, 0]
            logits_C[here] = logits_CW[here, targets_C[here] % self.num_words]
            normalizers_C = torch.logaddexp(normalizers_C, logits_CW.logsumexp(1))
            if sums_C is not None:
                sums_C += logits_CW.sum(1)
        if certainty_C is not None and sums_C is not None:
            num_words = self._output.out_features
            certainty_C.copy_(normalizers_C - sums_C / num_words - math.log(num_words))
        return logits_C - normalizers_C


def _select_rows(linear: nn.Linear, rows: slice) -> nn.Linear:
    """A layer that computes only these rows of the outputs; it shares the weights' memory."""
    part = copy.copy(linear)
    part._parameters = {
        name: None if parameter is None else nn.Parameter(parameter[rows], requires_grad=False)
        for name, parameter in linear._parameters.items()
    }
    return part


class _ReplayedBody:
    """Returns `output` in place of a model's body."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.output: Any = None
        self.decoder = self  # OPT's head calls its body's decoder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
