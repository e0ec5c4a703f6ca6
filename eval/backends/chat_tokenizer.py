"""A model's tokenizer with its chat template: renders prompts, encodes them, decodes responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from eval.errors import UserError
from sar.errors import one_line
from sar.grading.graded_text import COMMON_END_TOKENS
from sar.grading.rules.answers import is_grading_tag
from sar.prompts import render_prompt


class ChatTokenizer:
    """A transformers tokenizer as the backends use it."""

    def __init__(self, tokenizer: Any, enable_thinking: bool | None = None) -> None:
        """
        Args:
            tokenizer: a transformers tokenizer.
            enable_thinking: passed to the chat template; None leaves the template's default.
        Raises:
            UserError: the template does not use `enable_thinking`.
        """
        self._tokenizer = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        if template is not None and not isinstance(template, str):  # several templates, by name
            template = tokenizer.get_chat_template()
        self.chat_template: str | None = template
        self._template_arguments: dict[str, Any] = {}
        if enable_thinking is not None:
            if "enable_thinking" not in (template or ""):
                flag = "--enable-thinking" if enable_thinking else "--no-enable-thinking"
                raise UserError(f"{flag}: the model's chat template does not use enable_thinking")
            self._template_arguments["enable_thinking"] = enable_thinking
        added = tokenizer.added_tokens_decoder.items()
        special = {id_ for id_, token in added if token.special}
        tags = {id_ for id_, token in added if is_grading_tag(token.content)}
        # Graders read tags such as `<think>`, so these stay even where they are special tokens.
        self._dropped_ids = (special | set(tokenizer.all_special_ids)) - tags
        ends = {id_ for id_, token in added if token.special and token.content in COMMON_END_TOKENS}
        self._end_ids = (ends - {tokenizer.pad_token_id}) | {tokenizer.eos_token_id}

    @classmethod
    def from_pretrained(
        cls, path_or_id: str, *, enable_thinking: bool | None, trust_remote_code: bool
    ) -> Self:
        """Loads the tokenizer of a local folder or Hugging Face id.

        Raises:
            UserError: it is missing or broken.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                path_or_id, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # a broken folder raises many types
            raise UserError(
                f"cannot load the tokenizer of {path_or_id}: {one_line(error)}"
            ) from error
        return cls(tokenizer, enable_thinking)

    @property
    def eos_token_id(self) -> int | None:
        id_: int | None = self._tokenizer.eos_token_id
        return id_

    @property
    def pad_token_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(pad if pad is not None else self.eos_token_id or 0)

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        """See `Backend.render_prompt`. Without a template: the paper's `System: ... User: ...`."""
        return render_prompt(self._tokenizer, user_turn, system_prompt, **self._template_arguments)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt. Special tokens such as BOS are added only if there is no chat
        template: a template writes its own."""
        ids: list[int] = self._tokenizer.encode(
            prompt, add_special_tokens=self.chat_template is None
        )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """What graders see of a response, by the rules of `sar.grading.graded_text`."""
        parts: list[list[int]] = [[]]
        for id_ in ids:
            if id_ in self._end_ids:
                break
            if id_ not in self._dropped_ids:
                parts[-1].append(id_)
            elif parts[-1]:
                parts.append([])
        texts = [self._tokenizer.decode(part, skip_special_tokens=False) for part in parts if part]
        return "\n".join(texts)
