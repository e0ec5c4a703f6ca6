"""Which tokenizers and prompts are those of the policy in service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from reward_server.weights.identity import describe_difference, describe_tokenizer
from sar.models import BUNDLED_MODEL
from sar.special_tokens import read_eos_token_ids
from sar.tokenization import RolloutTokenizer

Files = Callable[[Path], None]


def describe(folder: Path, standalone_prompt: str = "chat") -> dict[str, str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rollouts = RolloutTokenizer(
        tokenizer,
        system_prompt="Think.",
        standalone_prompt=standalone_prompt,
        eos_token_ids=read_eos_token_ids(str(folder)),
    )
    return describe_tokenizer(tokenizer, rollouts)


def edit(name: str, change: Callable[[Any], None]) -> Files:
    def write(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return write


def template(text: str) -> Files:
    own = (BUNDLED_MODEL / "chat_template.jinja").read_text()

    def write(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text + own)

    return write


def save_again(**changes: Any) -> Files:
    """Saves the tokenizer as a trainer does, with settings of its own."""

    def write(folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        tokenizer("long enough to be padded", padding="max_length", truncation=True, max_length=40)
        tokenizer.save_pretrained(folder)

    return write


def _swap_two_tokens(value: Any) -> None:
    vocabulary = value["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def _swap_two_merges(value: Any) -> None:
    merges = value["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def _add_special_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    tokenizer.save_pretrained(folder)


OTHER: dict[str, tuple[Files, str]] = {
    "a token more": (_add_special_token, "vocabulary '873 tokens, digest "),
    "tokens swapped": (edit("tokenizer.json", _swap_two_tokens), "vocabulary '872 tokens, "),
    "merges": (edit("tokenizer.json", _swap_two_merges), "merges 'digest "),
    "splitting": (
        edit("tokenizer.json", lambda value: value.update(normalizer={"type": "Lowercase"})),
        "encoding of a sample text '",
    ),
    "EOS token": (save_again(eos_token="<|endoftext|>"), "EOS token '<|endoftext|>' instead of"),
    "EOS ids": (
        edit("generation_config.json", lambda value: value.update(eos_token_id=[2, 1])),
        "tokens that end a response '<|endoftext|> <|im_end|> <|im_start|>' instead",
    ),
    "template": (template("Be brief. "), "empty-question prompt 'Be brief.<|im_start|>system"),
}
SAME: dict[str, Files] = {
    "unchanged": lambda folder: None,
    "saved again": save_again(),
    "padding": save_again(padding_side="left", truncation_side="left", model_max_length=7),
    "a template for tools": template("{% if tools %}{{ tools }}{% endif %}"),
    "other files": edit("generation_config.json", lambda value: value.update(temperature=0.6)),
}


@pytest.mark.parametrize("change", OTHER)
def test_another_tokenizer_or_prompt_is_named(change: str, tmp_path: Path) -> None:
    write, message = OTHER[change]
    folder = tmp_path / "changed"
    shutil.copytree(BUNDLED_MODEL, folder)
    write(folder)
    assert message in describe_difference(describe(folder), describe(BUNDLED_MODEL))


@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize("standalone_prompt", ["chat", "bos", "Hello"])
def test_what_a_trainer_may_change_is_the_same_model(
    change: str, standalone_prompt: str, tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(BUNDLED_MODEL, folder)
    SAME[change](folder)
    own = describe(BUNDLED_MODEL, standalone_prompt)
    assert describe_difference(describe(folder, standalone_prompt), own) == ""


def test_a_template_that_states_the_date_is_the_same_on_another_day(tmp_path: Path) -> None:
    folder = tmp_path / "dated"
    shutil.copytree(BUNDLED_MODEL, folder)
    template("Today is {{ strftime_now('%d %b %Y') }}. ")(folder)
    today = describe(folder)
    tomorrow = today | {"empty-question prompt": "Today is 1 Jan 2999."}
    assert describe_difference(tomorrow, today) == ""
    assert describe_difference(today, describe(BUNDLED_MODEL)) != ""


def test_a_difference_is_one_bounded_line() -> None:
    old = {f"name {n}": "same " * 1000 + "one\n" * 1000 for n in range(9)}
    new = {name: text.replace("one", "two") for name, text in old.items()}
    line = describe_difference(new, old)
    assert "name 4" in line
    assert line.endswith("and 4 more differences")
    assert "\n" not in line
    assert line.count("two") > 5
    assert len(line) < 5 * 2 * 220
    assert describe_difference({}, {"class": "A"}) == "class 'none' instead of 'A'"
