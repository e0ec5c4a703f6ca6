"""Trains the bundled demo model from random weights on generated word problems, on a CPU.

    python -m sar.models.train_demo [--output DIR] [--steps N] [--seed 0] [--threads 2]

It takes ten to fourteen minutes on two cores. If other work shares the cores, set
OMP_WAIT_POLICY=PASSIVE: a step then took 2 s instead of 8 s.
The same seed gives the same data and, on the same machine and torch, the same weights.
Some samples have an empty question, in the same frame as `empty_question_prompt`, so that the model
learns the probabilities behind ppl_a. No sample has wrong arithmetic.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from sar.models import BUNDLED_MODEL
from sar.models.demo_tokenizer import MAX_POSITIONS, TURN_END, build_tokenizer
from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt

EMPTY_QUESTION_SHARE = 0.2
PADDED_SHARE = 0.25  # with and without a question, so that filler is equally likely in both
NO_SYSTEM_SHARE = 0.05
NOISE_SHARE = 0.15  # see `insert_noise`
MAX_NOISE_TOKENS = 16

ROWS_PER_BATCH = 32
MATRIX_LEARNING_RATE = 0.02  # Muon's
OTHER_LEARNING_RATE = 3e-3  # AdamW's
WARMUP_STEPS = 20
DECAY_SHARE = 0.4  # of the steps, at the end
IGNORED = -100  # cross_entropy ignores these targets


class Sample(NamedTuple):
    """One training row: token ids, and for each whether the loss covers it."""

    ids: list[int]
    is_learnt: list[bool]


def build_model(tokenizer: Any) -> Qwen3ForCausalLM:
    """A small Qwen3, an architecture that both transformers and vLLM support."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def draw_sample(
    tokenizer: Any,
    problem: ArithmeticProblem,
    rng: random.Random,
    padded_share: float = PADDED_SHARE,
) -> Sample:
    """One prompt and one correct response, drawn with the shares above."""
    question = problem.question
    if rng.random() < 0.5:
        question = f"{question} {INSTRUCTION}"
    if rng.random() < EMPTY_QUESTION_SHARE:
        question = ""
    system_prompt = "" if rng.random() < NO_SYSTEM_SHARE else DEFAULT_SYSTEM_PROMPT
    response = problem.padded if rng.random() < padded_share else problem.concise
    # Encoded separately, as for a policy: no token spans prompt and response.
    prompt_ids = tokenizer.encode(render_prompt(tokenizer, question, system_prompt))
    response_ids = tokenizer.encode(response + TURN_END)
    prompt = Sample(prompt_ids, [False] * len(prompt_ids))
    written = Sample(response_ids, [True] * len(response_ids))
    if rng.random() < NOISE_SHARE:
        written = insert_noise(tokenizer, written, rng)
    return Sample(prompt.ids + written.ids, prompt.is_learnt + written.is_learnt)


def insert_noise(tokenizer: Any, response: Sample, rng: random.Random) -> Sample:
    """Inserts random tokens after one sentence of the response, or before the first.

    Words that the model has never seen should be about equally improbable with and without a
    question. Otherwise unusual filler could raise or lower SAR. The loss covers the noise except
    for its first token: the model learns to continue noise, but not to start it.
    """
    (period,) = tokenizer.encode(".")
    ends = [i + 1 for i, token in enumerate(response.ids) if token == period]
    at = rng.choice([0, *ends])
    special = set(tokenizer.get_added_vocab().values())
    words = [token for token in range(len(tokenizer)) if token not in special]
    noise = rng.choices(words, k=rng.randint(2, MAX_NOISE_TOKENS))
    learnt = [False] + [True] * (len(noise) - 1)
    return Sample(
        response.ids[:at] + noise + response.ids[at:],
        response.is_learnt[:at] + learnt + response.is_learnt[at:],
    )


def make_batches(samples: list[Sample], pad_id: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields token ids and targets, (B, T) each, of rows with similar lengths.

    Padding is on the right, so causal attention needs no mask.
    """
    group = 16 * ROWS_PER_BATCH
    order = random.Random(0)
    for start in range(0, len(samples), group):
        rows = sorted(samples[start : start + group], key=lambda sample: len(sample.ids))
        starts = list(range(0, len(rows), ROWS_PER_BATCH))
        order.shuffle(starts)
        for first in starts:
            batch = rows[first : first + ROWS_PER_BATCH]
            shape = len(batch), len(batch[-1].ids)
            ids_BT = torch.full(shape, pad_id)
            targets_BT = torch.full(shape, IGNORED)
            for row, sample in enumerate(batch):
                ids_T = torch.tensor(sample.ids)
                ids_BT[row, : len(ids_T)] = ids_T
                # The target of a position is the next token.
                targets_T = ids_T.masked_fill(~torch.tensor(sample.is_learnt), IGNORED)
                targets_BT[row, : len(ids_T) - 1] = targets_T[1:]
            yield ids_BT, targets_BT


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up, a plateau, then linear decay to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (num_steps - step) / (DECAY_SHARE * num_steps))


def build_optimizers(model: Qwen3ForCausalLM, scale: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms.

    After 200 steps, Muon's loss is half that of AdamW alone, so training takes only minutes.
    All learning rates are multiplied by `scale`.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    in_layers = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in in_layers]
    return [
        torch.optim.Muon(matrices, lr=scale * MATRIX_LEARNING_RATE, weight_decay=0.01),
        torch.optim.AdamW(
            others, lr=scale * OTHER_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0
        ),
    ]


def train(
    model: Qwen3ForCausalLM,
    samples: list[Sample],
    num_steps: int,
    pad_id: int,
    learning_rate_scale: float = 1.0,
) -> None:
    """Trains for one pass over the samples. The loss covers the responses and their end tokens."""
    optimizers = build_optimizers(model, learning_rate_scale)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(opt, lambda step: learning_rate_factor(step, num_steps))
        for opt in optimizers
    ]
    model.train()
    started = reported = time.monotonic()
    recent: list[float] = []
    for step, (ids_BT, targets_BT) in enumerate(make_batches(samples, pad_id), start=1):
        hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
        is_target_BT = targets_BT != IGNORED
        logits_NV = model.lm_head(hidden_BTD[is_target_BT])
        loss = torch.nn.functional.cross_entropy(logits_NV, targets_BT[is_target_BT])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        recent.append(loss.item())
        now = time.monotonic()
        if now - reported >= 5 or step == num_steps:
            eta_s = (now - started) / step * (num_steps - step)
            mean = sum(recent) / len(recent)
            print(f"step {step}/{num_steps}  loss {mean:.4f}  ETA {eta_s:.0f} s", flush=True)
            reported, recent = now, []


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the bundled demo model on a CPU.")
    parser.add_argument("--output", type=Path, default=BUNDLED_MODEL, help="folder for the model")
    parser.add_argument("--steps", type=int, default=560, help="(default: 560)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()

    tokenizer = build_tokenizer(arguments.seed)
    model = build_model(tokenizer)
    rng = random.Random(arguments.seed)
    problems = generate(arguments.seed + 1, held_out=False)
    num_samples = arguments.steps * ROWS_PER_BATCH
    samples = [
        draw_sample(tokenizer, problem, rng) for problem in itertools.islice(problems, num_samples)
    ]
    print(
        f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary, "
        f"{num_samples:,} samples, {sum(len(s.ids) for s in samples):,} tokens",
        flush=True,
    )
    train(model, samples, arguments.steps, tokenizer.pad_token_id)

    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.eval().save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    print(f"saved to {arguments.output} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
