"""A custom reward function for verl (commit 1dda039, 0.10.0.dev).

    reward.custom_reward_function.path=CHECKOUT/recipes/adapters/verl.py
    +reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:5000/get_reward

The checkout must be in the workers' PYTHONPATH. verl does not pass the prompt to a reward function,
so the data must have the prompt's text in extra_info.prompt. Data preparation makes it from the
messages in the column `prompt`:

    row["extra_info"]["prompt"] = tokenizer.apply_chat_template(
        row["prompt"], tokenize=False, add_generation_prompt=True
    )

The label is reward_model.ground_truth: text, or JSON as text (docs/protocol.md). A failed request
raises an error, which ends the training.

Departure from the paper: perplexities leave out the end-of-sequence token, because verl decodes
responses without special tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from recipes.adapters.client import RewardClient

_client = lru_cache(RewardClient)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    url: str = "",
    num_tries: int = 5,
    **_: Any,
) -> dict[str, float]:
    """Asks for the reward of one response.

    Args:
        data_source: verl's name of the data set, shown in errors. The label says how to grade.
        solution_str: the response.
        ground_truth: the label.
        extra_info: the row's `extra_info`, with `prompt`.
        url: the reward server's, from reward_kwargs.
        num_tries: how often to send the request, from reward_kwargs.
    Returns:
        `score`: the reward, which verl trains on. `acc`: correctness, the main metric of verl's
        validation. The server's other fields are logged.
    Raises:
        RewardError: the server gave no reward.
        ValueError: the prompt or the URL is missing.
    Source: verl at 1dda039, verl/experimental/reward_loop/reward_manager/naive.py, run_single.
    """
    if not url:
        raise ValueError("no url: set reward.custom_reward_function.reward_kwargs.url")
    prompt = (extra_info or {}).get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(
            f"extra_info['prompt'] of a row of {data_source!r} is {type(prompt).__name__}, not the "
            "prompt's text; recipes/adapters/verl.py says how to prepare the data"
        )
    (answer,) = _client(url, num_tries=num_tries).ask(
        [prompt + solution_str], [prompt], [ground_truth]
    )
    reward, correctness = answer.pop("reward"), answer.pop("score")
    # No "reward": verl's validation adds that column itself, and fails on a second one.
    return {"score": reward, "acc": correctness, **answer}
