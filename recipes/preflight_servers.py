"""The reward servers, as the preflight checks them: their settings and the rewards they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, Self

from recipes.adapters.client import RewardClient, RewardError, read_group_size
from recipes.preflight_policy import LABEL, CheckFailed, Policy, Probe
from sar.grading.label import parse_label
from sar.grading.verdict import Reason, Verdict
from sar.reward import EMPTY_RESPONSE
from sar.terms.base import Sample
from sar.terms.composition import Composition
from sar.terms.reward_file import RewardFileError, default_composition, read_reward_file

_TOLERANCE = 1e-4
_TERM = "term_"  # before the names of terms in an answer


@dataclass(frozen=True)
class ServerInfo:
    """What a server reports about itself at /healthz."""

    model: str
    sar_weight: float
    policy_version: int
    reward: str
    """`Composition.formula`."""


Answer = dict[str, float]
"""What RewardClient returns for one rollout."""


@dataclass(frozen=True)
class RewardFile:
    """The reward file of the run."""

    path: str
    composition: Composition

    @classmethod
    def read(cls, path: str) -> Self:
        """
        Raises:
            CheckFailed: the file is wrong.
        """
        try:
            return cls(path, read_reward_file(Path(path)))
        except RewardFileError as error:
            raise CheckFailed(str(error)) from None


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
                str(health["model"]),
                float(health["sar_weight"]),
                int(health["policy_version"]),
                str(health["reward"]),
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


def check_composition(server: Server, file: RewardFile | None, *, on_policy: bool) -> None:
    """Compares what a server's reward is the sum of with the run's reward file.

    Args:
        file: None for correctness + SAR.
        on_policy: the agent composes the reward, and the server only grades.
    Raises:
        CheckFailed: the server differs.
    """
    reward = server.info.reward
    if on_policy:
        if read_group_size(reward):
            raise CheckFailed(
                f"{server.name}: its reward, {reward}, holds answers until the rollouts of a "
                "prompt are there, and the agent needs each grade at once; start it without "
                "--reward"
            )
    elif file is None:
        if reward != default_composition(server.info.sar_weight).formula:
            raise CheckFailed(
                f"{server.name}: its reward is {reward}; name the file that it was started with: "
                "REWARD=FILE.toml (preflight: --reward FILE.toml)"
            )
    elif reward != file.composition.formula:
        raise CheckFailed(
            f"{server.name}: its reward is {reward}, and that of {file.path} is "
            f"{file.composition.formula}; start it with --reward {file.path}"
        )


def check_rewards(
    server: Server, policy: Policy, *, on_policy: bool, file: RewardFile | None = None
) -> None:
    """Asks for the rewards of the right and of the wrong probe.

    A reward that compares rollouts gets a whole group of them in one request.

    Args:
        on_policy: the policy scores its own responses, so only the server's correctness matters.
        file: None for correctness + SAR.
    Raises:
        CheckFailed: a reward differs from what it must be.
        RewardError: the server gave no reward.
    """
    scores = (1, 0)
    if file is None or on_policy or file.composition.group_size is None:
        requests: list[tuple[int, ...]] = [(score,) for score in scores]
    else:
        requests = [tuple(scores[n % 2] for n in range(file.composition.group_size))]
    for group in requests:
        probes = [policy.right if score else policy.wrong for score in group]
        answers = server.client.ask(
            [probe.query for probe in probes],
            [probe.prompt for probe in probes],
            [LABEL] * len(probes),
        )
        for probe, score, answer in zip(probes, group, answers, strict=True):
            _check_answer(server, policy.name, probe, score, answer, on_policy=on_policy)
        if on_policy:
            continue
        if file is None:
            _check_sum(server, answers[0])
        else:
            _check_composed(server, file, answers)


def _check_answer(
    server: Server,
    policy: str,
    probe: Probe,
    score: int,
    answer: Answer,
    *,
    on_policy: bool,
) -> None:
    if answer["score"] != score:
        kind = "right" if score else "wrong"
        raise CheckFailed(f"{server.name}: a {kind} answer has the score {answer['score']:g}")
    if on_policy:
        return
    if answer["template_mismatch"]:
        raise CheckFailed(
            f"{server.name}: the prompts have another system prompt or chat template than the "
            "server's; start it with the data's as --system-prompt, and the policy's --model"
        )
    if answer["response_tokens"] != probe.num_response_tokens:
        raise CheckFailed(
            f"{server.name}: {probe.num_response_tokens} tokens of {policy} are "
            f"{answer['response_tokens']:g} there: it has another tokenizer"
        )


def _check_sum(server: Server, answer: Answer) -> None:
    weight = server.info.sar_weight
    expected = answer["score"] + weight * answer["sar"]
    if not math.isclose(answer["reward"], expected, abs_tol=_TOLERANCE):
        raise CheckFailed(
            f"{server.name}: the reward is {answer['reward']:g}, and correctness + "
            f"{weight:g} x SAR is {expected:g}"
        )


def _check_composed(server: Server, file: RewardFile, answers: Sequence[Answer]) -> None:
    """Compares rewards with what the file makes of the terms' values in the answer."""
    names = {one.name for one in file.composition.terms}
    start = f"start it with --reward {file.path}"
    if different := sorted(names ^ _read_terms(answers[0]).keys()):
        whose = "it has no" if different[0] in names else "the file has no"
        raise CheckFailed(f"{server.name}: {whose} term {different[0]!r}; {start}")
    group = [_make_sample(answer) for answer in answers]
    expected = file.composition.combine(group, [_read_terms(answer) for answer in answers])
    for answer, reward in zip(answers, expected, strict=True):
        if not math.isclose(answer["reward"], reward, abs_tol=_TOLERANCE, rel_tol=_TOLERANCE):
            raise CheckFailed(
                f"{server.name}: the reward is {answer['reward']:g}, and {file.path} makes "
                f"{reward:g} of the same terms; {start}"
            )


def _read_terms(answer: Answer) -> dict[str, float]:
    """The values of the terms in an answer, by name."""
    return {
        name.removeprefix(_TERM): value for name, value in answer.items() if name.startswith(_TERM)
    }


def _make_sample(answer: Answer) -> Sample:
    """All that a composition needs of a rollout to combine values: whether it is right."""
    verdict = Verdict(Reason.CORRECT if answer["score"] else Reason.WRONG)
    return Sample("", "", parse_label(LABEL), verdict, EMPTY_RESPONSE)


def compare(servers: Sequence[Server]) -> None:
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
