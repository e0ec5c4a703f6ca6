"""The system prompt, and the empty-question prompt that ppl_a is measured after.

Without a question the model still gets the same frame: the chat template with the same system
prompt and an empty user turn, as in the authors' trainer, and not a bare BOS.
Source: Han et al., arXiv:2509.05489.
"""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError

DEFAULT_SYSTEM_PROMPT = (
    "You are an expert at reasoning. Solve the given question by reasoning it through."
)
INSTRUCTION = "Explain your reasoning first, then give the answer."

# Stands for the question where the frame around it is wanted; no template contains it.
_QUESTION_MARKER = "QUESTION-7f3a"


def render_prompt(
    tokenizer: Any, question: str, system_prompt: str, **template_arguments: Any
) -> str:
    """The text a policy is given for one question: chat template, or a plain frame without one.

    A template without a system role gets the system prompt before the question, in the user turn.

    Args:
        tokenizer: a transformers tokenizer; its `chat_template` decides.
        question: the user's turn; may be empty.
        system_prompt: empty for none.
        template_arguments: given to the chat template, such as `enable_thinking`.
    """

    def apply(*turns: dict[str, str]) -> str:
        rendered: str = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=True, **template_arguments
        )
        return rendered

    if not getattr(tokenizer, "chat_template", None):
        system = f"System: {system_prompt}\n" if system_prompt else ""
        return f"{system}User: {question}\nAssistant: "
    if not system_prompt.strip():
        return apply(_turn("user", question))
    try:
        rendered = apply(_turn("system", system_prompt), _turn("user", question))
    except TemplateError:
        rendered = ""
    if system_prompt.strip() in rendered:
        return rendered
    return apply(_turn("user", f"{system_prompt}\n\n{question}"))


def empty_question_prompt(tokenizer: Any, system_prompt: str) -> str:
    """The prompt of `render_prompt` with an empty question: the context of ppl_a."""
    return render_prompt(tokenizer, "", system_prompt)


def prompt_frame(tokenizer: Any, system_prompt: str) -> tuple[str, str]:
    """What stands before and after the question in every prompt with this system prompt."""
    before, _, after = render_prompt(tokenizer, _QUESTION_MARKER, system_prompt).partition(
        _QUESTION_MARKER
    )
    return before, after


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
