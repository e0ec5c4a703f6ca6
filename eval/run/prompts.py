"""From a problem to what the model is given: system prompt, question, instruction.

Style      system prompt    instruction, joined as in the paper
paper      the default one  explain, then answer
bare       none             none
boxed      none             reason, then the answer in \\boxed{}
"""

from __future__ import annotations

from dataclasses import dataclass

from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION


@dataclass(frozen=True)
class PromptStyle:
    """What is put around every question. Either part may be empty."""

    system_prompt: str
    instruction: str

    def user_turn(self, question: str, joiner: str) -> str:
        """The question with the instruction after it."""
        return f"{question}{joiner}{self.instruction}" if self.instruction else question


PROMPT_STYLES = {
    "paper": PromptStyle(DEFAULT_SYSTEM_PROMPT, INSTRUCTION),
    "bare": PromptStyle("", ""),
    "boxed": PromptStyle("", r"Reason step by step, and put your final answer in \boxed{}."),
}


def prompt_style(
    name: str, system_prompt: str | None = None, instruction: str | None = None
) -> PromptStyle:
    """A style by its name, parts of it replaced where they are given."""
    style = PROMPT_STYLES[name]
    return PromptStyle(
        style.system_prompt if system_prompt is None else system_prompt,
        style.instruction if instruction is None else instruction,
    )
