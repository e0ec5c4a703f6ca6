"""Prompt styles: the system prompt and the instruction that surround a question.

Style      system prompt    instruction
paper      the paper's      explain, then answer
bare       none             none
boxed      none             reason, then the answer in \\boxed{}
"""

from __future__ import annotations

from dataclasses import dataclass

from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION


@dataclass(frozen=True)
class PromptStyle:
    """The text around every question. Either part may be empty."""

    system_prompt: str
    instruction: str

    def format_user_turn(self, question: str, joiner: str) -> str:
        """The question, followed by the instruction if there is one."""
        return f"{question}{joiner}{self.instruction}" if self.instruction else question


PROMPT_STYLES = {
    "paper": PromptStyle(DEFAULT_SYSTEM_PROMPT, INSTRUCTION),
    "bare": PromptStyle("", ""),
    "boxed": PromptStyle("", r"Reason step by step, and put your final answer in \boxed{}."),
}


def choose_prompt_style(
    name: str, system_prompt: str | None = None, instruction: str | None = None
) -> PromptStyle:
    """Returns the named style. `system_prompt` and `instruction` replace its own unless None."""
    style = PROMPT_STYLES[name]
    return PromptStyle(
        style.system_prompt if system_prompt is None else system_prompt,
        style.instruction if instruction is None else instruction,
    )
