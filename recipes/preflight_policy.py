"""The policy, as the preflight checks it: its code, prompts, and rollouts of known correctness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sar.errors import first_line, quote
from sar.tokenization import RolloutTokenizer

_QUESTION = "What is 17 + 25?"
# Terms of a reward file may need more of a label than the answer.
LABEL = json.dumps({"answer": "42", "grader": "math", "mode": "train", "target_tokens": 64})
# It has digits, LaTeX, accents and Greek because tokenizers differ on these.
_RESPONSE = (
    "First the units: 7 + 5 = 12. Then the tens: 10 + 20 = 30, so 30 + 12 = {answer}. "
    "As a naïve check, $\\frac{{1}}{{2}}\\cdot 84 = 42$ and 123456789 ≠ 42 × α.\n\n"
    "The answer is $\\boxed{{{answer}}}$."
)
RIGHT, WRONG = (_RESPONSE.format(answer=answer) for answer in (42, 41))


class CheckFailed(Exception):
    """A check failed; the message is one line for the user."""


@dataclass(frozen=True)
class Probe:
    """A rollout of known correctness, as OpenRLHF would send it."""

    query: str
    prompt: str
    num_response_tokens: int
    """Tokens of the response, counted with the policy's tokenizer."""


class Policy:
    """The model in training: its name, a right probe and a wrong one."""

    def __init__(self, name: str, tokenizer: Any, messages: Sequence[dict[str, str]]) -> None:
        """
        Args:
            messages: a prompt of the training data. The probes' question replaces its last turn.
        Raises:
            CheckFailed: the tokenizer has no chat template, or the template refuses these roles.
        """
        self.name = name
        if not tokenizer.chat_template:
            raise CheckFailed(f"{name}: its tokenizer has no chat template, and prompts need one")
        turns = [*messages[:-1], {"role": "user", "content": _QUESTION}]
        try:
            prompt = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template may raise anything
            roles = ", ".join(turn["role"] for turn in turns)
            raise CheckFailed(
                f"{name}: its chat template refuses a prompt of {roles}: {first_line(error)}"
            ) from error
        self.right = make_probe(tokenizer, prompt, RIGHT)
        self.wrong = make_probe(tokenizer, prompt, WRONG)
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, name: str, messages: Sequence[dict[str, str]]) -> Self:
        """Loads the tokenizer of a folder or hub id.

        Raises:
            CheckFailed: the tokenizer cannot be loaded or used.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except Exception as error:  # a broken folder may raise anything
            raise CheckFailed(
                f"cannot load the tokenizer of {name}: {first_line(error)}"
            ) from error
        return cls(name, tokenizer, messages)

    def check_system_prompt(self, system_prompt: str) -> None:
        """Checks that the data's prompts carry the system prompt that the policy scores with.

        Raises:
            CheckFailed: a prompt and the empty-question prompt differ in more than the question.
        """
        try:
            encoder = RolloutTokenizer(self._tokenizer, system_prompt=system_prompt)
        except Exception as error:  # a template may raise anything
            raise CheckFailed(
                f"{self.name}: cannot build the empty-question prompt with the system "
                f"prompt {quote(system_prompt, 60)}: {first_line(error)}"
            ) from error
        if encoder.has_other_frame(self.right.prompt):
            raise CheckFailed(
                f"{self.name}: the prompts do not carry the system prompt "
                f"{quote(system_prompt, 60)}; set SYSTEM_PROMPT to the data's"
            )


def check_code(name: str) -> None:
    """Checks that transformers' own code runs the model, not code from the model's folder.

    OpenRLHF loads models with `trust_remote_code=True`: an `auto_map` in a config then names files
    of the folder or hub id, whose code replaces transformers'.

    Args:
        name: a folder or hub id.
    Raises:
        CheckFailed: a config has an `auto_map`, transformers does not have such a model, or the
            config cannot be loaded.
    """
    import transformers
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(name)
        configs = {"config.json": config, "tokenizer_config.json": get_tokenizer_config(name)}
    except Exception as error:  # a broken folder may raise anything
        raise CheckFailed(f"cannot load the config of {name}: {first_line(error)}") from error
    if not config:
        raise CheckFailed(f"cannot load the config of {name}: it has no config.json")
    model_type = config.get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        raise CheckFailed(
            f"{name}: transformers {transformers.__version__} has no model of the type "
            f"{model_type!r}, and code from the model's folder is not run"
        )
    for file, values in configs.items():
        if values.get("auto_map"):
            raise CheckFailed(
                f"{name}: its {file} has auto_map, so OpenRLHF would run code from the model's "
                "folder, which may pack samples wrongly or fail to save; set PLAIN_COPY=1 to train "
                "from a copy without it"
            )


def make_probe(tokenizer: Any, prompt: str, response: str) -> Probe:
    """Source: OpenRLHF 0.11.2, openrlhf/utils/agent.py, SingleTurnAgentExecutor.execute."""
    prompt_ids = tokenizer(text=prompt, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer(text=response, add_special_tokens=False)["input_ids"]
    response_ids = [*response_ids, tokenizer.eos_token_id]
    query = tokenizer.decode([*prompt_ids, *response_ids], skip_special_tokens=False)
    return Probe(query, prompt, len(response_ids))
