"""All members of a cohort are scored with the same weights, also if new ones come meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reward_server.errors import NotReady
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.cohorts import Cohorts, Member, Outdated
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.rollout import ScoredRollout, SubmittedRollout
from reward_server.pipeline.service import RewardService, ServiceLimits
from reward_server.pipeline.waiting import IN_THREADS, Client, Deadline
from sar.grading.label import Label
from sar.scoring import TokenSequence
from sar.terms.base import GroupTerm, Sample
from sar.tokenization import RolloutTokenizer

if TYPE_CHECKING:
    from tests.reward_server.pipeline.conftest import CohortHelpers

WAIT_S = 120.0


def test_members_with_older_weights_are_scored_again(worlds: CohortHelpers) -> None:
    def member(text: int, weights: float) -> Member:
        return replace(worlds.make_member(text), weights_loaded_at_s=weights)

    with worlds.open(3) as world:
        old = [world.send(member(text, 1.0)) for text in (0, 1)]
        new = world.send(member(2, 2.0))
        assert [type(one.error) for one in old] == [Outdated, Outdated]
        assert new.is_held
        late = world.send(member(0, 1.0))
        assert isinstance(late.error, Outdated), "it was scored before the weights changed"
        assert new.is_held
        again = [world.send(member(text, 2.0)) for text in (0, 1)]
        assert all(sorted(one.group) == [0, 1, 2] for one in [new, *again])
        state = world.cohorts.state
        assert (state.num_retries, state.num_incomplete) == (0, 0)


def test_a_request_leaves_all_its_cohorts(worlds: CohortHelpers) -> None:
    """Its rollouts are all scored again, and siblings of each of them then are, too."""

    def member(text: int, prompt: str, weights: float) -> Member:
        return replace(worlds.make_member(text, prompt), weights_loaded_at_s=weights)

    with worlds.open(2) as world:
        both = world.send(member(0, "b", 1.0), member(1, "a", 1.0))
        newer = world.send(member(2, "a", 2.0))
        assert isinstance(both.error, Outdated)
        sibling = world.send(member(3, "b", 1.0))
        assert sibling.is_held
        again = world.send(member(0, "b", 2.0), member(1, "a", 2.0))
        assert sorted(newer.group) == [1, 2]
        assert isinstance(sibling.error, Outdated)
        assert again.is_held
        assert sorted(world.send(member(3, "b", 2.0)).group) == [0, 3]
        assert again.settled is not None


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_complete_group_of_an_outdated_request_keeps_its_rewards(
    worlds: CohortHelpers, is_whole: bool
) -> None:
    def member(text: int, prompt: str, weights: float) -> Member:
        return replace(worlds.make_member(text, prompt), weights_loaded_at_s=weights)

    with worlds.open(2) as world:
        if is_whole:
            of_both = world.send(*(member(text, "a", 1.0) for text in (0, 2)), member(1, "b", 1.0))
        else:
            of_both = world.send(member(0, "a", 1.0), member(1, "b", 1.0))
            sibling = world.send(member(2, "a", 1.0))
            assert sorted(sibling.group) == [0, 2]
        assert of_both.is_held
        newer = world.send(member(3, "b", 2.0))
        assert isinstance(of_both.error, Outdated)
        settled = of_both.error.settled
        assert list(settled) == ([0, 1] if is_whole else [0])
        assert all(sorted(worlds.decode(one.reward)) == [0, 2] for one in settled.values())
        world.send(member(1, "b", 2.0))
        assert sorted(newer.group) == [1, 3]
        # The next epoch: the old answers were taken.
        assert world.send(member(0, "a", 2.0)).is_held
        assert sorted(world.send(member(4, "a", 2.0)).group) == [0, 4]
        state = world.cohorts.state
        assert (state.num_settled, state.num_retries) == (3, 0)


class OneVersion(GroupTerm):
    """The version of the weights that scored the group."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        (version,) = {sample.likelihood.nll_qa for sample in group}
        return [version] * len(group)


