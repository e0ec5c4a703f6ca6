"""Measures the bundled demo model on problems that were not in its training data.

    python -m sar.models.evaluate_demo [--model DIR] [--num-problems 200]

The command fails if one of three figures is below its bound:
1. How often a concise response has a higher SAR than a padded one.
2. How often the right steps with a wrong result have a higher SAR than unrelated steps.
3. The accuracy of greedy decoding.
It also prints the SARs of hand-written filler, in styles that the training data does not have.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sar.models import BUNDLED_MODEL
from sar.models.problems import ArithmeticProblem, generate
from sar.perplexity import mean_nll, self_aligned_reward
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt
from sar.scoring import LogprobScorer
from sar.scoring.transformers_scorer import TransformersScorer
from sar.tokenization import RolloutTokenizer

MIN_CONCISE_WINS = 0.95
MIN_METHOD_WINS = 0.95
MIN_ACCURACY = 0.90

EVALUATION_SEED = 1000
MAX_NEW_TOKENS = 200
GENERATION_ROWS = 50
KINDS = "concise", "padded", "wrong_end", "unrelated"

# `{steps}` and `{answer}` come from the concise response. The training data's filler does not have
# the words around them.
HAND_WRITTEN = {
    "every step three times": "{steps} {steps} {steps} Answer: {answer}",
    "thinks again": (
        "{steps} Let me think about this again. {steps} Let me think about this again. "
        "{steps} Answer: {answer}"
    ),
    "chatty": (
        "Great question! Arithmetic can be tricky, but do not worry. {steps} "
        "I hope this explanation was useful! Answer: {answer}"
    ),
    "backtracks": (
        "Suppose we try. {steps} But hold on, maybe I misread something? Looking back at my "
        "work, nothing changes: {steps} OK, I will stick with it. Answer: {answer}"
    ),
    "lectures": (
        "Word problems become easy once each sentence is turned into algebra. {steps} Notice how "
        "every operation follows from the text; practising daily builds intuition. "
        "Answer: {answer}"
    ),
    "doubts itself": (
        "Could it be more complicated? Perhaps, perhaps not. {steps} Honestly I keep wondering "
        "whether some trick hides here. No trick. {steps} Answer: {answer}"
    ),
}


def compute_sars(
    scorer: LogprobScorer, encoder: RolloutTokenizer, prompt: str, responses: Sequence[str]
) -> list[float]:
    """Self-Aligned Rewards of responses to one prompt, computed as the server does."""
    encoded = [encoder.encode(prompt, response) for response in responses]
    logprobs = iter(scorer.response_logprobs([s for e in encoded for s in e.sequences]))
    return [
        self_aligned_reward(mean_nll(next(logprobs)), mean_nll(next(logprobs))) for _ in encoded
    ]


def fill_templates(problem: ArithmeticProblem) -> dict[str, str]:
    """The concise response within each of the hand-written filler styles."""
    steps = problem.concise.rpartition(" Answer: ")[0]
    return {
        style: template.format(steps=steps, answer=problem.answer)
        for style, template in HAND_WRITTEN.items()
    }


def parse_answer(response: str) -> int | None:
    """The integer after the last `Answer:`; None if there is none."""
    found = re.findall(r"Answer: *(-?\d+)", response)
    return int(found[-1]) if found else None


def generate_greedily(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """The model's responses to questions, decoded greedily in batches padded on the left."""
    tokenizer.padding_side = "left"
    prompts = [render_prompt(tokenizer, question, DEFAULT_SYSTEM_PROMPT) for question in questions]
    responses: list[str] = []
    for start in range(0, len(prompts), GENERATION_ROWS):
        batch = prompts[start : start + GENERATION_ROWS]
        inputs = tokenizer(batch, return_tensors="pt", padding=True)
        with torch.inference_mode():
            ids_BT = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new_BT = ids_BT[:, inputs["input_ids"].shape[1] :]
        responses += tokenizer.batch_decode(new_BT, skip_special_tokens=True)
    return responses


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures the demo model on held-out problems.")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="folder of the weights")
    parser.add_argument("--num-problems", type=int, default=200, help="(default: 200)")
    arguments = parser.parse_args()

    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    scorer = TransformersScorer(model, max_batch_tokens=16384)
    encoder = RolloutTokenizer(tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
    problems = list(islice(generate(EVALUATION_SEED, held_out=True), arguments.num_problems))
    # As in training, every other question carries the instruction.
    questions = [p.question + (f" {INSTRUCTION}" if i % 2 else "") for i, p in enumerate(problems)]

    sars: dict[str, list[float]] = {kind: [] for kind in (*KINDS, *HAND_WRITTEN)}
    for question, problem in zip(questions, problems, strict=True):
        responses = {kind: getattr(problem, kind) for kind in KINDS}
        responses |= fill_templates(problem)
        prompt = render_prompt(tokenizer, question, DEFAULT_SYSTEM_PROMPT)
        ended = [response + tokenizer.eos_token for response in responses.values()]
        values = compute_sars(scorer, encoder, prompt, ended)
        for kind, value in zip(responses, values, strict=True):
            sars[kind].append(value)

    def wins(better: str, worse: str) -> float:
        return statistics.fmean(a > b for a, b in zip(sars[better], sars[worse], strict=True))

    greedy = generate_greedily(model, tokenizer, questions)
    is_right = [parse_answer(r) == p.answer for r, p in zip(greedy, problems, strict=True)]
    figures = (
        ("SAR: concise > padded", wins("concise", "padded"), MIN_CONCISE_WINS),
        ("SAR: wrong end > unrelated", wins("wrong_end", "unrelated"), MIN_METHOD_WINS),
        ("greedy accuracy", statistics.fmean(is_right), MIN_ACCURACY),
    )

    print(f"{len(problems)} held-out problems, {arguments.model}\n")
    for name, measured, bound in figures:
        verdict = "ok" if measured >= bound else "MISSED"
        print(f"{name:<28} {measured:6.1%}   bound {bound:.0%}   {verdict}")
    print("\nresponse                     median SAR   10% to 90%       below concise")
    for kind, values in sars.items():
        low, high = np.quantile(values, (0.1, 0.9))
        below = "" if kind == "concise" else f"{wins('concise', kind):.1%}"
        median = statistics.median(values)
        print(f"{kind:<28} {median:10.3f}   {low:+.3f} to {high:+.3f}   {below:>8}")
    return 0 if all(measured >= bound for _, measured, bound in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
