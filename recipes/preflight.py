"""python -m recipes.preflight --url URL [--url URL ...] --model MODEL [--data data/train.jsonl]

Checks reward servers before a run. It sends each server a right and a wrong rollout, as OpenRLHF
would. It compares the server's model, tokenizer and prompts with the policy's, and its SAR weight
with --sar-weight, and checks the label of every row. It refuses a policy that would run code from
its own folder (auto_map).
If all is well it prints a line for each server and exits with 0, else one line and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any, Self

from recipes.adapters.client import RewardClient, RewardError
from recipes.data_rows import check_rows
from recipes.launch.plain_copy import read_source
from recipes.launch.settings import LaunchError
from sar.errors import first_line, quote
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.tokenization import RolloutTokenizer

_TOLERANCE = 1e-4

_DEFAULT_PROMPT = [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, {"role": "user"}]
_QUESTION = "What is 17 + 25?"
_LABEL = json.dumps({"answer": "42", "grader": "math", "mode": "train"})
# It has digits, LaTeX, accents and Greek because tokenizers differ on these.
_RESPONSE = (
    "First the units: 7 + 5 = 12. Then the tens: 10 + 20 = 30, so 30 + 12 = {answer}. "
    "As a naïve check, $\\frac{{1}}{{2}}\\cdot 84 = 42$ and 123456789 ≠ 42 × α.\n\n"
    "The answer is $\\boxed{{{answer}}}$."
)
_RIGHT, _WRONG = (_RESPONSE.format(answer=answer) for answer in (42, 41))


class CheckFailed(Exception):
    """A check failed; the message is one line for the user."""


@dataclass(frozen=True)
class Probe:
    """A rollout of known correctness, as OpenRLHF would send it."""

    query: str
    prompt: str
    num_response_tokens: int
    """Tokens of the response, counted with the policy's tokenizer."""


@dataclass(frozen=True)
class ServerInfo:
    """What a server reports about itself at /healthz."""

    model: str
    sar_weight: float
    policy_version: int


class Server:
    """One reward server; `info` asks it once."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            CheckFailed: the URL is not valid.
        """
        try:
            self.client = RewardClient(url, num_tries=1)
        except ValueError as error:
            raise CheckFailed(str(error)) from None
        self.name = self.client.name

    @cached_property
    def info(self) -> ServerInfo:
        """What the server reports. Fetched at the first use.

        Raises:
            CheckFailed: the server cannot be reached, is not ready, or is no reward server.
        """
        status, body = self._get("/readyz")
        state = body.get("status")
        if status != HTTPStatus.OK or state != "ready":
            shown = state or f"HTTP {status}"
            raise CheckFailed(f"{self.name}: not ready ({shown}); wait until /readyz answers 200")
        _, health = self._get("/healthz")
        try:
            return ServerInfo(
                str(health["model"]), float(health["sar_weight"]), int(health["policy_version"])
            )
        except KeyError as error:
            raise CheckFailed(f"{self.name}: /healthz has no {error}: another version?") from None

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            status, answer = self.client.request(path)
        except RewardError as error:
            raise CheckFailed(f"{error}; is the server up?") from None
        if not isinstance(answer, dict):
            raise CheckFailed(
                f"{self.name}: {path} answers HTTP {status} without JSON: another server?"
            )
        return status, answer


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
        self.right = _make_probe(tokenizer, prompt, _RIGHT)
        self.wrong = _make_probe(tokenizer, prompt, _WRONG)
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


