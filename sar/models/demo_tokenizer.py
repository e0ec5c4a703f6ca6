"""The demo model's tokenizer: byte-level BPE with a ChatML template."""

from __future__ import annotations

import itertools

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

MAX_VOCABULARY_SIZE = 1024  # training stops earlier if every word is one token
MAX_POSITIONS = 1024


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on generated problems. Each digit is one token, and any text can be
    encoded and decoded without loss."""
    tokenizer = Tokenizer(models.BPE())
    # Splitting at digits first: a number has the same tokens whatever text is before it.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY_SIZE,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = itertools.islice(generate(seed, held_out=False), 4000)
    # The prompt's frame is repeated as often as there are problems, so that its words are frequent
    # enough to become one token each.
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
