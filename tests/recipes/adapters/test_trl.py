"""Rewards for TRL: its own GRPOTrainer with a real server and with a failing one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.adapters.client import RewardError
from recipes.adapters.trl import RemoteReward
from sar.prompts import DEFAULT_SYSTEM_PROMPT

QUESTIONS = {
    "Tom has 3 apples and buys 4 more. How many apples does he have?": "7",
    "There are 6 stickers in a box and Ana has 3 boxes. How many stickers does she have?": "18",
}


def chat(question: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": question},
    ]


class Recorded(RemoteReward):
    """Records its arguments and results."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.calls: list[tuple[dict[str, Any], list[float | None]]] = []

    def __call__(self, **given: Any) -> list[float | None]:  # type: ignore[override]
        rewards = super().__call__(**given)
        self.calls.append((given, rewards))
        return rewards


Train = Callable[..., tuple[Recorded, list[dict[str, Any]]]]


@pytest.fixture
def train(tmp_path: Path, bundled_model_path: Path) -> Iterator[Train]:
    """Two GRPO steps of the bundled model: the reward function, and TRL's log."""
    import torch

    def run(
        url: str, *, plain: bool = False, trainer_options: Any = None, config: Any = None,
        other_rewards: Any = (), **options: Any,
    ) -> Any:  # fmt: skip
        import trl
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        tokenizer = AutoTokenizer.from_pretrained(bundled_model_path)
        if trainer_options:
            # TRL wants a template that renders tools, and knows this one.
            template = Path(trl.__file__).parent / "chat_templates/qwen3.jinja"
            tokenizer.chat_template = template.read_text()
        prompts: list[Any] = list(map(chat, QUESTIONS))
        if plain:
            prompts = [
                tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
                for one in prompts
            ]
        reward = Recorded(url, tokenizer, **options)
        trainer = GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(bundled_model_path),
            reward_funcs=[reward, *other_rewards],
            args=GRPOConfig(
                output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none",
                save_strategy="no", logging_steps=1, max_steps=2, seed=1, learning_rate=1e-5,
                per_device_train_batch_size=4, num_generations=2, max_completion_length=32,
                disable_tqdm=True, **(config or {}),
            ),
            train_dataset=Dataset.from_dict(
                {"prompt": prompts, "label": list(QUESTIONS.values())}
            ),
            processing_class=tokenizer,
            **(trainer_options or {}),
        )  # fmt: skip
        trainer.train()
        return reward, [log for log in trainer.state.log_history if "loss" in log]

    # Together with the server's threads, more would compete for few cores: ten times slower.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("plain", [False, True], ids=["messages", "text"])
def test_a_run_of_grpo_gets_the_servers_rewards(
    train: Train, server: Any, bundled_tokenizer: Any, plain: bool
) -> None:
    reward, logs = train(server.url + "/get_reward", plain=plain, batch_size=3)
    assert len(reward.calls) == len(logs) == 2
    for (given, rewards), log in zip(reward.calls, logs, strict=True):
        texts = list(given["prompts"])
        if not plain:
            texts = [
                bundled_tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True)
                for p in texts
            ]
        written = [bundled_tokenizer.decode(ids) for ids in given["completion_ids"]]
        queries = [text + more for text, more in zip(texts, written, strict=True)]
        body = {"query": queries, "prompts": texts, "labels": given["label"]}
        status, answer = server.request("/get_reward", body)
        assert status == 200
        assert rewards == pytest.approx(answer["rewards"], abs=1e-5)
        assert log["rewards/sar_reward/mean"] == pytest.approx(_mean(rewards), abs=1e-4)
        for name in ("sar", "correctness", "response_tokens", "template_mismatch"):
            mean = _mean(answer["extra_logs"][name])
            assert log[name] == pytest.approx(mean, abs=1e-4), name
        assert log["template_mismatch"] == log["policy_version"] == 0
        assert log["policy_age_s"] > 0


def test_a_run_goes_on_without_the_rewards_of_a_server_that_fails(
    train: Train, flaky: Any, caplog: pytest.LogCaptureFixture
) -> None:
    flaky.refused = {"18": 500}
    options = {"batch_size": 2, "num_tries": 2, "wait_s": 0.01}
    with caplog.at_level(logging.WARNING):
        reward, logs = train(flaky.url, **options)
    for given, rewards in reward.calls:
        assert [one is None for one in rewards] == [label == "18" for label in given["label"]]
    assert "2 completions have no reward: http://" in caplog.text
    for log, (_, rewards) in zip(logs, reward.calls, strict=True):
        scored = [one for one in rewards if one is not None]
        # It would be half of that if missing rewards counted as 0.
        assert log["reward"] == pytest.approx(_mean(scored), abs=1e-4)
        assert math.isfinite(log["loss"])


