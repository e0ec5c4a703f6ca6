"""The demo model's tokenizer: byte-level BPE over generated problems, ChatML template."""

from __future__ import annotations

import itertools

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

VOCABULARY_SIZE = 1024  # at most: training stops when every word is one token
MAX_POSITIONS = 1024


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over generated text: any text survives a round trip, a digit is one token."""
    tokenizer = Tokenizer(models.BPE())
    # Splitting at digits first keeps a number's tokens the same whatever stands before it.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = itertools.islice(generate(seed, held_out=False), 4000)
    # The frame is in every sample but would be lost among the problems: a word of it is one token.
    frame = [f"system\n{DEFAULT_SYSTEM_PROMPT}\nuser\n{INSTRUCTION}\nassistant\n"] * 4000
    texts = (f"{p.question} {p.padded} {p.concise}" for p in problems)
    tokenizer.train_from_iterator(itertools.chain(frame, texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )
