"""python -m recipes.preflight --url URL [--url URL ...] --model MODEL [--data data/train.jsonl]

Asks each reward server for two rewards that are known, as OpenRLHF's client would, and compares
the server with the policy. A line per server and exit code 0; or one line that says what is wrong,
and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any, Self

from recipes.endpoint import Endpoint, Unreachable, why
from sar.errors import first_line
from sar.grading.label import LabelError, parse_label
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.tokenization import RolloutTokenizer

_TIMEOUT_S = 180.0  # OpenRLHF's client waits as long
_TOLERANCE = 1e-4
_TURN = ("role", "content")

_DEFAULT_PROMPT = [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, {"role": "user"}]
_QUESTION = "What is 17 + 25?"
_LABEL = json.dumps({"answer": "42", "grader": "math", "mode": "train"})
# Digits, LaTeX, accents and Greek, as tokenizers differ in these.
_RESPONSE = (
    "First the units: 7 + 5 = 12. Then the tens: 10 + 20 = 30, so 30 + 12 = {answer}. "
    "As a naïve check, $\\frac{{1}}{{2}}\\cdot 84 = 42$ and 123456789 ≠ 42 × α.\n\n"
    "The answer is $\\boxed{{{answer}}}$."
)
_RIGHT, _WRONG = (_RESPONSE.format(answer=answer) for answer in (42, 41))


class Problem(Exception):
    """Something is wrong; the message is the line to show."""


@dataclass(frozen=True)
class Rollout:
    """What OpenRLHF would send, and the number of response tokens that the policy wrote."""

    query: str
    prompt: str
    num_response_tokens: int


@dataclass(frozen=True)
class Served:
    """What a server says of itself."""

    model: str
    sar_weight: float
    policy_version: int


class Server:
    """One reward server, reached as OpenRLHF's client reaches it."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            Problem: the URL cannot be one.
        """
        try:
            self._endpoint = Endpoint(url)
        except ValueError as error:
            raise Problem(str(error)) from None
        self.name = self._endpoint.name

    def served(self) -> Served:
        """
        Raises:
            Problem: it is not there, not ready, or no reward server.
        """
        status, body = self._answer("/readyz")
        state = body.get("status")
        if status != HTTPStatus.OK or state != "ready":
            told = state or f"HTTP {status}"
            raise Problem(f"{self.name}: not ready ({told}); wait until /readyz answers 200")
        _, health = self._answer("/healthz")
        try:
            return Served(
                str(health["model"]), float(health["sar_weight"]), int(health["policy_version"])
            )
        except KeyError as error:
            raise Problem(f"{self.name}: /healthz has no {error}: another version?") from None

    def reward(self, rollout: Rollout) -> dict[str, float]:
        """Reward, score and extra_logs of one rollout, sent as OpenRLHF sends it.

        Raises:
            Problem: there is no reward.
        """
        body = {"query": [rollout.query], "prompts": [rollout.prompt], "labels": [_LABEL]}
        status, answer = self._answer("/get_reward", body)
        if status != HTTPStatus.OK:
            raise Problem(why(self.name, status, answer))
        try:
            logs = {name: float(values[0]) for name, values in answer["extra_logs"].items()}
            return {"reward": answer["rewards"][0], "score": answer["scores"][0], **logs}
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Problem(f"{self.name}: its answer is not that of a reward server") from None

    def _answer(self, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        try:
            status, text = self._endpoint.request(path, body, _TIMEOUT_S)
        except Unreachable as error:
            raise Problem(f"{self.name}: cannot be reached: {error}; is the server up?") from None
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Problem(
                f"{self.name}: {path} answers HTTP {status} without JSON: another server?"
            )
        return status, answer


class Policy:
    """The model in training: its name, and its rollouts of known correctness."""

    def __init__(self, name: str, tokenizer: Any, messages: Sequence[dict[str, str]]) -> None:
        """
        Args:
            messages: a prompt as in the training data; the last turn is replaced by a question.
        Raises:
            Problem: the tokenizer has no chat template, or it refuses these roles.
        """
        self.name = name
        if not tokenizer.chat_template:
            raise Problem(f"{name}: its tokenizer has no chat template, and prompts need one")
        turns = [*messages[:-1], {"role": "user", "content": _QUESTION}]
        try:
            prompt = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise what they like
            roles = ", ".join(turn["role"] for turn in turns)
            raise Problem(
                f"{name}: its chat template refuses a prompt of {roles}: {first_line(error)}"
            ) from error
        self.right, self.wrong = (self._rollout(tokenizer, prompt, r) for r in (_RIGHT, _WRONG))
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, name: str, messages: Sequence[dict[str, str]]) -> Self:
        """
        Args:
            name: folder or hub id.
        Raises:
            Problem: the tokenizer cannot be used.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except Exception as error:  # a broken folder raises all sorts of things
            raise Problem(f"cannot load the tokenizer of {name}: {first_line(error)}") from error
        return cls(name, tokenizer, messages)

    def check_own_frame(self, system_prompt: str) -> None:
        """For a policy that scores itself: its prompts against its own empty-question prompt.

        Raises:
            Problem: they differ in more than the question.
        """
        try:
            encoder = RolloutTokenizer(self._tokenizer, system_prompt=system_prompt)
        except Exception as error:  # templates raise what they like
            raise Problem(
                f"{self.name}: no empty-question prompt with the system prompt "
                f"{system_prompt[:60]!r}: {first_line(error)}"
            ) from error
        if encoder.has_other_frame(self.right.prompt):
            raise Problem(
                f"{self.name}: the prompts do not carry the system prompt {system_prompt[:60]!r}; "
                "set SYSTEM_PROMPT to the data's"
            )

    @staticmethod
    def _rollout(tokenizer: Any, prompt: str, response: str) -> Rollout:
        """Source: OpenRLHF 0.11.2, openrlhf/utils/agent.py, SingleTurnAgentExecutor.execute."""
        prompt_ids = tokenizer(text=prompt, add_special_tokens=False)["input_ids"]
        response_ids = tokenizer(text=response, add_special_tokens=False)["input_ids"]
        response_ids = [*response_ids, tokenizer.eos_token_id]
        query = tokenizer.decode([*prompt_ids, *response_ids], skip_special_tokens=False)
        return Rollout(query, prompt, len(response_ids))


