"""Brings the rollouts of one prompt together, inside one of OpenRLHF's rollout workers.

OpenRLHF 0.11.2 starts all rollouts of a prompt in one call of one worker, on one event loop, with
the same `sampling_params` object, and returns when all have ended (RolloutRayActor's
`generate_responses`). So no rollout can arrive elsewhere or later: siblings know each other by that
object, and the group is complete when all that have started have arrived. If one fails, the call
fails; then its siblings fail as well, instead of waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sar.errors import one_line
from sar.terms.base import Sample
from sar.terms.composition import Composition

Settled = tuple[float, dict[str, float]]
"""A rollout's reward, and the values of the reward's terms."""


@dataclass
class _Group:
    call: Any
    """Kept, so that no other object gets its id."""
    num_started: int = 0
    samples: list[Sample] = field(default_factory=list)
    scores: list[Mapping[str, float]] = field(default_factory=list)
    waiting: list[asyncio.Future[Settled]] = field(default_factory=list)
    error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        for future in self.waiting:
            if not future.done():
                future.set_exception(_make_sibling_error(error))


class Siblings:
    """The groups whose rollouts are under way in this worker."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        self._groups: dict[int, _Group] = {}

    @contextmanager
    def join(self, call: Any) -> Iterator[Sibling]:
        """Counts a rollout among those of a call. A rollout enters before it waits for anything.

        Args:
            call: an object that the rollouts of the call share, and no others.
        """
        group = self._groups.setdefault(id(call), _Group(call))
        group.num_started += 1
        try:
            yield Sibling(self._composition, group)
        except BaseException as error:
            group.fail(error)
            raise
        finally:
            group.num_started -= 1
            if not group.num_started:
                del self._groups[id(call)]


@dataclass(frozen=True)
class Sibling:
    """One rollout of a group."""

    _composition: Composition
    _group: _Group

    async def settle(self, sample: Sample, scores: Mapping[str, float]) -> Settled:
        """The rollout's reward and terms; waits for its siblings if the reward compares them.

        Args:
            scores: what `Composition.score` returned.
        Raises:
            RuntimeError: a sibling has failed.
            TermError: a term gave no number.
            ValueError: the prompt has another number of rollouts than `group_size`.
        """
        composition, group = self._composition, self._group
        if composition.group_size is None:
            (reward,) = composition.combine([sample], [scores])
            return reward, dict(scores)
        if group.error:
            raise _make_sibling_error(group.error)
        future: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        group.samples.append(sample)
        group.scores.append(scores)
        group.waiting.append(future)
        if len(group.waiting) == group.num_started:
            try:
                await self._settle_group(composition.group_size)
            except BaseException:
                group.waiting.remove(future)  # nobody waits for it any more
                raise
        return await future

    async def _settle_group(self, group_size: int) -> None:
        group = self._group
        if len(group.samples) != group_size:
            raise ValueError(
                f"the prompt has {len(group.samples)} rollouts, and the reward file's group_size "
                f"is {group_size}: set N_SAMPLES={group_size} (--rollout.n_samples_per_prompt)"
            )
        rewards, scores = await asyncio.to_thread(self._compute)
        for future, reward, values in zip(group.waiting, rewards, scores, strict=True):
            if not future.done():  # its rollout was cancelled meanwhile
                future.set_result((reward, values))

    def _compute(self) -> tuple[list[float], list[dict[str, float]]]:
        group = self._group
        scores = self._composition.score_group(group.samples, group.scores)
        return self._composition.combine(group.samples, scores), scores


def _make_sibling_error(error: BaseException) -> RuntimeError:
    return RuntimeError(f"another rollout of the same prompt failed: {one_line(error)}")
