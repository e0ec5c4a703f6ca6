"""Rewards for TRL's GRPOTrainer (1.16.0).

    from recipes.adapters.trl import RemoteReward

    reward = RemoteReward("http://127.0.0.1:5000/get_reward", tokenizer)
    GRPOTrainer(model, reward_funcs=reward, train_dataset=dataset, ...)

The dataset has the columns `prompt` (text, or messages) and `label` (the ground truth; see
docs/protocol.md). If a request fails in all its tries, its completions get None: TRL leaves them
out of the group's baseline and learns nothing from them. The training ends if no completion of a
step has a reward, or if a request is wrong (a wrong key, for example). With several reward
functions it also ends if one request fails: TRL adds up the others' rewards, so a None would count
as 0.

It refuses to train with tools, environments or a rollout_func: prompts then contain the tools, and
completions their results, so they are not what the policy was asked and wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

from recipes.adapters.client import RewardClient, RewardError

_MAX_THREADS = 32
_NOT_LOGGED = {"reward", "score"}  # TRL logs the reward; `correctness` equals the score

_log = logging.getLogger(__name__)

_Rollout = tuple[str, str, Any]
_Answer = dict[str, float]


class RemoteReward:
    """A reward function for TRL. It asks a reward server."""

    __name__ = "sar_reward"  # its name in TRL's log

    def __init__(
        self,
        url: str,
        tokenizer: Any,
        *,
        field: str = "reward",
        batch_size: int = 16,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **client_options: Any,
    ) -> None:
        """
        Args:
            tokenizer: the trainer's processing class.
            field: the field to return: "reward", or a part of it such as "sar" or "correctness".
            batch_size: rollouts in one request, at most, except that those of one prompt stay
                together. All requests of a step are sent at once.
            chat_template_kwargs: the same as the GRPOConfig's; the first step checks it.
            client_options: timeout_s, num_tries and wait_s of RewardClient.
        Raises:
            ValueError: the URL is not valid, or the batch size is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a request holds at least one rollout")
        self._client = RewardClient(url, **client_options)
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
        environments: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Returns the reward of each completion, None for a completion without one.

        Args:
            prompts: texts, or lists of messages.
            completions: searched for tools only, because TRL decodes them without the
                end-of-sequence token.
            completion_ids: token ids of the completions, with the end-of-sequence token if the
                policy wrote one.
            label: the dataset's column `label`.
            log_metric: takes the mean of each field that the server returns.
            environments: TRL gives them if it trains with environments.
        Raises:
            RewardError: the request is wrong, no completion has a reward, or one has none and the
                trainer has several reward functions.
            ValueError: there are no completion ids or labels, the trainer has tools, or its
                chat_template_kwargs are not these.
        """
        trainer = getattr(log_metric, "__self__", None)  # `log_metric` is its method
        _refuse_tools(completions, environments, trainer)
        self._check_template(trainer)
        if completion_ids is None:
            raise ValueError("no completion_ids: this TRL does not give them to reward functions")
        if label is None:
            raise ValueError("the dataset has no column 'label' to compute rewards from")
        # Tokenizers are not safe to share, so this is not done in the threads.
        rollouts = [
            (*self._decode(prompt, ids), truth)
            for prompt, ids, truth in zip(prompts, completion_ids, label, strict=True)
        ]
        chunks = _make_chunks(rollouts, self._batch_size)
        with ThreadPoolExecutor(min(len(chunks), _MAX_THREADS) or 1) as threads:
            results = list(threads.map(self._ask, chunks))
        errors = [result for result in results if isinstance(result, RewardError)]
        if errors and len(errors) == len(results):
            raise errors[0]
        if errors and len(getattr(trainer, "reward_funcs", ())) > 1:
            raise RewardError(
                f"{errors[0]}; with several reward_funcs TRL would count the missing reward as 0"
            )
        answers: list[_Answer | None] = []
        for chunk, result in zip(chunks, results, strict=True):
            answers += [None] * len(chunk) if isinstance(result, RewardError) else result
        if log_metric is not None:
            _log_means(answers, log_metric)
        return [None if answer is None else self._get_field(answer) for answer in answers]

    def _check_template(self, trainer: Any) -> None:
        """
        Raises:
            ValueError: the trainer renders prompts with other chat_template_kwargs.
        """
        theirs = getattr(trainer, "chat_template_kwargs", self._template_kwargs)
        if theirs != self._template_kwargs:
            raise ValueError(
                f"GRPOConfig(chat_template_kwargs={theirs!r}), and RemoteReward has "
                f"{self._template_kwargs!r}: the policy's prompts would not be those that the "
                "server scores; give both the same"
            )

    def _decode(self, prompt: Any, completion_ids: Sequence[int]) -> tuple[str, str]:
        """Returns query and prompt as OpenRLHF sends them: the query is decoded from the ids.

        Source: TRL 1.16.0, GRPOTrainer._tokenize_prompts, for how the policy's prompt is made.
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

    def _get_field(self, answer: _Answer) -> float:
        try:
            return answer[self._field]
        except KeyError:
            raise ValueError(
                f"field={self._field!r}: the server returns {', '.join(answer)}"
            ) from None


def _make_chunks(rollouts: Sequence[_Rollout], size: int) -> list[list[_Rollout]]:
    """The rollouts of each request. A server whose reward compares the rollouts of a prompt, which
    TRL gives one after the other, need not wait for another request."""
    chunks: list[list[_Rollout]] = []
    for _, siblings in groupby(rollouts, key=lambda rollout: rollout[1:]):
        group = list(siblings)
        if not chunks or len(chunks[-1]) + len(group) > size:
            chunks.append([])
        chunks[-1] += group
    return chunks


def _refuse_tools(completions: Sequence[Any], environments: Any, trainer: Any) -> None:
    """
    Raises:
        ValueError: the trainer has tools, environments or a rollout_func.
    Source: TRL 1.16.0, GRPOTrainer._calculate_rewards.
    """
    found = [] if environments is None else ["environment_factory"]
    found += [name for name in ("tools", "rollout_func") if getattr(trainer, name, None)]
    messages = [one for texts in completions if not isinstance(texts, str) for one in texts]
    if not found and any(message.get("role") == "tool" for message in messages):
        found.append("tools")
    if found:
        raise ValueError(
            f"GRPOTrainer({found[0]}=...): prompts and completions then contain what tools or "
            "environments say, and SAR is defined for what the policy was asked and wrote; train "
            "without"
        )


def _log_means(answers: Sequence[_Answer | None], log_metric: Callable[[str, float], None]) -> None:
    scored = [answer for answer in answers if answer is not None]
    for name in scored[0] if scored else ():
        if name not in _NOT_LOGGED:
            log_metric(name, sum(answer[name] for answer in scored) / len(scored))