def _make_probe(tokenizer: Any, prompt: str, response: str) -> Probe:
    """Source: OpenRLHF 0.11.2, openrlhf/utils/agent.py, SingleTurnAgentExecutor.execute."""
    prompt_ids = tokenizer(text=prompt, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer(text=response, add_special_tokens=False)["input_ids"]
    response_ids = [*response_ids, tokenizer.eos_token_id]
    query = tokenizer.decode([*prompt_ids, *response_ids], skip_special_tokens=False)
    return Probe(query, prompt, len(response_ids))


def check_settings(
    server: Server, sar_weight: float | None, policy: str, model: str | None, step: int | None
) -> None:
    """Compares what a server reports about itself with what the run needs.

    Args:
        sar_weight: the weight that the server must have; None for any.
        policy: the policy's folder or hub id.
        model: the model that the server must report; None for any.
        step: the last step whose weights the server may have; None for any.
    Raises:
        CheckFailed: the server differs, or is not ready.
    """
    info = server.info
    if sar_weight is not None and not math.isclose(info.sar_weight, sar_weight, abs_tol=1e-9):
        raise CheckFailed(
            f"{server.name}: its SAR weight is {info.sar_weight:g}, not {sar_weight:g}; start it "
            f"with --sar-weight {sar_weight:g}"
        )
    if model is not None and _base_name(info.model) != _base_name(model):
        raise CheckFailed(
            f"{server.name}: it serves {info.model}, not {model}; start it with "
            f"--model {policy}, or name the model it may serve: --server-model {info.model}"
        )
    if step is not None and info.policy_version > step:
        raise CheckFailed(
            f"{server.name}: it scores with weights of step {info.policy_version}, and the run "
            f"starts from step {step}; restart it, with --follow at this run's checkpoints if any"
        )


def check_rewards(server: Server, policy: Policy, *, on_policy: bool) -> None:
    """Asks for the rewards of the right and of the wrong probe.

    Args:
        on_policy: the policy scores its own responses, so only the server's correctness matters.
    Raises:
        CheckFailed: a reward differs from what it must be.
        RewardError: the server gave no reward.
    """
    for probe, score in ((policy.right, 1), (policy.wrong, 0)):
        (answer,) = server.client.ask([probe.query], [probe.prompt], [_LABEL])
        if answer["score"] != score:
            kind = "right" if score else "wrong"
            raise CheckFailed(f"{server.name}: a {kind} answer has the score {answer['score']:g}")
        if on_policy:
            continue
        if answer["template_mismatch"]:
            raise CheckFailed(
                f"{server.name}: the prompts have another system prompt or chat template than the "
                "server's; start it with the data's as --system-prompt, and the policy's --model"
            )
        if answer["response_tokens"] != probe.num_response_tokens:
            raise CheckFailed(
                f"{server.name}: {probe.num_response_tokens} tokens of {policy.name} are "
                f"{answer['response_tokens']:g} there: it has another tokenizer"
            )
        weight = server.info.sar_weight
        expected = score + weight * answer["sar"]
        if not math.isclose(answer["reward"], expected, abs_tol=_TOLERANCE):
            raise CheckFailed(
                f"{server.name}: the reward is {answer['reward']:g}, and correctness + "
                f"{weight:g} x SAR is {expected:g}"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 if all servers fit the policy, else 1."""
    arguments = _make_parser().parse_args(argv)
    try:
        servers = _check_all(arguments)
        source = read_source(arguments.model)
    except (CheckFailed, RewardError, LaunchError) as error:
        sys.stderr.write(f"preflight: {error}\n")
        return 1
    if source:
        print(
            f"preflight: trains from {arguments.model}, a copy of {source} without auto_map: "
            "OpenRLHF would run the code that it names, in place of transformers'"
        )
    for server in servers:
        print(
            f"preflight: {server.name}: rewards as expected; {server.info.model}, SAR weight "
            f"{server.info.sar_weight:g}, policy version {server.info.policy_version}"
        )
    return 0


def _check_all(arguments: argparse.Namespace) -> list[Server]:
    """Checks every server, and returns them.

    Raises:
        CheckFailed, RewardError, LaunchError: of the first check that failed.
    """
    model = None if arguments.on_policy else arguments.server_model or arguments.model
    servers = [Server(url) for url in arguments.url]
    messages = _DEFAULT_PROMPT if arguments.data is None else check_rows(arguments.data)
    if arguments.eval_data is not None:
        check_rows(arguments.eval_data, are_evaluated=True)
    for server in servers:
        check_settings(server, arguments.sar_weight, arguments.model, model, arguments.step)
    if not arguments.on_policy:
        _compare(servers)
    check_code(arguments.model)
    policy = Policy.load(arguments.model, messages)
    if arguments.on_policy:
        policy.check_system_prompt(os.environ.get("SYSTEM_PROMPT", DEFAULT_SYSTEM_PROMPT))
    for server in servers:
        check_rewards(server, policy, on_policy=arguments.on_policy)
    return servers


def _compare(servers: Sequence[Server]) -> None:
    """
    Raises:
        CheckFailed: two servers give different rewards for the same rollout.
    """
    first, *others = servers
    for server in others:
        if server.info.sar_weight != first.info.sar_weight:
            raise CheckFailed(
                f"{first.name} has a SAR weight of {first.info.sar_weight:g}, and {server.name} "
                f"one of {server.info.sar_weight:g}"
            )
        if server.info.policy_version != first.info.policy_version:
            raise CheckFailed(
                f"{first.name} scores with weights of step {first.info.policy_version}, and "
                f"{server.name} with those of step {server.info.policy_version}; wait until both "
                "have loaded the same, or restart them with the same --model and --follow"
            )


def _base_name(model: str) -> str:
    """`qwen3-1.7b-base` for the hub id and for a folder of that name."""
    return PurePosixPath(model).name.casefold()


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.preflight",
        description="Checks reward servers against the policy before a run.",
    )
    parser.add_argument(
        "--url",
        action="append",
        required=True,
        help="http://host:5000/get_reward; repeat for several",
    )
    parser.add_argument("--model", required=True, help="the policy's folder or hub id")
    parser.add_argument(
        "--data",
        help="train.jsonl, whose labels are checked, and whose system prompt is used (default: "
        "prepare_data.py's prompt)",
    )
    parser.add_argument(
        "--eval-data", help='eval.jsonl, whose labels are checked to be valid, with "mode": "eval"'
    )
    parser.add_argument(
        "--step",
        type=int,
        help="the step that the run starts from; no server may be at a later one",
    )
    parser.add_argument("--sar-weight", type=float, help="SAR weight that all servers must have")
    parser.add_argument(
        "--server-model", help="model that all servers must report (default: --model)"
    )
    parser.add_argument(
        "--on-policy",
        action="store_true",
        help="openrlhf_agent.py computes SAR, so accept servers with any model and SAR weight",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
