"""Scores the battery with a model that is loaded here, as the server does: the same tokenising,
grading, scoring and terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sar.errors import one_line
from sar.grading.processes.pool import GraderPool
from sar.probe.scorer import NamedReward, ProbeError, Rollout, Scored
from sar.reward import Likelihood
from sar.scoring.base import LogprobScorer
from sar.special_tokens import read_eos_token_ids
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition, WeightedTerm
from sar.tokenization import RolloutTokenizer

_MAX_BATCH_TOKENS = 16_384


def load_tokenizer(
    path_or_id: str, system_prompt: str, max_context_tokens: int | None = None
) -> tuple[Any, RolloutTokenizer]:
    """A model's tokenizer, and the server's made of it.

    Raises:
        ProbeError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(path_or_id)
        return own, RolloutTokenizer(
            own,
            system_prompt=system_prompt,
            max_context_tokens=max_context_tokens,
            eos_token_ids=read_eos_token_ids(path_or_id),
        )
    except Exception as error:  # a broken folder raises many types
        raise ProbeError(f"cannot load the tokenizer of {path_or_id}: {one_line(error)}") from error


def load_scorer(path_or_id: str, dtype: str) -> LogprobScorer:
    """
    Raises:
        ProbeError: the model cannot be loaded.
    """
    from sar.scoring.transformers_scorer import TransformersScorer

    try:
        return TransformersScorer.from_pretrained(
            path_or_id, dtype=dtype, max_batch_tokens=_MAX_BATCH_TOKENS
        )
    except Exception as error:  # a broken folder raises many types
        raise ProbeError(f"cannot load the model {path_or_id}: {one_line(error)}") from error


class LocalScorer:
    """Scores with a model in this process; see `Scorer`."""

    def __init__(
        self,
        scorer: LogprobScorer,
        tokenizer: RolloutTokenizer,
        graders: GraderPool,
        compositions: Mapping[str, Composition],
    ) -> None:
        """
        Args:
            compositions: the rewards by name, at least one.
        """
        self._scorer = scorer
        self._tokenizer = tokenizer
        self._graders = graders
        self._compositions = compositions
        self._columns = _name_columns(compositions)
        self._needs = frozenset[Any]().union(*(one.needs for one in compositions.values()))
        self.rewards = [
            NamedReward(name, one.formula, is_sum=one.normalize == "none")
            for name, one in compositions.items()
        ]

    def score(self, battery: Sequence[Rollout]) -> list[Scored]:
        """See `Scorer`."""
        samples = self._make_samples(battery)
        terms: list[dict[str, float]] = [{} for _ in samples]
        rewards: list[dict[str, float]] = [{} for _ in samples]
        for name, composition in self._compositions.items():
            try:
                alone = [composition.score(sample) for sample in samples]
                values = composition.score_group(samples, alone)
            except TermError as error:
                raise ProbeError(f"--reward {name}: {error}") from error
            combined = composition.combine(samples, values)
            columns = self._columns[name]
            for index, (own, reward) in enumerate(zip(values, combined, strict=True)):
                terms[index] |= {columns[term]: value for term, value in own.items()}
                rewards[index][name] = reward
        return [Scored(*one) for one in zip(samples, terms, rewards, strict=True)]

    def _make_samples(self, battery: Sequence[Rollout]) -> list[Sample]:
        """Grades and scores, as `reward_server.pipeline.request` does."""
        prepared = []
        for one in battery:
            prompt, response = self._tokenizer.split(one.prompt + one.response, one.prompt)
            text = self._tokenizer.make_graded_text(prompt, response)
            encoded = self._tokenizer.encode(
                prompt, response, needs=self._needs, reference=one.label.answer
            )
            verdict = self._graders.submit(text, one.label)
            prepared.append((prompt, text, one.label, verdict, encoded))
        sequences = [sequence for *_, encoded in prepared for sequence in encoded.sequences]
        try:
            logprobs = iter(self._scorer.response_logprobs(sequences))
            return [
                Sample(
                    prompt,
                    text,
                    label,
                    verdict.result(),
                    Likelihood.from_logprobs(encoded, [next(logprobs) for _ in encoded.sequences]),
                )
                for prompt, text, label, verdict, encoded in prepared
            ]
        except (ValueError, RuntimeError, FloatingPointError) as error:
            raise ProbeError(f"the model or a grader failed: {one_line(error)}") from error


def _name_columns(compositions: Mapping[str, Composition]) -> dict[str, dict[str, str]]:
    """For each reward, the columns of its terms. Equal terms share one; two that differ and have
    the same name are told apart by their reward's."""
    first: dict[str, WeightedTerm] = {}
    columns: dict[str, dict[str, str]] = {}
    for reward, composition in compositions.items():
        columns[reward] = {}
        for one in composition.terms:
            known = first.setdefault(one.name, one)
            is_same = type(known.term) is type(one.term) and known.term == one.term
            columns[reward][one.name] = one.name if is_same else f"{one.name} ({reward})"
    return columns