def check_settings(
    server: Server, sar_weight: float | None, policy: str, model: str | None
) -> Served:
    """Compares what a server says of itself with what it must be.

    Args:
        sar_weight: the weight that it must have; None for any.
        policy: the policy's model.
        model: the model that it must name; None for any.
    Raises:
        Problem: it is something else, or not ready.
    """
    served = server.served()
    if sar_weight is not None and not math.isclose(served.sar_weight, sar_weight, abs_tol=1e-9):
        raise Problem(
            f"{server.name}: its SAR weight is {served.sar_weight:g}, not {sar_weight:g}; start it "
            f"with --sar-weight {sar_weight:g}"
        )
    if model is not None and _base_name(served.model) != _base_name(model):
        raise Problem(
            f"{server.name}: it serves {served.model}, not {model}; start it with "
            f"--model {policy}, or name the model it may serve: --server-model {served.model}"
        )
    return served


def check_rewards(server: Server, served: Served, policy: Policy, *, on_policy: bool) -> None:
    """Asks for the rewards of a right and of a wrong rollout.

    Args:
        on_policy: the policy scores itself, and the server's likelihoods are not used.
    Raises:
        Problem: they are not what they must be.
    """
    for rollout, score in ((policy.right, 1), (policy.wrong, 0)):
        got = server.reward(rollout)
        if got["score"] != score:
            kind = "right" if score else "wrong"
            raise Problem(f"{server.name}: a {kind} answer has the score {got['score']:g}")
        if on_policy:
            continue
        if got["template_mismatch"]:
            raise Problem(
                f"{server.name}: the prompts have another system prompt or chat template than the "
                "server's; start it with the data's as --system-prompt, and the policy's --model"
            )
        if got["response_tokens"] != rollout.num_response_tokens:
            raise Problem(
                f"{server.name}: {rollout.num_response_tokens} tokens of {policy.name} are "
                f"{got['response_tokens']:g} there: it has another tokenizer"
            )
        expected = score + served.sar_weight * got["sar"]
        if not math.isclose(got["reward"], expected, abs_tol=_TOLERANCE):
            raise Problem(
                f"{server.name}: the reward is {got['reward']:g}, and correctness + "
                f"{served.sar_weight:g} x SAR is {expected:g}"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 where all servers fit the policy, else 1."""
    arguments = _parser().parse_args(argv)
    model = None if arguments.on_policy else arguments.server_model or arguments.model
    try:
        servers = [Server(url) for url in arguments.url]
        messages = _DEFAULT_PROMPT if arguments.data is None else _first_prompt(arguments.data)
        checked = [
            (server, check_settings(server, arguments.sar_weight, arguments.model, model))
            for server in servers
        ]
        (first, served), *others = checked
        for server, other in others:
            if other.sar_weight != served.sar_weight and not arguments.on_policy:
                raise Problem(
                    f"{first.name} has a SAR weight of {served.sar_weight:g}, and {server.name} "
                    f"one of {other.sar_weight:g}"
                )
        policy = Policy.load(arguments.model, messages)
        if arguments.on_policy:
            policy.check_own_frame(os.environ.get("SYSTEM_PROMPT", DEFAULT_SYSTEM_PROMPT))
        for server, served in checked:
            check_rewards(server, served, policy, on_policy=arguments.on_policy)
    except Problem as problem:
        sys.stderr.write(f"preflight: {problem}\n")
        return 1
    for server, served in checked:
        print(
            f"preflight: {server.name}: rewards as expected; {served.model}, SAR weight "
            f"{served.sar_weight:g}, policy version {served.policy_version}"
        )
    return 0


def _first_prompt(path: str) -> list[dict[str, str]]:
    """The messages of a training file's first row.

    Raises:
        Problem: it has none, or its label cannot be graded against.
    """
    try:
        with open(path, encoding="utf-8") as file:
            row = json.loads(file.readline())
        messages = row["prompt"]
        if not messages or not all(isinstance(m[key], str) for m in messages for key in _TURN):
            raise TypeError
        parse_label(row["label"])
    except OSError as error:
        raise Problem(f"{path}: cannot be read: {error.strerror}") from error
    except LabelError as error:
        raise Problem(f"{path}, line 1: {error}") from error
    except (ValueError, KeyError, TypeError):
        raise Problem(
            f"{path}, line 1: not a row of prepare_data.py, with prompt (messages) and label"
        ) from None
    return list(messages)


def _base_name(model: str) -> str:
    """`Qwen3-1.7B-Base` for the hub id as for a folder of that name."""
    return PurePosixPath(model).name.casefold()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.preflight",
        description="Checks reward servers against the policy before a run.",
    )
    parser.add_argument(
        "--url", action="append", required=True, help="http://host:5000/get_reward; may be repeated"
    )
    parser.add_argument("--model", required=True, help="the policy's folder or hub id")
    parser.add_argument("--data", help="train.jsonl, for its system prompt (default: ours)")
    parser.add_argument("--sar-weight", type=float, help="weight of SAR that all must have")
    parser.add_argument("--server-model", help="the model all must name (default: the policy's)")
    parser.add_argument(
        "--on-policy",
        action="store_true",
        help="SAR comes from openrlhf_agent.py: the servers' models and weights do not matter",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