def give_one(completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)


def test_a_failure_beside_another_reward_function_ends_the_training(
    train: Train, flaky: Any
) -> None:
    """TRL would add the others' rewards to a 0 for each None."""
    flaky.refused = {"18": 500}
    options = {"batch_size": 2, "num_tries": 2, "wait_s": 0.01}
    with pytest.raises(RewardError, match=r"HTTP 500.*; with several reward_funcs") as error:
        train(flaky.url, other_rewards=[give_one], **options)
    assert "\n" not in str(error.value)


def test_another_reward_function_adds_its_own(train: Train, server: Any) -> None:
    reward, logs = train(server.url + "/get_reward", other_rewards=[give_one])
    for log, (_, rewards) in zip(logs, reward.calls, strict=True):
        assert log["reward"] == pytest.approx(1 + _mean(rewards), abs=1e-4)


def test_template_arguments_are_the_trainers(train: Train, server: Any, flaky: Any) -> None:
    config = {"chat_template_kwargs": {"enable_thinking": False}}
    words = r"chat_template_kwargs=\{'enable_thinking': False\}\), and RemoteReward has \{\}"
    with pytest.raises(ValueError, match=words) as error:
        train(flaky.url, config=config)
    assert "\n" not in str(error.value)
    assert flaky.num_rollouts == []
    with pytest.raises(ValueError, match=r"chat_template_kwargs=\{\}"):
        train(flaky.url, **config)
    assert train(server.url + "/get_reward", config=config, **config)[1]


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: One of them.
        b: The other.
    """
    return a + b


class Room:
    """An environment of TRL's: its methods are tools."""

    def reset(self, **_: Any) -> None:
        pass

    def look(self) -> str:
        """Looks around."""
        return "a room"


