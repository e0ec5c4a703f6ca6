"""Explains rollouts with a model that this process loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sar.explain.compose import Scored, compose_rewards, score_alone
from sar.explain.explanation import Explanation, explain_tokens
from sar.grading.label import Label
from sar.grading.processes.pool import GraderPool
from sar.prompts import render_prompt
from sar.reward import Likelihood, combine
from sar.scoring.base import LogprobScorer
from sar.special_tokens import list_special_tokens, read_eos_token_ids
from sar.terms.base import Sample
from sar.terms.composition import Composition
from sar.tokenization import NO_NEEDS, Need, RolloutTokenizer

_MAX_BATCH_TOKENS = 16384


class ModelExplainer:
    """A model, and what the rollouts of its policy look like."""

    def __init__(
        self, scorer: LogprobScorer, own_tokenizer: Any, tokenizer: RolloutTokenizer
    ) -> None:
        """
        Args:
            own_tokenizer: the model's, of transformers.
            tokenizer: made of it.
        """
        self._scorer = scorer
        self._own_tokenizer = own_tokenizer
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        system_prompt: str,
        standalone_prompt: str = "chat",
        max_context_tokens: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> ModelExplainer:
        """Loads a model as `TransformersScorer.from_pretrained` does.

        Args:
            system_prompt, standalone_prompt: see `RolloutTokenizer`.
            max_context_tokens: None: the model's context.
        Raises:
            Exception: of any kind; a broken model folder raises whatever the libraries do.
        """
        from transformers import AutoTokenizer

        from sar.scoring.transformers_scorer import TransformersScorer

        scorer = TransformersScorer.from_pretrained(
            path_or_id,
            device=device,
            dtype=dtype,
            max_batch_tokens=_MAX_BATCH_TOKENS,
            trust_remote_code=trust_remote_code,
        )
        own = AutoTokenizer.from_pretrained(path_or_id, trust_remote_code=trust_remote_code)
        limits = [n for n in (scorer.max_context_tokens, max_context_tokens) if n]
        tokenizer = RolloutTokenizer(
            own,
            system_prompt=system_prompt,
            standalone_prompt=standalone_prompt,
            max_context_tokens=min(limits, default=None),
            eos_token_ids=read_eos_token_ids(path_or_id),
        )
        return cls(scorer, own, tokenizer)

    @property
    def special_tokens(self) -> list[str]:
        return list_special_tokens(self._own_tokenizer)

    def render_prompt(self, question: str, system_prompt: str) -> str:
        """The prompt for a question, rendered with the model's chat template."""
        return render_prompt(self._own_tokenizer, question, system_prompt)

    def explain(
        self,
        prompt: str,
        response: str,
        *,
        needs: frozenset[Need] = NO_NEEDS,
        reference: str = "",
    ) -> Explanation:
        """The tokens of one rollout, without a verdict.

        Args:
            needs, reference: as for `RolloutTokenizer.encode`.
        """
        encoded = self.tokenizer.encode(prompt, response, needs=needs, reference=reference)
        logprobs = self._scorer.response_logprobs(encoded.sequences)
        return Explanation(
            prompt,
            response,
            explain_tokens(self.tokenizer, response, encoded, logprobs),
            Likelihood.from_logprobs(encoded, logprobs),
            verdict=None,
            reward=None,
        )

    def explain_graded(
        self,
        prompt: str,
        responses: Sequence[str],
        label: Label,
        graders: GraderPool,
        *,
        sar_weight: float,
        composition: Composition | None = None,
    ) -> list[Explanation]:
        """The tokens and rewards of the responses to one prompt.

        Args:
            sar_weight: of the reward without a reward file.
            composition: the reward of a reward file. It replaces that reward.
        Raises:
            TermError: a term failed.
        """
        needs = composition.needs if composition and label.mode == "train" else NO_NEEDS
        scored = []
        for response in responses:
            text = self.tokenizer.make_graded_text(prompt, response)
            verdict = graders.grade(text, label)
            explanation = self.explain(prompt, response, needs=needs, reference=label.answer)
            likelihood = explanation.likelihood
            reward = combine(verdict, likelihood, sar_weight=sar_weight, mode=label.mode).value
            graded = Explanation(prompt, response, explanation.tokens, likelihood, verdict, reward)
            scored.append(Scored(Sample(prompt, text, label, verdict, likelihood), graded))
        if composition is None:
            return [one.explanation for one in scored]
        return compose_rewards(composition, [score_alone(composition, one) for one in scored])