def test_no_group_is_of_mixed_weights(worlds: CohortHelpers) -> None:
    """Weights change while hundreds of groups form."""
    cohorts = Cohorts(worlds.compose(4, OneVersion()))
    version, num_again = 1.0, 0
    choices = random.Random(3)
    delays_s = {text: choices.uniform(0, 0.3) for text in range(400)}

    def send(text: int) -> float:
        nonlocal num_again
        time.sleep(delays_s[text])
        while True:
            one = worlds.make_member(text, f"prompt {text % 100}")
            likelihood = replace(one.sample.likelihood, nll_qa=version)
            sample = replace(one.sample, likelihood=likelihood)
            one = replace(one, sample=sample, weights_loaded_at_s=likelihood.nll_qa)
            time.sleep(0.01)  # it is scored
            try:
                (settled,) = cohorts.join([one], Client(Deadline(WAIT_S, IN_THREADS)))
            except Outdated:
                num_again += 1
                continue
            return settled.reward

    with ThreadPoolExecutor(400) as clients:
        rewards = [clients.submit(send, text) for text in range(400)]
        for _ in range(10):
            time.sleep(0.03)
            version += 1
        values = [one.result(WAIT_S) for one in rewards]
    assert num_again > 0
    assert len(set(values)) > 2
    assert all(len(set(values[prompt::100])) == 1 for prompt in range(100))
    assert cohorts.state.num_open == 0


class VersionScorer:
    """Each token has a log-probability of minus the version."""

    max_context_tokens = None

    def __init__(self, version: int) -> None:
        self._version = version

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> list[Any]:
        return [np.full(len(s.response_ids), -self._version, np.float32) for s in sequences]


@pytest.fixture
def service(worlds: CohortHelpers, lenient_graders: Any) -> Iterator[RewardService]:
    """A reward for two rollouts: the version of their weights."""
    service = RewardService(
        lenient_graders,
        sar_weight=0.2,
        limits=ServiceLimits(WAIT_S, 2**31),
        composition=worlds.compose(2, OneVersion()),
    )
    yield service
    service.end_waiting(WAIT_S)
    assert service.engines.close(WAIT_S)


@pytest.fixture
def make_engine(service: RewardService, bundled_tokenizer: Any) -> Callable[[int], Engine]:
    def make(version: int) -> Engine:
        batcher = Batcher(VersionScorer(version), 1000, service.metrics, service.counters)
        tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
        return Engine(tokenizer, batcher, version=version)

    return make


def send(service: RewardService, *responses: str) -> list[ScoredRollout]:
    """One request. The word before a response's colon makes its prompt."""
    rollouts = []
    for response in responses:
        prompt, _, text = response.rpartition(":")
        label = Label("5", "math", mode="eval" if prompt == "eval" else "train")
        rollouts.append(SubmittedRollout(f"{prompt}?{text}", f"{prompt}?", label, "5"))
    return service.compute_rewards(rollouts, service.new_client())


def wait_for_held(service: RewardService, num_rollouts: int) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while service.status.held_rollouts < num_rollouts:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_held_rollout_is_scored_again_with_new_weights(
    service: RewardService, make_engine: Callable[[int], Engine]
) -> None:
    service.engines.start(make_engine(1))
    with ThreadPoolExecutor(2) as clients:
        held = clients.submit(send, service, "a: 5")
        wait_for_held(service, 1)
        service.engines.replace(make_engine(2))
        both = clients.submit(send, service, "a: five").result(WAIT_S) + held.result(WAIT_S)
    for one in both:
        assert one.policy_version == 2
        assert one.reward.value == one.reward.likelihood.nll_qa == pytest.approx(2)
    assert service.status.rollouts == 2


def test_only_what_lacks_siblings_is_scored_again(
    service: RewardService, make_engine: Callable[[int], Engine]
) -> None:
    """A request of two whole groups, of one rollout for evaluation, and of one whose sibling comes
    after new weights."""
    service.engines.start(make_engine(1))
    with ThreadPoolExecutor(2) as clients:
        held = clients.submit(send, service, "a: 5", "b: 6", "eval: 5", "c: 7", "a: 8", "c: 9")
        wait_for_held(service, 1)
        service.engines.replace(make_engine(2))
        (sibling,) = clients.submit(send, service, "b: 5").result(WAIT_S)
        six = held.result(WAIT_S)
    assert [one.policy_version for one in six] == [1, 2, 1, 1, 1, 1]
    evaluated = six.pop(2)
    assert evaluated.reward.value == evaluated.reward.verdict.correctness
    for one in [*six, sibling]:
        assert one.reward.value == one.reward.likelihood.nll_qa == one.policy_version
    assert service.status.rollouts == 7
    assert service.status.groups == 3


def test_a_503_tells_of_new_weights(
    service: RewardService,
    make_engine: Callable[[int], Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = [Outdated(), NotReady("no sibling came")]

    def join(*_: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(Cohorts, "join", join)
    service.engines.start(make_engine(1))
    with pytest.raises(
        NotReady, match="no sibling came; it was scored 2 times, as new weights came"
    ):
        send(service, "a: 5")
