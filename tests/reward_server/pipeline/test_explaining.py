"""Explanations wait behind rewards, and hold up neither rewards nor new weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from reward_server.errors import (
    ClientGone,
    InvalidRequest,
    NotReady,
    Overloaded,
    RequestTimedOut,
    RewardServerError,
    ScoringFailed,
    TooLarge,
)
from reward_server.pipeline import explaining as explaining_module
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.explaining import ExplainedRollout
from reward_server.pipeline.rollout import ScoredRollout, SubmittedRollout
from reward_server.pipeline.service import RewardService, ServiceLimits
from reward_server.pipeline.waiting import IN_THREADS, Client, Deadline
from reward_server.pipeline.workers import BatcherClosed
from sar.grading.label import Label
from sar.perplexity import mean_nll
from sar.scoring import TokenSequence
from sar.tokenization import RolloutTokenizer

WAIT_S = 60.0
PROMPT = "Q: 2+3?\nA:"


class Scorer:
    """Gives each token minus its id, over the version; notes its batches.

    With `hold`, every batch waits for one `release()`.
    """

    max_context_tokens = None

    def __init__(self, version: int = 1, *, hold: bool = False) -> None:
        self.batches: list[list[TokenSequence]] = []
        self.error: Exception | None = None
        self._version = version
        self._started = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._hold = hold

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> list[Any]:
        self.batches.append(list(sequences))
        self._started.release()
        if self._hold:
            assert self._go.acquire(timeout=WAIT_S)
        if self.error:
            raise self.error
        return [-np.array(s.response_ids, np.float32) / self._version for s in sequences]

    def wait_for_batch(self) -> None:
        assert self._started.acquire(timeout=WAIT_S)

    def release(self, num_batches: int = 1) -> None:
        self._go.release(num_batches)


def rollouts(*responses: str) -> list[SubmittedRollout]:
    label = Label("5", "math")
    return [SubmittedRollout(PROMPT + response, PROMPT, label, "5") for response in responses]


class Server:
    """A service, its scorer, and requests in threads of their own."""

    def __init__(
        self, tokenizer: RolloutTokenizer, scorer: Scorer, graders: Any, timeout_s: float
    ) -> None:
        self.tokenizer = tokenizer
        self.scorer = scorer
        self.service = RewardService(
            graders, sar_weight=0.2, limits=ServiceLimits(timeout_s, 2**31)
        )
        self.service.engines.start(self.make_engine(scorer, 1))
        self._clients = ThreadPoolExecutor(32)

    def make_engine(self, scorer: Scorer, version: int) -> Engine:
        service = self.service
        batcher = Batcher(scorer, 1_000_000, service.metrics, service.counters)
        return Engine(self.tokenizer, batcher, version=version)

    @property
    def batcher(self) -> Batcher:
        assert self.service.engines.current
        return self.service.engines.current.batcher

    def explain(self, *responses: str, **client: Any) -> Future[list[ExplainedRollout]]:
        chosen = self.service.new_client(**client)
        return self._clients.submit(self.service.explaining.explain, rollouts(*responses), chosen)

    def reward(self, *responses: str) -> Future[list[ScoredRollout]]:
        client = self.service.new_client()
        return self._clients.submit(self.service.compute_rewards, rollouts(*responses), client)

    def find_response(self, batch: Sequence[TokenSequence]) -> set[str]:
        return {self.tokenizer.decode(sequence.response_ids) for sequence in batch}

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not is_true():
            assert time.monotonic() < deadline_s
            time.sleep(0.002)

    def close(self) -> None:
        self.scorer.release(10_000)
        self.service.explaining.close()
        self._clients.shutdown()
        assert self.service.engines.close(WAIT_S)
        self.wait_until(lambda: not self.service.explaining.is_working)


@pytest.fixture
def serve(bundled_tokenizer: Any, lenient_graders: Any) -> Iterator[Callable[..., Server]]:
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    with ExitStack() as stack:

        def start(scorer: Scorer, timeout_s: float = WAIT_S) -> Server:
            server = Server(tokenizer, scorer, lenient_graders, timeout_s)
            stack.callback(server.close)
            return server

        yield start


def test_rewards_go_first(serve: Callable[..., Server]) -> None:
    """An explanation is under way. All rewards that come meanwhile are the next batch, before the
    explanations that came before them."""
    server = serve(Scorer(hold=True))
    explained = [server.explain(*(f" e{n}{k}" for k in range(8))) for n in range(4)]
    server.scorer.wait_for_batch()
    rewards = [server.reward(f" r{n}") for n in range(20)]
    server.wait_until(lambda: server.batcher.queue.num_rollouts == 20)
    server.scorer.release()
    server.scorer.wait_for_batch()
    assert server.find_response(server.scorer.batches[1]) == {f" r{n}" for n in range(20)}
    late = server.reward(" late")
    server.wait_until(lambda: server.batcher.queue.num_rollouts == 1)
    server.scorer.release()
    server.scorer.wait_for_batch()
    assert server.find_response(server.scorer.batches[2]) == {" late"}
    server.scorer.release(10_000)
    for reward in (*rewards, late):
        assert len(reward.result(WAIT_S)) == 1
    for one in explained:
        assert len(one.result(WAIT_S)) == 8
    assert all(len(batch) == 2 for batch in server.scorer.batches[3:]), "one rollout a batch"
    assert len(server.scorer.batches) == 2 + 32


def test_each_reward_waits_for_one_explanation_at_most(serve: Callable[..., Server]) -> None:
    server = serve(Scorer(hold=True))
    explained = server.explain(*(f" e{n}" for n in range(64)))
    for number in range(10):
        server.scorer.wait_for_batch()
        reward = server.reward(f" r{number}")
        server.wait_until(lambda: server.batcher.queue.num_rollouts == 1)
        server.scorer.release()  # the explanation
        server.scorer.wait_for_batch()
        assert server.find_response(server.scorer.batches[-1]) == {f" r{number}"}
        server.scorer.release()
        assert len(reward.result(WAIT_S)) == 1
    server.scorer.release(10_000)
    assert len(explained.result(WAIT_S)) == 64


def test_while_rewards_wait_nothing_is_explained(serve: Callable[..., Server]) -> None:
    """The explanation times out. No reward does."""
    server = serve(Scorer(hold=True), timeout_s=1.0)
    rewards = [server.batcher.submit([TokenSequence([1], [2])])]
    server.scorer.wait_for_batch()
    explained = server.explain(" 5")
    while not explained.done():
        rewards.append(server.batcher.submit([TokenSequence([1], [2])]))
        server.scorer.release()
        server.scorer.wait_for_batch()
    batches = list(server.scorer.batches)  # later, the scorer is idle for a moment
    with pytest.raises(RequestTimedOut):
        explained.result()
    server.scorer.release(10_000)
    for reward in rewards:
        assert reward.result(WAIT_S)[0].tolist() == [-2.0]
    assert all(batch[0].response_ids == [2] for batch in batches)


def test_requests_take_turns(serve: Callable[..., Server]) -> None:
    """One with many rollouts does not keep one with few waiting until it ends."""
    server = serve(Scorer(hold=True))
    many = server.explain(*(f" m{n}" for n in range(20)))
    server.scorer.wait_for_batch()
    few = server.explain(" f")
    server.wait_until(lambda: server.service.explaining._working._work_queue.qsize() == 1)
    server.scorer.release(3)
    assert len(few.result(WAIT_S)) == 1
    assert not many.done()
    server.scorer.release(10_000)
    assert len(many.result(WAIT_S)) == 20


def test_new_weights_do_not_wait_for_explanations(serve: Callable[..., Server]) -> None:
    server = serve(Scorer(hold=True))
    explained = server.explain(" a", " b", " c")
    server.scorer.wait_for_batch()
    server.scorer.release()
    server.scorer.wait_for_batch()  # " b" is being scored
    new = Scorer(2)
    replacing = threading.Thread(
        target=server.service.engines.replace, args=(server.make_engine(new, 2),)
    )
    replacing.start()
    server.wait_until(
        lambda: (
            server.service.engines.current is not None
            and server.service.engines.current.version == 2
        )
    )
    server.scorer.release()
    replacing.join(WAIT_S)
    assert not replacing.is_alive(), "the old weights are free"
    found = explained.result(WAIT_S)
    assert [one.policy_version for one in found] == [1, 1, 2]
    for one in found:
        (token_id,) = server.tokenizer.encode_text(one.explanation.response)[-1:]
        assert one.explanation.tokens[-1].nll_qa == pytest.approx(token_id / one.policy_version)


def test_a_waiting_explanation_moves_to_the_next_engine(serve: Callable[..., Server]) -> None:
    """Its engine is withdrawn before its turn, as when there is no memory for two."""
    server = serve(Scorer(hold=True))
    batcher = server.batcher
    reward = batcher.submit([TokenSequence([1], [2])])
    server.scorer.wait_for_batch()
    explained = server.explain(" a")
    server.wait_until(lambda: len(batcher._queue.behind) == 1)
    withdrawing = threading.Thread(target=server.service.engines.withdraw)
    withdrawing.start()
    server.wait_until(lambda: batcher._is_closed)
    server.scorer.release()
    assert reward.result(WAIT_S)[0].tolist() == [-2.0]
    withdrawing.join(WAIT_S)
    assert not withdrawing.is_alive()
    assert len(server.scorer.batches) == 1
    assert not explained.done()
    server.service.engines.start(server.make_engine(Scorer(7), 7))
    (found,) = explained.result(WAIT_S)
    assert found.policy_version == 7


def test_numbers_are_the_rewards(serve: Callable[..., Server]) -> None:
    server = serve(Scorer())
    responses = (" The answer is 5.", "😀 中", "", "<|im_end|>")
    explained = server.explain(*responses).result(WAIT_S)
    scored = server.reward(*responses).result(WAIT_S)
    for one, expected in zip(explained, scored, strict=True):
        explanation = one.explanation
        assert explanation.likelihood == expected.reward.likelihood
        assert explanation.reward == expected.reward.value
        assert explanation.verdict == expected.reward.verdict
        if explanation.tokens:
            nlls = np.array([token.nll_qa for token in explanation.tokens], np.float32)
            assert mean_nll(-nlls) == pytest.approx(explanation.likelihood.nll_qa, abs=1e-6)


def test_explanations_are_no_rewards(serve: Callable[..., Server]) -> None:
    """They change no counter but their own stage."""
    server = serve(Scorer())
    before = server.service.status
    server.explain(*(" 5",) * 10).result(WAIT_S)
    after = server.service.status
    changed = {
        name for name in type(before).model_fields if getattr(before, name) != getattr(after, name)
    }
    assert changed <= {"policy_age_s"}
    text = server.service.metrics.render().decode()
    assert 'reward_server_stage_seconds_count{stage="explain"} 10.0' in text
    assert 'stage="score"' not in text
    assert "reward_server_verdicts_total{" not in text


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), FloatingPointError("nan")])
def test_a_failure_is_no_failure_of_the_server(
    serve: Callable[..., Server], error: Exception
) -> None:
    server = serve(Scorer())
    server.scorer.error = error
    for _ in range(12):
        with pytest.raises(ScoringFailed, match=str(error)):
            server.explain(" 5").result(WAIT_S)
    assert server.service.state == "ready"
    server.scorer.error = None
    assert len(server.explain(" 5").result(WAIT_S)) == 1
    assert len(server.reward(" 5").result(WAIT_S)) == 1


def test_a_client_that_leaves_is_not_explained(serve: Callable[..., Server]) -> None:
    server = serve(Scorer(hold=True))
    reward = server.reward(" r")
    server.scorer.wait_for_batch()
    is_gone = threading.Event()
    explained = server.explain(" a", is_gone=is_gone.is_set)
    server.wait_until(lambda: len(server.batcher._queue.behind) == 1)
    is_gone.set()
    server.scorer.release(10)
    with pytest.raises(ClientGone):
        explained.result(WAIT_S)
    reward.result(WAIT_S)
    assert len(server.scorer.batches) == 1


def test_a_stopping_server_explains_no_more(serve: Callable[..., Server]) -> None:
    server = serve(Scorer(hold=True))
    explained = server.explain(" a", " b")
    server.scorer.wait_for_batch()
    server.service.end_waiting(0.0)
    server.scorer.release(10)
    with pytest.raises(NotReady, match="stopping"):
        explained.result(WAIT_S)
    assert len(server.reward(" r").result(WAIT_S)) == 1, "rewards are still given"


def test_a_closed_batcher_explains_nothing(serve: Callable[..., Server]) -> None:
    server = serve(Scorer(hold=True))
    first = server.batcher.submit([TokenSequence([1], [2])])
    server.scorer.wait_for_batch()
    waiting = server.batcher.submit_behind([TokenSequence([1], [3])])
    closing = threading.Thread(target=server.batcher.close)
    closing.start()
    server.wait_until(lambda: server.batcher._is_closed)
    server.scorer.release(10)
    closing.join(WAIT_S)
    assert first.result(WAIT_S)[0].tolist() == [-2.0]
    for refused in (waiting, server.batcher.submit_behind([TokenSequence([1], [3])])):
        with pytest.raises(BatcherClosed):
            refused.result(WAIT_S)
    assert server.batcher.submit_behind([]).result(WAIT_S) == []
    with pytest.raises(NotReady):
        server.explain(" a").result(WAIT_S)


def test_requests_are_limited(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining_module, "_MAX_REQUESTS", 2)
    explaining = serve(Scorer()).service.explaining
    with explaining.admit(), explaining.admit(), pytest.raises(Overloaded), explaining.admit():
        pass
    with explaining.admit(), explaining.admit():
        pass


def test_tokens_are_limited(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rollout is explained however long it is."""
    monkeypatch.setattr(explaining_module, "_MAX_TOKENS", 10)
    server = serve(Scorer())
    assert len(server.explain("5" * 20).result(WAIT_S)) == 1
    assert len(server.explain("5" * 5, "5" * 5).result(WAIT_S)) == 2
    with pytest.raises(TooLarge, match=r"query\[2\].*more than 10 tokens") as caught:
        server.explain("5" * 5, "5" * 5, "5").result(WAIT_S)
    assert caught.value.field == "query[2]"


def test_a_wrong_query_is_named(serve: Callable[..., Server]) -> None:
    explaining = serve(Scorer()).service.explaining
    (first,) = rollouts(" 5")
    second = SubmittedRollout("another text", PROMPT, first.label, "5")
    client = Client(Deadline(WAIT_S, IN_THREADS))
    with pytest.raises(InvalidRequest, match=r"query\[1\]: the query does not start") as caught:
        explaining.explain([first, second], client)
    assert caught.value.field == "query[1]"


def test_before_the_model_is_loaded_it_waits(bundled_tokenizer: Any, lenient_graders: Any) -> None:
    service = RewardService(lenient_graders, sar_weight=0.2, limits=ServiceLimits(0.2, 2**31))
    with pytest.raises(RewardServerError) as caught:
        service.explaining.explain(rollouts(" 5"), service.new_client())
    assert type(caught.value) in (NotReady, RequestTimedOut)
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    engine = Engine(tokenizer, Batcher(Scorer(), 1000))
    threading.Timer(0.1, service.engines.start, [engine]).start()
    client = Client(Deadline(WAIT_S, IN_THREADS))
    assert len(service.explaining.explain(rollouts(" 5"), client)) == 1
    assert engine.batcher.close(WAIT_S)
