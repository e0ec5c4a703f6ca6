"""Rewards for TRL's GRPOTrainer (1.16.0).

    from recipes.adapters.trl import RemoteReward

    reward = RemoteReward("http://127.0.0.1:5000/get_reward", tokenizer)
    GRPOTrainer(model, reward_funcs=reward, train_dataset=dataset, ...)

The dataset has the columns `prompt` (text, or messages) and `label` (the ground truth; see
docs/protocol.md). A completion without a reward, after all tries, gets None: TRL leaves it out of
its group's baseline and learns nothing from it. A step without any reward ends the training, and
so does a mistake that will not pass, such as a wrong key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from recipes.adapters.client import RewardClient, RewardError

_MAX_THREADS = 32
# Those of the answer that say the same as another, or that TRL logs by itself.
_NOT_LOGGED = {"reward", "score"}

_log = logging.getLogger(__name__)

_Rollout = tuple[str, str, Any]
_Answer = dict[str, float]


class RemoteReward:
    """A reward function that asks a reward server."""

    __name__ = "sar_reward"  # what TRL calls it in its log

    def __init__(
        self,
        url: str,
        tokenizer: Any,
        *,
        field: str = "reward",
        batch_size: int = 16,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **of_client: Any,
    ) -> None:
        """
        Args:
            tokenizer: the trainer's processing class.
            field: what is returned: "reward", or a part of it such as "sar" or "correctness".
            batch_size: rollouts in a request; the requests of a step go out at once.
            chat_template_kwargs: those of the GRPOConfig.
            of_client: timeout_s, num_tries, wait_s of RewardClient.
        Raises:
            ValueError: the URL cannot be one, or the batch size is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a request holds at least one rollout")
        self._client = RewardClient(url, **of_client)
        self._tokenizer = tokenizer
        self._field = field
        self._batch_size = batch_size
        self._template_kwargs = dict(chat_template_kwargs or {})

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        label: Sequence[Any] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """The reward of each completion; None where none could be had.

        Args:
            prompts: texts, or lists of messages.
            completions: not used: TRL decodes them without their end-of-sequence token.
            completion_ids: what the policy wrote, up to its end-of-sequence token if it wrote one.
            label: the dataset's column of that name.
            log_metric: takes the mean of each number that comes with the rewards.
        Raises:
            RewardError: the request is wrong, so that another try will not help; or no completion
                at all has a reward.
            ValueError: there are no completion ids or labels.
        """
        if completion_ids is None:
            raise ValueError("no completion_ids: this TRL does not give them to reward functions")
        if label is None:
            raise ValueError("the dataset has no column 'label', which rewards are computed from")
        # Here and not in the threads, as tokenizers are not safe to share.
        rollouts = [
            (*self._texts(prompt, ids), truth)
            for prompt, ids, truth in zip(prompts, completion_ids, label, strict=True)
        ]
        size = self._batch_size
        chunks = [rollouts[start : start + size] for start in range(0, len(rollouts), size)]
        with ThreadPoolExecutor(min(len(chunks), _MAX_THREADS) or 1) as threads:
            got = list(threads.map(self._ask, chunks))
        errors = [answer for answer in got if isinstance(answer, RewardError)]
        if errors and len(errors) == len(got):
            raise errors[0]
        answers = [
            one
            for chunk, answer in zip(chunks, got, strict=True)
            for one in ([None] * len(chunk) if isinstance(answer, RewardError) else answer)
        ]
        if log_metric is not None:
            _log_means(answers, log_metric)
        return [None if answer is None else self._value(answer) for answer in answers]

    def _texts(self, prompt: Any, completion_ids: Sequence[int]) -> tuple[str, str]:
        """Query and prompt, as OpenRLHF sends them: the query is decoded from the ids.

        Source: TRL 1.16.0, GRPOTrainer._tokenize_prompts, for what the policy was given.
        """
        if isinstance(prompt, str):
            text, ids = prompt, self._tokenizer(text=prompt)["input_ids"]
        else:
            text = self._tokenizer.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True, **self._template_kwargs
            )
            ids = self._tokenizer(text=text, add_special_tokens=False)["input_ids"]
        query = self._tokenizer.decode([*ids, *completion_ids], skip_special_tokens=False)
        return query, text

    def _ask(self, chunk: Sequence[_Rollout]) -> list[_Answer] | RewardError:
        queries, prompts, labels = zip(*chunk, strict=True)
        try:
            return self._client.ask(queries, prompts, labels)
        except RewardError as error:
            if not error.may_pass:
                raise
            _log.warning("%d completions have no reward: %s", len(chunk), error)
            return error

    def _value(self, answer: _Answer) -> float:
        try:
            return answer[self._field]
        except KeyError:
            raise ValueError(
                f"field={self._field!r}: the server gives {', '.join(answer)}"
            ) from None


def _log_means(answers: Sequence[_Answer | None], log_metric: Callable[[str, float], None]) -> None:
    scored = [answer for answer in answers if answer is not None]
    for name in scored[0] if scored else ():
        if name not in _NOT_LOGGED:
            log_metric(name, sum(answer[name] for answer in scored) / len(scored))
