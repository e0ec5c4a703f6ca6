"""A transformers model's output head, run apart from its body."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor


class OutputHead:
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
