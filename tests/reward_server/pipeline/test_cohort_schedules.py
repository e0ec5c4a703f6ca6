"""Held answers under schedules that hypothesis makes, against simple models of a trainer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from reward_server.errors import NotReady
from sar.decision import GroupPlace

if TYPE_CHECKING:
    from tests.reward_server.pipeline.conftest import CohortHelpers, Sent, World

# The cohorts' own times, with a timeout of 100 s.
LAST_MOMENT_S = 95.0
GRACE_S = 2.0
# Threads make an example slow: shrinking one takes minutes.
PHASES = (Phase.explicit, Phase.generate)


@dataclass
class Rollout:
    """A rollout in the hands of a trainer, which asks again until it has the answer."""

    prompt: str
    text: int
    losses: list[str]
    """How the first attempts end: the client "breaks" off while it waits, or the answer is lost,
    and the server "sees" that or is "blind" to it."""
    attempts: list[Sent] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        return len(self.attempts) > len(self.losses) and not self.attempts[-1].is_held

    def may_act(self) -> bool:
        if len(self.attempts) > len(self.losses):
            return False
        return not self.attempts or self.must_break or not self.attempts[-1].is_held

    @property
    def must_break(self) -> bool:
        return bool(self.attempts) and self.attempts[-1].is_held and self._loss == "breaks"

    @property
    def _loss(self) -> str:
        return self.losses[len(self.attempts) - 1]

    def act(self, world: World, worlds: CohortHelpers) -> None:
        """Breaks off, or sends an attempt."""
        if self.must_break and not self.attempts[-1].is_gone:
            self.attempts[-1].is_gone = True
            return
        number = len(self.attempts)
        sees = number < len(self.losses) and self.losses[number] == "sees"
        member = worlds.make_member(self.text, self.prompt)
        self.attempts.append(world.send(member, leaves_with_answer=sees))


@settings(max_examples=100, deadline=None, phases=PHASES)
@given(st.data())
def test_every_group_is_the_trainers_own(worlds: CohortHelpers, data: st.DataObject) -> None:
    """Whatever is sent again, and whatever equal texts the epochs have: each group consists of the
    rollouts that the trainer has in it. So no rollout gets two different rewards. (If all answers
    of a group are lost, it is settled once more: with the same texts, to the same rewards.) The
    answers of a seat all have its text."""
    group_size = data.draw(st.integers(2, 4), label="group size")
    num_epochs = data.draw(st.integers(1, 3), label="epochs")
    texts_by_seat: dict[GroupPlace, int] = {}
    with worlds.open(group_size) as world:
        for _ in range(num_epochs):
            texts = st.lists(st.integers(0, 3), min_size=group_size, max_size=group_size)
            losses = st.lists(st.sampled_from(["breaks", "sees", "blind"]), max_size=2)
            groups = {prompt: data.draw(texts, label=prompt) for prompt in ("a", "b")}
            epoch = [
                Rollout(prompt, text, data.draw(losses, label=f"{prompt} {text}"))
                for prompt, group in groups.items()
                for text in group
            ]
            run_epoch(epoch, world, worlds, data)
            for rollout in epoch:
                for attempt in rollout.attempts:
                    if attempt.settled:
                        assert attempt.group == Counter(groups[rollout.prompt])
                        assert not attempt.one.incomplete
                        place = attempt.one.place
                        assert texts_by_seat.setdefault(place, rollout.text) == rollout.text
                        assert place.num_members == group_size


def run_epoch(
    epoch: list[Rollout], world: World, worlds: CohortHelpers, data: st.DataObject
) -> None:
    """Lets the trainer act in an order, and with pauses, that hypothesis chooses. All members are
    sent at least once before the first deadline."""
    pauses_left_s = LAST_MOMENT_S / 2
    while not all(rollout.is_answered for rollout in epoch):
        able = [rollout for rollout in epoch if rollout.may_act()]
        if not able:  # all wait: for a grace, or for a deadline
            world.pass_time(10.0)
            continue
        data.draw(st.sampled_from(able), label="acts").act(world, worlds)
        if pauses_left_s > 0 and data.draw(st.booleans(), label="pauses"):
            pause_s = data.draw(st.floats(0.1, 5.0), label="pause")
            world.pass_time(pause_s)
            pauses_left_s -= pause_s


@settings(max_examples=100, deadline=None, phases=PHASES)
@given(
    group_size=st.integers(2, 6),
    arrivals_s=st.lists(st.integers(0, 180).map(float), min_size=1, max_size=6, unique=True),
)
def test_late_and_missing_siblings(
    worlds: CohortHelpers, group_size: int, arrivals_s: list[float]
) -> None:
    """One prompt whose siblings come at any time, or never."""
    arrivals_s = sorted(arrivals_s)[:group_size]
    expected = model_late_siblings(group_size, arrivals_s)
    with worlds.open(group_size) as world:
        start_s = world.now_s
        requests = []
        for text, arrival_s in enumerate(arrivals_s):
            world.pass_time(start_s + arrival_s - world.now_s)
            requests.append(world.send_text(text))
        world.pass_time(3 * worlds.TIMEOUT_S)
        for text, (request, members) in enumerate(zip(requests, expected, strict=True)):
            if members is None:
                assert isinstance(request.error, NotReady)
            else:
                assert request.group == Counter(members)
                place = request.one.place
                assert place.seat is not None
                assert (members[place.seat], place.num_members) == (text, len(members))
                assert request.one.incomplete == (
                    len(members) < group_size or members != expected[0]
                )


def model_late_siblings(group_size: int, arrivals_s: list[float]) -> list[list[int] | None]:
    """For each arrival, the members with which it is settled; None if it is refused."""
    expected: list[list[int] | None] = [None] * len(arrivals_s)
    settled: list[int] = []
    waiting: list[int] = []

    def settle() -> None:
        settled.extend(waiting)
        for one in waiting:
            expected[one] = list(settled)
        waiting.clear()

    for text, arrival_s in enumerate([*arrivals_s, float("inf")]):
        if waiting:
            first_s, last_s = arrivals_s[waiting[0]], arrivals_s[waiting[-1]]
            if settled and arrival_s >= last_s + GRACE_S:
                settle()
            elif not settled and arrival_s >= first_s + LAST_MOMENT_S:
                if len(waiting) > 1:
                    settle()
                else:
                    waiting.clear()
        waiting.append(text)
        if len(waiting) == group_size:
            settle()
    return expected


requests_of_texts = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)), min_size=1, max_size=5
)


@settings(max_examples=100, deadline=None, phases=PHASES)
@given(group_size=st.integers(2, 3), requests=st.lists(requests_of_texts, max_size=8))
def test_requests_of_any_size(
    worlds: CohortHelpers, group_size: int, requests: list[list[tuple[str, int]]]
) -> None:
    """Whole groups of a request are settled apart; all others in the order in which they come."""
    queues: dict[str, list[tuple[int, int, int]]] = {"a": [], "b": []}
    expected: dict[tuple[int, int], list[int]] = {}
    for number, members in enumerate(requests):
        for prompt, queue in queues.items():
            own = [(number, i, text) for i, (p, text) in enumerate(members) if p == prompt]
            num_whole = len(own) - len(own) % group_size
            whole = [own[i : i + group_size] for i in range(0, num_whole, group_size)]
            queue += own[num_whole:]
            if len(queue) >= group_size:
                whole.append(queue[:group_size])
                del queue[:group_size]
            for group in whole:
                texts = [text for _, _, text in group]
                expected |= {(number, index): texts for number, index, _ in group}
    with worlds.open(group_size) as world:
        sent = [
            world.send(*(worlds.make_member(text, prompt) for prompt, text in members))
            for members in requests
        ]
        for number, request in enumerate(sent):
            places = [(number, index) for index in range(len(requests[number]))]
            assert request.is_held == any(place not in expected for place in places)
            for one, place in zip(request.settled or (), places, strict=False):
                assert worlds.decode(one.reward) == Counter(expected[place])
