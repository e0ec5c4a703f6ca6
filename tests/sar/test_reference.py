"""Where the reference answer takes the place of the response's, and what is scored for it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from sar.prompts import render_prompt
from sar.reference import NO_ANSWER_MARKER, find_answer_place
from sar.reward import EMPTY_RESPONSE, Likelihood
from sar.scoring.transformers_scorer import TransformersScorer
from sar.tokenization import NEEDS, NO_NEEDS, EncodedRollout, Need, RolloutTokenizer

END = "<|im_end|>"
GAIN: frozenset[Need] = frozenset({"reference_gain"})
PLACES = {
    # Response: its reasoning, and the marker before the answer.
    rf"We add. So $2+2=\boxed{{4}}$.{END}": ("We add. So $2+2=", r"\boxed{"),
    r"The answer is $\boxed{4}$": ("The answer is $", r"\boxed{"),
    r"Either \boxed{0} and \boxed{4}": ("Either ", r"\boxed{"),
    r"2 and 2, \boxed 4": ("2 and 2, ", r"\boxed "),
    r"First \boxed{3}. No: \boxed{4}.": (r"First \boxed{3}. No: ", r"\boxed{"),
    "2 + 2 = 4\n#### 4": ("2 + 2 = 4\n", "#### "),
    "So it is.\n**Final answer:** **$4$**": ("So it is.\n", "**Final answer:** **$"),
    r"I add. The answer is \(4\).": ("I add. The ", r"answer is \("),
    r"<think>\boxed{3}?</think> Yes. <answer> 4 </answer>": (
        r"<think>\boxed{3}?</think> Yes. ",
        "<answer> ",
    ),
    # The first answer stands if the model goes on with a question of its own.
    "I add: \\boxed{4}.\n\nQuestion: what is \\boxed{9}?": ("I add: ", r"\boxed{"),
    rf"I add: \boxed{{4}}.{END} Or \boxed{{5}}": ("I add: ", r"\boxed{"),
    # At once.
    r"\boxed{\frac{8}{2}}": ("", r"\boxed{"),
    # No answer.
    "I add 2 and": ("I add 2 and\n", NO_ANSWER_MARKER),
    rf"<think>Is it \boxed{{4}}? {END}": ("<think>Is it \\boxed{4}?\n", NO_ANSWER_MARKER),
    "": ("", NO_ANSWER_MARKER),
    END: ("", NO_ANSWER_MARKER),
}


@pytest.mark.parametrize("response", PLACES)
def test_the_reference_comes_where_the_last_answer_is_stated(response: str) -> None:
    assert find_answer_place("Q", response, "5", (END,)) == PLACES[response]


def test_thinking_that_the_prompt_opens_is_no_answer() -> None:
    def find(response: str) -> tuple[str, str]:
        return find_answer_place("Q <think>\n", response, "5")

    assert find(r"Is it \boxed{4}?") == ("Is it \\boxed{4}?\n", NO_ANSWER_MARKER)
    assert find(r"Is it 4? </think> \boxed{4}") == ("Is it 4? </think> ", r"\boxed{")


def test_a_reference_with_delimiters_of_its_own_gets_no_others() -> None:
    assert find_answer_place("Q", "The answer is $4$", "$5$") == ("The ", "answer is ")
    assert find_answer_place("Q", "The answer is $4$", "5") == ("The ", "answer is $")


@given(
    st.text() | st.lists(st.sampled_from([*PLACES, "\n", " x ", "</think>", "\x01"])).map("".join)
)
def test_what_comes_before_the_answer_is_the_responses_own_text(response: str) -> None:
    reasoning, marker = find_answer_place("Q", response, "5", (END,))
    assert marker
    if marker == NO_ANSWER_MARKER:
        assert response.startswith(reasoning.removesuffix("\n"))
    else:
        assert response.startswith(reasoning + marker)


PROMPT = "What is 17 + 25?"
RESPONSES = {
    "right": "17 + 25 = 42.\n#### 42<|im_end|>",
    "wrong": "17 + 25 = 43.\n#### 43<|im_end|>",
    "box": r"We add 17 and 25, so it is \boxed{40}.",
    "without an answer": "We add 17 and",
}


@pytest.fixture(scope="module")
def model(bundled_model_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(bundled_model_path).eval()


@pytest.fixture(scope="module")
def scorer(model: Any) -> TransformersScorer:
    return TransformersScorer(copy.deepcopy(model), 2000)


@pytest.fixture(scope="module")
def prompt(bundled_tokenizer: Any) -> str:
    return render_prompt(bundled_tokenizer, PROMPT, "")


def tokenizer_of(tokenizer: Any, limit: int | None = None) -> RolloutTokenizer:
    return RolloutTokenizer(tokenizer, system_prompt="", max_context_tokens=limit)


def score(scorer: TransformersScorer, encoded: EncodedRollout) -> Likelihood:
    return Likelihood.from_logprobs(encoded, scorer.response_logprobs(encoded.sequences))


@torch.no_grad()
def mean_logprob(model: Any, tokenizer: Any, text: str, continuation: str) -> float:
    """Mean log-probability of a text's last tokens from the whole model, in float64. The text is
    one whose tokens end where the continuation starts."""
    ids = [tokenizer.encode(t, add_special_tokens=False) for t in (text, text + continuation)]
    first = len(ids[0])
    assert ids[1][:first] == ids[0]
    logits = model(input_ids=torch.tensor([ids[1]])).logits[0].double().numpy()
    total = 0.0
    for position in range(first, len(ids[1])):
        row = logits[position - 1]
        total += row[ids[1][position]] - math.log(np.exp(row - row.max()).sum()) - row.max()
    return total / (len(ids[1]) - first)


@pytest.mark.parametrize("reference", ["42", "7", r"\frac{84}{2}", "x + y"])
@pytest.mark.parametrize("name", RESPONSES)
def test_the_gain_is_that_of_plain_text(
    name: str,
    reference: str,
    model: Any,
    scorer: TransformersScorer,
    bundled_tokenizer: Any,
    prompt: str,
) -> None:
    response = RESPONSES[name]
    before = {
        "right": "17 + 25 = 42.\n",
        "wrong": "17 + 25 = 43.\n",
        "box": "We add 17 and 25, so it is ",
        "without an answer": "We add 17 and\n",
    }[name]
    marker = {"box": r"\boxed{", "without an answer": "The answer is "}.get(name, "#### ")
    encoded = tokenizer_of(bundled_tokenizer).encode(
        prompt, response, needs=GAIN, reference=reference
    )
    expected = mean_logprob(model, bundled_tokenizer, prompt + before + marker, reference)
    expected -= mean_logprob(model, bundled_tokenizer, prompt + marker, reference)
    likelihood = score(scorer, encoded)
    assert likelihood.reference_gain == pytest.approx(expected, abs=1e-5)
    assert likelihood.self_certainty is None


def test_reasoning_that_leads_to_the_reference_gains_more(
    scorer: TransformersScorer, bundled_tokenizer: Any, prompt: str
) -> None:
    tokenizer = tokenizer_of(bundled_tokenizer)
    gains = [
        score(scorer, tokenizer.encode(prompt, response, needs=GAIN, reference="42")).reference_gain
        for response in (RESPONSES["right"], RESPONSES["wrong"], "#### 43")
    ]
    right, wrong, none = gains
    assert right is not None
    assert wrong is not None
    assert right > wrong + 0.1
    assert none == pytest.approx(0, abs=1e-5), "no reasoning, no gain"


def test_needs_change_nothing_else(
    scorer: TransformersScorer, bundled_tokenizer: Any, prompt: str
) -> None:
    tokenizer = tokenizer_of(bundled_tokenizer)
    plain = tokenizer.encode(prompt, RESPONSES["box"])
    assert (len(plain.sequences), plain.needs) == (2, NO_NEEDS)
    assert not any(one.wants_certainty for one in plain.sequences)
    encoded = tokenizer.encode(prompt, RESPONSES["box"], needs=NEEDS, reference="42")
    assert [one.wants_certainty for one in encoded.sequences] == [True, False, False, False]
    for ours, theirs in zip(encoded.sequences, plain.sequences, strict=False):
        assert ours.context_ids == theirs.context_ids
        assert ours.response_ids == theirs.response_ids
    assert all(one.continues is encoded.sequences[0] for one in encoded.sequences[2:])
    without, with_needs = score(scorer, plain), score(scorer, encoded)
    assert with_needs.nll_qa == pytest.approx(without.nll_qa, abs=1e-6)
    assert with_needs.nll_a == pytest.approx(without.nll_a, abs=1e-6)
    assert (without.self_certainty, without.reference_gain) == (None, None)


def test_an_empty_response_has_neither_certainty_nor_gain(
    bundled_tokenizer: Any, prompt: str
) -> None:
    tokenizer = tokenizer_of(bundled_tokenizer)
    encoded = tokenizer.encode(prompt, "", needs=NEEDS, reference="42")
    assert encoded.sequences == []
    likelihood = Likelihood.from_logprobs(encoded, [])
    assert (likelihood.self_certainty, likelihood.reference_gain) == (0.0, 0.0)
    assert likelihood.sar == 0.0
    assert Likelihood.from_logprobs(tokenizer.encode(prompt, ""), []) == EMPTY_RESPONSE


@pytest.mark.parametrize("limit", [24, 32, 48, 64, 100])
@pytest.mark.parametrize("response", [RESPONSES["right"], "17 " * 200, "17 " * 200 + "#### 43"])
@pytest.mark.parametrize("reference", ["42", "4 2 " * 100])
def test_what_does_not_fit_the_context_is_cut(
    limit: int, response: str, reference: str, bundled_tokenizer: Any, prompt: str
) -> None:
    tokenizer = RolloutTokenizer(
        bundled_tokenizer, system_prompt="", standalone_prompt="Q:", max_context_tokens=limit
    )
    whole = tokenizer_of(bundled_tokenizer)
    encoded = tokenizer.encode(prompt, response, needs=GAIN, reference=reference)
    assert encoded.over_context == tokenizer.encode(prompt, response).over_context
    _, _, cut, cut_alone = encoded.sequences
    _, _, uncut, _ = whole.encode(prompt, response, needs=GAIN, reference=reference).sequences
    assert max(len(cut), len(cut_alone)) <= limit
    assert uncut.response_ids[: len(cut.response_ids)] == cut.response_ids
    assert cut.response_ids == cut_alone.response_ids
    marker = "#### " if "####" in response else NO_ANSWER_MARKER
    for one in (cut, cut_alone):
        assert bundled_tokenizer.decode(one.context_ids).endswith(marker)
    if len(uncut) <= limit:
        assert cut == uncut


def test_a_reference_that_the_tokenizer_drops_gives_no_gain(
    bundled_tokenizer: Any, prompt: str
) -> None:
    encoded = tokenizer_of(bundled_tokenizer).encode(
        prompt, RESPONSES["box"], needs=GAIN, reference=""
    )
    likelihood = Likelihood.from_logprobs(
        encoded, [np.full(len(one.response_ids), -1, np.float32) for one in encoded.sequences]
    )
    assert likelihood.reference_gain is None
