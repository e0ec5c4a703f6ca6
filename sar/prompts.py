"""The policy's prompts, and the empty-question prompt, after which ppl_a is measured.

The empty-question prompt is the chat template with the same system prompt and an empty user turn.
The paper's authors use this in their trainer, not a bare BOS token.
Source: Han et al., arXiv:2509.05489.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from jinja2.exceptions import TemplateError

DEFAULT_SYSTEM_PROMPT = (
    "You are an expert at reasoning. Solve the given question by reasoning it through."
)
INSTRUCTION = "Explain your reasoning first, then give the answer."

# Marks the place of the question in a rendered template; no template contains this text.
_QUESTION_MARKER = "QUESTION-7f3a"


def render_prompt(
    tokenizer: Any, question: str, system_prompt: str, **template_arguments: Any
) -> str:
    """The prompt for one question, rendered with the tokenizer's chat template.

    If the template has no system role, the system prompt goes before the question in the user turn.
    Without a chat template, the prompt has three lines: "System: ...", "User: ...", "Assistant: ".

    Args:
        tokenizer: a transformers tokenizer.
        question: the text of the user turn; may be empty.
        system_prompt: empty for none.
        template_arguments: passed to the chat template, for example `enable_thinking`.
    """

    if not getattr(tokenizer, "chat_template", None):
        system = f"System: {system_prompt}\n" if system_prompt else ""
        return f"{system}User: {question}\nAssistant: "
    return _apply_template(tokenizer, question, system_prompt, template_arguments)[1]


def make_messages(
    tokenizer: Any, question: str, system_prompt: str, **template_arguments: Any
) -> list[dict[str, str]]:
    """The turns that `render_prompt` applies the chat template to. There must be a template."""
    return _apply_template(tokenizer, question, system_prompt, template_arguments)[0]


def _apply_template(
    tokenizer: Any, question: str, system_prompt: str, template_arguments: dict[str, Any]
) -> tuple[list[dict[str, str]], str]:
    """The turns, and the text that the template makes of them."""

    def apply(*turns: tuple[str, str]) -> tuple[list[dict[str, str]], str]:
        messages = [{"role": role, "content": content} for role, content in turns]
        rendered: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **template_arguments
        )
        return messages, rendered

    if not system_prompt.strip():
        return apply(("user", question))
    with suppress(TemplateError):
        messages, rendered = apply(("system", system_prompt), ("user", question))
        if system_prompt.strip() in rendered:
            return messages, rendered
    return apply(("user", f"{system_prompt}\n\n{question}"))


def empty_question_prompt(tokenizer: Any, system_prompt: str) -> str:
    """The context of ppl_a: a prompt without a question."""
    return render_prompt(tokenizer, "", system_prompt)


def prompt_frame(tokenizer: Any, system_prompt: str) -> tuple[str, str]:
    """The text before and after the question in every prompt with this system prompt."""
    before, _, after = render_prompt(tokenizer, _QUESTION_MARKER, system_prompt).partition(
        _QUESTION_MARKER
    )
    return before, after
