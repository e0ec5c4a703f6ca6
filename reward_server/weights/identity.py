"""Tells whether a checkpoint is of the model in service, or of another one.

A reward from another model's weights, tokenizer or prompt looks right and is not. What is compared
is what changes a reward, not the bytes of files: a trainer that saves the tokenizer again may
change its padding side or maximum length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from sar.special_tokens import list_special_tokens
from sar.terminal import cut, make_printable
from sar.tokenization import RolloutTokenizer

# How many differences an error lists, and how many columns each of their values may take.
_MAX_DIFFERENCES = 5
_MAX_VALUE_WIDTH = 200
# Characters shown before the place where two values differ.
_CONTEXT = 20
_TEMPLATE, _PROMPT = "chat template", "empty-question prompt"
# White space, digits, contractions, other scripts, formulas: what tokenizers split or normalise in
# ways of their own, and what decoding may clean up.
_SAMPLE = (
    "It's 12345,67 apples , isn 't it ?  They'RE\u00a0\ufb01ne\u2026\n\n\tdef f(x):\r\n    return 2"
    " \u00e9e\u0301 \u4f60\u597d\uff0c\u4e16 \u041f\u0440\u0438 \U0001f642"
    " $\\frac{1}{2}$ <think> \\boxed{7}. x=1==y+2 "
)


def describe_tokenizer(tokenizer: Any, rollouts: RolloutTokenizer) -> dict[str, str]:
    """What determines how a checkpoint's texts are encoded, decoded and graded, by name.

    Args:
        tokenizer: the checkpoint's transformers tokenizer.
        rollouts: the server's own tokenizer, made of it.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = hashlib.sha256()
    for token, id_ in vocabulary:  # one by one, so that other threads run between
        words.update(f"{id_} {token}\n".encode(errors="surrogatepass"))
    # White space around a special token may belong to it.
    special = "".join(f"a {token} b{token}c\n{token}\n" for token in tokenizer.all_special_tokens)
    sample_ids = tokenizer.encode(_SAMPLE + special, add_special_tokens=False)
    return {
        "vocabulary": f"{len(vocabulary)} tokens, digest {words.hexdigest()[:8]}",
        "merges": f"digest {_digest(_read_merges(tokenizer))}",
        "encoding of a sample text": f"{len(sample_ids)} tokens, digest {_digest(str(sample_ids))}",
        "decoding of a sample text": tokenizer.decode(sample_ids, skip_special_tokens=False),
        "special tokens": " ".join(sorted(list_special_tokens(tokenizer))),
        "EOS token": str(tokenizer.eos_token),
        # The padding token may differ, and is not among the end tokens unless it is the EOS token.
        "tokens that end a response": " ".join(
            sorted({*rollouts.end_tokens, tokenizer.pad_token or tokenizer.eos_token})
        ),
        _TEMPLATE: f"digest {_digest(f'{tokenizer.bos_token} {tokenizer.chat_template}')}",
        _PROMPT: tokenizer.decode(rollouts.standalone_ids, skip_special_tokens=False),
    }


def describe_difference(new: Mapping[str, str], old: Mapping[str, str]) -> str:
    """One line on how two identities differ; empty if they are of the same model."""
    names = [name for name in {**old, **new} if new.get(name) != old.get(name)]
    # Refuse another chat template only if it also renders another empty-question prompt. A template
    # alone may be rewritten; a prompt alone may contain today's date.
    if not {_TEMPLATE, _PROMPT} <= set(names):
        names = [name for name in names if name not in (_TEMPLATE, _PROMPT)]
    shown = [
        f"{name} {_show_change(new.get(name, 'none'), old.get(name, 'none'))}"
        for name in names[:_MAX_DIFFERENCES]
    ]
    others = len(names) - len(shown)
    return ", ".join(shown) + (f" and {others} more differences" if others else "")


def _show_change(new: str, old: str) -> str:
    """Shows both values, long ones from shortly before the place where they differ."""
    start = 0
    if max(len(new), len(old)) > _MAX_VALUE_WIDTH:
        same = takewhile(lambda pair: pair[0] == pair[1], zip(new, old, strict=False))
        start = max(0, sum(1 for _ in same) - _CONTEXT)
    shown_new, shown_old = (
        ("..." if start else "") + cut(make_printable(value[start:]), _MAX_VALUE_WIDTH)
        for value in (new, old)
    )
    return f"'{shown_new}' instead of '{shown_old}'"


def _read_merges(tokenizer: Any) -> str:
    """A BPE model's merges, or a unigram model's probabilities; the vocabulary has neither.

    Empty for a tokenizer written in Python, of which the sample text shows the most.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    # Not parsed: a large vocabulary would stop all other threads for half a second.
    model = backend.model.__getstate__().decode()
    return str(model.partition('"merges":[')[2] or model.partition('"vocab":[')[2])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
