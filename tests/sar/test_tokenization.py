"""From a trainer's texts back to its token ids, for tokenizers that do and do not round trip.

A policy's rollout is played as OpenRLHF does it: the prompt encoded without special tokens, maybe
cut from the left, the response's ids appended, all of it decoded with special tokens kept.
"""

from __future__ import annotations

import copy
import json
import time
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sar.models import BUNDLED_MODEL
from sar.tokenization import RolloutTokenizer

CORPUS = [
    "Question: What is 2 + 2? Answer: The answer is 4. Hello world, let us think step by step.",
    "The cat sat on the mat. How many cats? There are 12 cats and 3 mats, so 12 - 3 = 9.",
]
CHAT_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ 'user' if m.role == 'system' else m.role }}|>\n"
    "{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level() -> Any:
    return AutoTokenizer.from_pretrained(BUNDLED_MODEL)


def sentencepiece(scheme: str, *, rstrip: bool = False) -> Any:
    """BPE with byte fallback as converted from SentencePiece.

    scheme: where a text gets the space that it starts with. "prepend": before every stretch between
    special tokens (Llama 2, Phi-3); "first": once, at its start (newer Llamas); "never" (Gemma).
    rstrip: chat tokens eat the white space after them (Phi-3).
    """
    prepend = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(prepend)
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    bpe = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *bpe["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            {name: index for index, name in enumerate(names)},
            [tuple(merge) for merge in bpe["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if scheme == "prepend":
        tokenizer.normalizer = normalizers.Sequence(prepend)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    add_specials(tokenizer, "<unk>", "<s>", "</s>")
    add_specials(tokenizer, *CHAT_TOKENS, rstrip=rstrip)
    return wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def normalizing(*steps: normalizers.Normalizer) -> Any:
    """Byte-level BPE that changes its text first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(list(steps))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    add_specials(tokenizer, "</s>", *CHAT_TOKENS)
    return wrapped(tokenizer, eos_token="</s>")


def unigram_with_unknowns() -> Any:
    """As T5: NFKC, a space before the text, and <unk> for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    add_specials(tokenizer, "</s>", *CHAT_TOKENS)
    return wrapped(tokenizer, eos_token="</s>", unk_token="<unk>")


def add_specials(tokenizer: Any, *names: str, rstrip: bool = False) -> None:
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False, rstrip=rstrip) for name in names]
    )


def wrapped(tokenizer: Any, **specials: str) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **specials
    )


KINDS = {
    "byte level": byte_level,
    "sentencepiece": lambda: sentencepiece("prepend"),
    "sentencepiece, rstrip": lambda: sentencepiece("prepend", rstrip=True),
    "sentencepiece, first": lambda: sentencepiece("first"),
    "sentencepiece, first, rstrip": lambda: sentencepiece("first", rstrip=True),
    "sentencepiece, never": lambda: sentencepiece("never"),
    "NFKC": lambda: normalizing(normalizers.NFKC()),
    "lower case": lambda: normalizing(normalizers.NFD(), normalizers.Lowercase()),
    "unknowns": unigram_with_unknowns,
}
_built: dict[str, Any] = {}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param not in _built:
        _built[request.param] = KINDS[request.param]()
    return _built[request.param]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def rollout_tokenizer(tokenizer: Any, **settings: Any) -> RolloutTokenizer:
    settings.setdefault("standalone_prompt", "Q:")
    return RolloutTokenizer(tokenizer, system_prompt="", **settings)


