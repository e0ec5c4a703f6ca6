"""The rollouts that a candidate is tried on: the attack battery of `sar.probe` on bundled problems,
with the honest responses, and hostile texts. The bundled model gives their likelihoods."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType

from sar.probe.attacks import HONEST
from sar.probe.battery import make_case, run_battery
from sar.probe.case import Case
from sar.probe.scorer import Rollout, Scorer
from sar.terms.candidate.sample import PlainSample, make_plain

NUM_PROBLEMS = 8
_GRADER_TIMEOUT_S = 10.0

HOSTILE_TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "line breaks": "\n" * 500,
        "one letter": "a" * 800,
        "no spaces": "0123456789abcdef" * 50,
        "open brackets": "([{" * 200,
        "backslashes": "\\" * 500,
        "a regular expression's bomb": "a" * 500 + "!",
        "control characters": "".join(map(chr, range(32))) * 20,
        "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 " * 50,
        "right to left": "\u202eabc \u0627\u0644\u062c\u0648\u0627\u0628 " * 50,
        "combining marks": "e" + "\u0301" * 500,
        "digits of other scripts": "\u0663\u0664\u0665 \u4e09\u5341 \u00bd \u2167",
        "a long number": "9" * 800,
        "numbers that overflow": "1e999 -1e999 nan inf 1/0 0x1p2000",
        "format fields": "{} {0} {sample} %s %d %(x)s ${x}",
        "many words": "The answer could be 1 or 2 or 3. " * 250,
    }
)
"""Responses that a careless candidate fails on, by what they are."""


@dataclass(frozen=True)
class ProbeRollout:
    """One rollout of the batch."""

    name: str
    """"honest", "honest_but_wrong", the attack's name, or "text: ..." for a hostile text."""
    trick: str
    """What the response does, in words that follow "it"."""
    sample: PlainSample
    honest: int | None
    """Of a response that does not solve: the position in the batch of the honest right response to
    the same problem."""


ProbeBatch = tuple[ProbeRollout, ...]


def load_batch(num_problems: int = NUM_PROBLEMS) -> ProbeBatch:
    """Builds the batch with the bundled model, which takes seconds; keep it.

    Raises:
        ProbeError: the bundled model or a grader failed.
    """
    from transformers.utils import logging as transformers_logging

    from sar.grading.processes.pool import GraderPool
    from sar.models import BUNDLED_MODEL
    from sar.probe.local import LocalScorer, load_scorer, load_tokenizer
    from sar.probe.problems import list_bundled
    from sar.prompts import DEFAULT_SYSTEM_PROMPT
    from sar.terms.reward_file import default_composition

    transformers_logging.disable_progress_bar()
    model = str(BUNDLED_MODEL)
    loaded = load_scorer(model, "float32")
    own, tokenizer = load_tokenizer(model, DEFAULT_SYSTEM_PROMPT, loaded.max_context_tokens)
    cases = [
        make_case(one, own, tokenizer.end_tokens, DEFAULT_SYSTEM_PROMPT)
        for one in list_bundled(num_problems)
    ]
    with closing(GraderPool(min(os.cpu_count() or 1, 4), _GRADER_TIMEOUT_S)) as graders:
        scorer = LocalScorer(loaded, tokenizer, graders, {"reward": default_composition(0.0)})
        return make_batch(cases, scorer)


def make_batch(cases: Sequence[Case], scorer: Scorer) -> ProbeBatch:
    """
    Args:
        cases: the problems; at least one.
    Raises:
        ProbeError: the scorer gave nothing.
    """
    results = run_battery(cases, scorer)
    rollouts: list[ProbeRollout] = []
    honest = {one.problem: index for index, one in enumerate(results[HONEST])}
    for attack in (HONEST, *(one for one in results if one != HONEST)):
        for one in results[attack]:
            against = None if attack.solves else honest[one.problem]
            sample = make_plain(one.scored.sample)
            rollouts.append(ProbeRollout(attack.name, attack.trick, sample, against))
    return (*rollouts, *_score_texts(cases[0], scorer))


def _score_texts(case: Case, scorer: Scorer) -> Iterator[ProbeRollout]:
    label = case.problem.label
    scored = scorer.score(
        [
            Rollout(case.prompt, text + case.end, label, case.problem.label_as_sent)
            for text in HOSTILE_TEXTS.values()
        ]
    )
    for name, one in zip(HOSTILE_TEXTS, scored, strict=True):
        # `make_batch` puts the honest response to the first problem first.
        against = None if one.sample.is_correct else 0
        trick = f"is no attempt, but {name}"
        yield ProbeRollout(f"text: {name}", trick, make_plain(one.sample), against)
