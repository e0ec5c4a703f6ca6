"""Prompts under chat templates of every kind, and without one."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sar.prompts import (
    DEFAULT_SYSTEM_PROMPT,
    empty_question_prompt,
    make_messages,
    prompt_frame,
    render_prompt,
)

# The system turn raises, as in Gemma 2's template.
RAISING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
# The system turn is skipped without a word, as in Phi-3-mini's first template.
IGNORING = (
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)
# The content is stripped, as in Llama 3's.
TRIMMING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
        chat_template=template,
    )


def test_the_bundled_template_has_a_system_role(bundled_tokenizer: Any) -> None:
    assert render_prompt(bundled_tokenizer, "2+2?", "Be brief.") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_a_system_prompt_there_is_no_system_turn(bundled_tokenizer: Any) -> None:
    assert render_prompt(bundled_tokenizer, "2+2?", "") == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", [RAISING, IGNORING])
def test_without_a_system_role_the_system_prompt_goes_before_the_question(
    template: str | None,
) -> None:
    tokenizer = tokenizer_with(template)
    assert render_prompt(tokenizer, "2+2?", "Be brief.") == ("<user>Be brief.\n\n2+2?<end><model>")
    assert render_prompt(tokenizer, "2+2?", "") == "<user>2+2?<end><model>"


@pytest.mark.parametrize("system_prompt", ["Be brief.", "Be brief.\n", "\n Be brief. "])
def test_a_template_that_strips_its_turns_still_has_a_system_role(system_prompt: str) -> None:
    assert render_prompt(tokenizer_with(TRIMMING), "2+2?", system_prompt) == (
        "<system>Be brief.<end><user>2+2?<end><model>"
    )


def test_without_a_template_there_is_the_authors_plain_frame() -> None:
    tokenizer = tokenizer_with(None)
    assert render_prompt(tokenizer, "2+2?", "Be brief.") == (
        "System: Be brief.\nUser: 2+2?\nAssistant: "
    )
    assert render_prompt(tokenizer, "2+2?", "") == "User: 2+2?\nAssistant: "


def test_the_empty_question_keeps_the_frame() -> None:
    assert empty_question_prompt(tokenizer_with(None), "S") == "System: S\nUser: \nAssistant: "
    assert empty_question_prompt(tokenizer_with(IGNORING), "S") == "<user>S\n\n<end><model>"
    assert empty_question_prompt(tokenizer_with(RAISING), "") == "<user><end><model>"


@pytest.mark.parametrize("template", [None, RAISING, IGNORING, TRIMMING])
@pytest.mark.parametrize("system_prompt", ["", "Be brief.", DEFAULT_SYSTEM_PROMPT])
@pytest.mark.parametrize("question", ["", "2+2?", "Is {{ 1 }} {% raw %}?", "\u00e9\U0001f389"])
def test_every_prompt_starts_with_its_frame_and_asks_for_an_answer(
    template: str | None, system_prompt: str, question: str
) -> None:
    tokenizer = tokenizer_with(template)
    prompt = render_prompt(tokenizer, question, system_prompt)
    assert question in prompt
    assert prompt.count(system_prompt) == 1 or not system_prompt
    assert prompt.endswith("<model>" if template else "Assistant: ")
    if question or template is not RAISING:  # one that strips, strips the frame's end with it
        before, after = prompt_frame(tokenizer, system_prompt)
        assert prompt.startswith(before)
        assert prompt.endswith(after)


def test_template_arguments_reach_the_template(bundled_tokenizer: Any) -> None:
    plain = bundled_tokenizer.chat_template
    try:
        bundled_tokenizer.chat_template = plain + "{% if not enable_thinking %}<none>{% endif %}"
        thinking = render_prompt(bundled_tokenizer, "1+1?", "Be brief.", enable_thinking=True)
        assert thinking + "<none>" == render_prompt(
            bundled_tokenizer, "1+1?", "Be brief.", enable_thinking=False
        )
    finally:
        bundled_tokenizer.chat_template = plain


@pytest.mark.parametrize("template", [RAISING, IGNORING, TRIMMING])
@pytest.mark.parametrize("system_prompt", ["", "Be brief."])
def test_messages_render_as_the_prompt(template: str, system_prompt: str) -> None:
    tokenizer = tokenizer_with(template)
    messages = make_messages(tokenizer, "2+2?", system_prompt)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == render_prompt(tokenizer, "2+2?", system_prompt)
    assert system_prompt in rendered
