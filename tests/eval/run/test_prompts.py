"""Prompt styles: the text around a question."""

from __future__ import annotations

from eval.benchmarks import BENCHMARKS
from eval.run.prompts import PROMPT_STYLES, choose_prompt_style
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION


def test_the_papers_prompt_is_the_default_style() -> None:
    style = choose_prompt_style("paper")
    assert (style.system_prompt, style.instruction) == (DEFAULT_SYSTEM_PROMPT, INSTRUCTION)
    assert style.format_user_turn("1+1?", " ") == f"1+1? {INSTRUCTION}"
    assert style.format_user_turn("1+1?", "\n") == f"1+1?\n{INSTRUCTION}"
    joiners = {name: benchmark.joiner for name, benchmark in BENCHMARKS.items()}
    by_space = {name for name, joiner in joiners.items() if joiner == " "}
    assert by_space == {"gsm8k", "gsm_symbolic", "math", "prontoqa", "demo"}
    assert {joiners[name] for name in joiners.keys() - by_space} == {"\n"}


def test_other_styles_and_replaced_parts() -> None:
    assert choose_prompt_style("bare").format_user_turn("1+1?", "\n") == "1+1?"
    assert r"\boxed{}" in choose_prompt_style("boxed").format_user_turn("1+1?", "\n")
    assert all(not PROMPT_STYLES[name].system_prompt for name in ("bare", "boxed"))
    mixed = choose_prompt_style("paper", "", "Go.")
    assert (mixed.system_prompt, mixed.instruction) == ("", "Go.")