def roll_out(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """A rollout_func whose last token is not the policy's; no reward function sees `env_mask`."""
    num = len(prompts)
    return {
        "prompt_ids": [[1, 2]] * num,
        "completion_ids": [[3, 4]] * num,
        "logprobs": [[[-1.0], [-1.0]]] * num,
        "env_mask": [[1, 0]] * num,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("tools", [add]), ("environment_factory", Room), ("rollout_func", roll_out)],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_trainer_with_tools_stops_at_its_first_step(
    train: Train, flaky: Any, name: str, value: Any
) -> None:
    """Even if no tool was called: prompts name the tools, which a reward function cannot see."""
    with pytest.raises(ValueError, match=rf"GRPOTrainer\({name}=\.\.\.\)") as error:
        train(flaky.url, trainer_options={name: value})
    assert "\n" not in str(error.value)
    assert flaky.num_rollouts == []


def test_what_a_tool_said_is_no_completion(server: Any, bundled_tokenizer: Any) -> None:
    """The completions say so, whatever else a trainer passes."""
    reward = RemoteReward(server.url + "/get_reward", bundled_tokenizer)
    called = {"role": "assistant", "content": "", "tool_calls": []}
    completion = [called, {"role": "tool", "name": "add", "content": "7"}, {"role": "assistant"}]
    with pytest.raises(ValueError, match=r"GRPOTrainer\(tools=\.\.\.\)"):
        reward(
            prompts=[chat("Q")] * 2,
            completions=[[called], completion],
            completion_ids=[[1], [1, 2]],
            label=["7", "7"],
        )


@pytest.mark.parametrize("fault", [400, 401, 403, 413])
def test_a_request_that_is_refused_ends_the_training(
    call: Callable[..., Any], flaky: Any, fault: int
) -> None:
    flaky.refused = {"9": fault}
    with pytest.raises(RewardError, match=f"HTTP {fault}|requires a key"):
        call(flaky.url, ["7", "9", "8"], batch_size=1)


@pytest.fixture
def call(bundled_tokenizer: Any) -> Callable[..., list[float | None]]:
    """Calls a reward function as TRL does, with a completion per label."""

    def call(
        url: str, labels: list[Any], text: str = "3 + 4 = 7. Answer: 7", **options: Any
    ) -> Any:
        log_metric = options.pop("log_metric", None)
        ids = [*bundled_tokenizer.encode(text), bundled_tokenizer.eos_token_id]
        prompt = chat(next(iter(QUESTIONS)))
        options = {"wait_s": 0.01, "num_tries": 2, **options}
        return RemoteReward(url, bundled_tokenizer, **options)(
            prompts=[prompt] * len(labels),
            completions=[[{"role": "assistant", "content": text}]] * len(labels),
            completion_ids=[ids] * len(labels),
            label=labels,
            trainer_state=None,
            log_extra=None,
            log_metric=log_metric,
        )

    return call


@pytest.mark.parametrize("fault", [0, 500, 503])
def test_only_the_chunks_that_fail_have_no_reward(
    call: Callable[..., Any], flaky: Any, fault: int
) -> None:
    flaky.refused = {"9": fault}
    logged: dict[str, float] = {}
    rewards = call(
        flaky.url, ["7", "7", "8", "9", "8"], batch_size=2, log_metric=logged.__setitem__
    )
    assert rewards[2:4] == [None, None]
    assert rewards[0] == rewards[1] > 0.8
    assert rewards[4] == pytest.approx(rewards[0] - 1)
    assert sorted(flaky.num_rollouts) == [1, 2, 2, 2]  # one of them twice
    assert logged["correctness"] == pytest.approx(2 / 3)


def test_a_step_without_any_reward_ends_the_training(call: Callable[..., Any], flaky: Any) -> None:
    """Otherwise a run would continue without rewards while the server is down."""
    flaky.refused = {"7": 500}
    logged: dict[str, float] = {}
    with pytest.raises(RewardError, match="HTTP 500"):
        call(flaky.url, ["7", "7", "7"], batch_size=2, log_metric=logged.__setitem__)
    assert logged == {}


def test_nothing_to_reward_is_nothing(call: Callable[..., Any], server: Any) -> None:
    logged: dict[str, float] = {}
    assert call(server.url + "/get_reward", [], log_metric=logged.__setitem__) == []
    assert logged == {}


def test_the_end_of_sequence_counts_where_the_policy_wrote_it(
    server: Any, bundled_tokenizer: Any
) -> None:
    ids = bundled_tokenizer.encode("3 + 4 = 7. Answer: 7")
    reward = RemoteReward(server.url + "/get_reward", bundled_tokenizer, field="response_tokens")
    got = reward(
        prompts=[chat("What is 3 + 4?")] * 2,
        completions=["", ""],
        completion_ids=[ids, [*ids, bundled_tokenizer.eos_token_id]],
        label=["7", {"answer": "7", "grader": None, "mode": "eval", "choices": None}],
    )
    assert got == [len(ids), len(ids) + 1]


def test_fields(call: Callable[..., Any], server: Any) -> None:
    url = server.url + "/get_reward"
    (reward,), (sar,), (correctness,) = (
        call(url, ["8"], field=field) for field in ("reward", "sar", "correctness")
    )
    assert correctness == 0
    assert reward == pytest.approx(0.2 * sar)
    assert sar != 0
    with pytest.raises(ValueError, match="field='score_of_all': the server returns reward, score"):
        call(url, ["8"], field="score_of_all")


def test_a_mistake_ends_the_training(call: Callable[..., Any], server: Any) -> None:
    with pytest.raises(RewardError, match=r"HTTP 400: labels\[0\]"):
        call(server.url + "/get_reward", ["7", 7], batch_size=1)


def test_what_is_missing_is_named(server: Any, bundled_tokenizer: Any) -> None:
    reward = RemoteReward(server.url + "/get_reward", bundled_tokenizer)
    with pytest.raises(ValueError, match="no column 'label'"):
        reward(prompts=["Q"], completions=["A"], completion_ids=[[1]])
    with pytest.raises(ValueError, match="no completion_ids"):
        reward(prompts=["Q"], completions=["A"], label=["7"])
    with pytest.raises(ValueError, match="batch_size=0"):
        RemoteReward(server.url + "/get_reward", bundled_tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="is not a URL"):
        RemoteReward("host", bundled_tokenizer)


def test_a_text_prompt_is_as_the_policy_saw_it(bundled_tokenizer: Any) -> None:
    """TRL keeps the BOS that a tokenizer adds to a text prompt. Templates write their own."""

    class AddsBos:
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            bos = [bundled_tokenizer.pad_token_id] if add_special_tokens else []
            return {"input_ids": [*bos, *bundled_tokenizer.encode(text)]}

        def __getattr__(self, name: str) -> Any:
            return getattr(bundled_tokenizer, name)

    reward = RemoteReward("http://h/get_reward", AddsBos())
    ids = bundled_tokenizer.encode("A: 5")
    assert reward._decode("Q: ", ids) == ("<|endoftext|>Q: A: 5", "Q: ")
    query, prompt = reward._decode(chat("Q"), ids)
    assert query == prompt + "A: 5"


def _mean(values: list[Any]) -> float:
    return float(sum(values) / len(values))
