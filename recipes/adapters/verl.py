"""A custom reward function for verl (read at 1dda039, 0.10.0.dev).

    reward.custom_reward_function.path=CHECKOUT/recipes/adapters/verl.py
    +reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:5000/get_reward

The checkout has to be in the workers' PYTHONPATH. verl does not give a reward function the prompt:
the data must have it, as the policy sees it, in extra_info.prompt, which data preparation makes of
the messages in the column `prompt`:

    row["extra_info"]["prompt"] = tokenizer.apply_chat_template(
        row["prompt"], tokenize=False, add_generation_prompt=True
    )

The label is reward_model.ground_truth: text, or JSON as text (docs/protocol.md). Departure from the
paper: verl decodes responses without special tokens, so that perplexities are without the
end-of-sequence token. A reward that cannot be had raises, which ends the training.
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
    """Reward and what it is made of, in verl's form: `score` is trained on, the rest is logged.

    Args:
        data_source: verl's; the label says how to grade.
        solution_str: the response.
        ground_truth: the label.
        extra_info: of the data's row, with `prompt`.
        url: from reward_kwargs, as num_tries.
    Returns:
        verl's validation takes `acc`, the correctness, as its main metric.
    Raises:
        RewardError: there is no reward.
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
    (got,) = _client(url, num_tries=num_tries).ask(
        [prompt + solution_str], [prompt], [ground_truth]
    )
    reward, correctness = got.pop("reward"), got.pop("score")
    # No "reward": verl's validation adds that column itself, and a second one breaks it.
    return {"score": reward, "acc": correctness, **got}