def continuation_ids(tokenizer: Any, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """How the tokenizer writes `text` where it continues `prompt`: what a policy trained on the
    whole text samples."""
    prompt_ids = ids_of(tokenizer, prompt)
    ids = ids_of(tokenizer, prompt + text)
    assert ids[: len(prompt_ids)] == prompt_ids, "choose a prompt that ends at a token's edge"
    return prompt_ids, ids[len(prompt_ids) :]


PROMPTS = [
    "<|user|>\nWhat is 2 + 2?<|end|>\n<|assistant|>\n",
    "<|user|> How many  cats?\n\n<|end|>\n<|assistant|>",
    "Question: What is 2 + 2?\nAnswer:",
    "Question: Ｗhat ｉs ½ of ﬁve?\nAnswer:\n",
    "The CAFE\u0301 in 東京 \U0001f389\n\tThe\u00a0cat:\n",
    " The answer is 4. The answer is",
    "Question: 12 cats? Question:",
]
RESPONSES = [
    "The answer is 4.",
    " The answer is 4.",
    "  The answer is 4.",
    "\nThe answer is 4.\n\nHello ",
    "4",
    " 4",
    "ｅ½ 東京 \U0001f389\u00e9",
    "12 - 3 = 9. The cats sat",
]


@pytest.mark.parametrize("response", RESPONSES)
def test_the_response_comes_back_as_it_was_decoded(tokenizer: Any, response: str) -> None:
    rollouts = rollout_tokenizer(tokenizer)
    for prompt in PROMPTS:
        prompt_ids, response_ids = continuation_ids(tokenizer, prompt, response)
        query = decoded(tokenizer, [*prompt_ids, *response_ids, tokenizer.eos_token_id])
        written = query[len(decoded(tokenizer, prompt_ids)) :]
        assert rollouts.split(query, prompt) == (prompt, written)


@pytest.mark.parametrize("response", RESPONSES)
def test_the_ids_that_are_scored_are_the_policys(tokenizer: Any, response: str) -> None:
    rollouts = rollout_tokenizer(tokenizer)
    for prompt in PROMPTS:
        prompt_ids, response_ids = continuation_ids(tokenizer, prompt, response)
        response_ids = [*response_ids, tokenizer.eos_token_id]
        if tokenizer.unk_token_id in response_ids:
            continue  # lost: its text is another one's
        query = decoded(tokenizer, prompt_ids + response_ids)
        encoded = rollouts.encode(*rollouts.split(query, prompt))
        assert encoded.sequences[0].context_ids == prompt_ids
        assert encoded.sequences[1].context_ids == ids_of(tokenizer, "Q:")
        for sequence in encoded.sequences:
            names = tokenizer.convert_ids_to_tokens(sequence.response_ids)
            assert names == tokenizer.convert_ids_to_tokens(response_ids), prompt
        assert encoded.num_response_tokens == len(response_ids)
        assert not encoded.over_context


@pytest.mark.parametrize("num_pads", [0, 1, 7])
def test_what_was_added_before_the_prompt_is_not_in_the_response(
    tokenizer: Any, num_pads: int
) -> None:
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for added_ids, prompt in product(([pad] * num_pads, [pad] * num_pads + bos), PROMPTS):
        prompt_ids, response_ids = continuation_ids(tokenizer, prompt, " 4.")
        prompt_ids = added_ids + prompt_ids
        query = decoded(tokenizer, prompt_ids + response_ids)
        written = query[len(decoded(tokenizer, prompt_ids)) :]
        assert rollout_tokenizer(tokenizer).split(query, prompt)[1] == written


@pytest.mark.parametrize("num_pads", [1, 3])
def test_left_padding_is_not_part_of_the_prompt(bundled_tokenizer: Any, num_pads: int) -> None:
    prompt = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    query = bundled_tokenizer.pad_token * num_pads + prompt + "4<|im_end|>"
    assert rollout_tokenizer(bundled_tokenizer).split(query, prompt) == (prompt, "4<|im_end|>")


@pytest.mark.parametrize("num_pads", [0, 1, 5])
def test_right_padding_is_not_part_of_the_response(tokenizer: Any, num_pads: int) -> None:
    tokenizer = copy.deepcopy(tokenizer)  # it gets a padding token
    prompt, eos = PROMPTS[2], tokenizer.eos_token_id
    prompt_ids, response_ids = continuation_ids(tokenizer, prompt, " 4.")
    pad = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    tokenizer.pad_token_id = pad
    ids = [*prompt_ids, *response_ids, eos, *[pad] * num_pads]

    rollouts = rollout_tokenizer(tokenizer)
    response = rollouts.split(decoded(tokenizer, ids), prompt)[1]
    assert rollouts.encode(prompt, response).sequences[0].response_ids == [*response_ids, eos]


# Ends in a marker that no response below contains: where a cut prompt ends is then never a matter
# of opinion.
END = "<|end|>\n<|assistant|>\n"
unicode_texts = st.text(st.characters(codec="utf-8"), max_size=40)
speech = st.text(st.sampled_from("The cats sat 12. \U0001f389é"), max_size=30)


@given(unicode_texts, speech, st.data())
def test_a_byte_level_prompt_cut_at_any_token(
    question: str, response: str, data: st.DataObject
) -> None:
    tokenizer = _built.setdefault("byte level", byte_level())
    check_cut(tokenizer, f"<|im_start|>user\n{question}<|im_end|>\n" + END, response, data)


@given(unicode_texts, speech, st.data())
def test_a_sentencepiece_prompt_cut_at_any_token(
    question: str, response: str, data: st.DataObject
) -> None:
    tokenizer = _built.setdefault("sentencepiece", KINDS["sentencepiece"]())
    check_cut(tokenizer, "<|user|>\n" + question + END, response, data)


@given(st.text(st.sampled_from("Ａé ½\nab<|end|>"), max_size=40), speech, st.data())
def test_a_normalizing_prompt_cut_at_any_token(
    question: str, response: str, data: st.DataObject
) -> None:
    tokenizer = _built.setdefault("NFKC", KINDS["NFKC"]())
    check_cut(tokenizer, "<|user|>\n" + question + END, response, data)


def check_cut(tokenizer: Any, prompt: str, response: str, data: st.DataObject) -> None:
    prompt_ids, response_ids = ids_of(tokenizer, prompt), ids_of(tokenizer, response)
    kept_ids = prompt_ids[data.draw(st.integers(0, len(prompt_ids) - 1)) :]
    kept, query = decoded(tokenizer, kept_ids), decoded(tokenizer, kept_ids + response_ids)
    assume(len(kept.lstrip("\ufffd")) >= 4)  # less of a prompt is not told from chance
    kept_prompt, found = rollout_tokenizer(tokenizer).split(query, prompt)
    assert found == query[len(kept) :]
    assert kept_prompt in (prompt, kept, kept.lstrip("\ufffd"))


def test_every_cut_inside_characters_of_several_bytes(bundled_tokenizer: Any) -> None:
    prompt = "<|im_start|>user\n\U0001f389東京é\U00010348 ok" + END
    rollouts = rollout_tokenizer(bundled_tokenizer)
    prompt_ids, response_ids = ids_of(bundled_tokenizer, prompt), ids_of(bundled_tokenizer, "東 4")
    seen = set()
    for cut in range(1, len(prompt_ids)):
        query = decoded(bundled_tokenizer, prompt_ids[cut:] + response_ids)
        seen.add(query[0])
        if len(query.lstrip("\ufffd")) - len("東 4") >= 4:
            assert rollouts.split(query, prompt)[1] == "東 4"
    assert "\ufffd" in seen


def test_a_query_with_another_prompt_is_refused_with_both_texts(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="does not start with its prompt") as caught:
        rollout_tokenizer(tokenizer).split("How many cats? 12", "What is 2 + 2?")
    assert "'How many cats? 12'" in str(caught.value)
    assert "'What is 2 + 2?'" in str(caught.value)


@pytest.mark.parametrize(("text", "kept"), [("ab ", 1.0), ("ab ", 0.5), ("\U0001f389", 0.5)])
@pytest.mark.parametrize("kind", ["byte level", "sentencepiece, rstrip"])
def test_large_rollouts_are_split_in_seconds(kind: str, text: str, kept: float) -> None:
    tokenizer = _built.setdefault(kind, KINDS[kind]())
    prompt = "<|user|>\n" + text * (300_000 // len(text.encode())) + END
    prompt_ids = ids_of(tokenizer, prompt)
    response_ids = ids_of(tokenizer, " 4. The answer")
    ids = prompt_ids[int(len(prompt_ids) * (1 - kept)) :] + response_ids
    query = decoded(tokenizer, ids)
    start = time.monotonic()
    assert rollout_tokenizer(tokenizer).split(query, prompt)[1].strip() == "4. The answer"
    assert time.monotonic() - start < 60


def test_the_end_of_sequence_token_counts(bundled_tokenizer: Any) -> None:
    rollouts = rollout_tokenizer(bundled_tokenizer)
    without, with_eos = rollouts.encode("Q: 2+2?", "4"), rollouts.encode("Q: 2+2?", "4<|im_end|>")
    assert with_eos.num_response_tokens == without.num_response_tokens + 1
    assert with_eos.sequences[0].response_ids[-1] == bundled_tokenizer.eos_token_id


def test_an_empty_response_has_nothing_to_score(tokenizer: Any) -> None:
    encoded = rollout_tokenizer(tokenizer, max_context_tokens=64).encode("Q: 2+2?", "")
    assert encoded.sequences == []
    assert encoded.num_response_tokens == 0
    assert not encoded.over_context


def test_graders_get_no_special_tokens(bundled_tokenizer: Any) -> None:
    rollouts = rollout_tokenizer(bundled_tokenizer)
    text = "<|im_start|>The answer<|endoftext|> is 4 <x> <|im_end|>"
    assert rollouts.remove_special_tokens(text) == "The answer\n is 4 <x> "
    bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    without_any = rollout_tokenizer(PreTrainedTokenizerFast(tokenizer_object=bare))
    assert without_any.remove_special_tokens("a $^ b\n") == "a $^ b\n"
