"""How many groups have rollouts of equal rewards: advantages are then 0, and they teach nothing."""

from __future__ import annotations

import statistics
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice

from sar.decision import Decision

NUM_GROUPS = 64
"""Groups that a share is taken of."""
_MIN_GROUPS = NUM_GROUPS // 2
# Groups of one step may come interleaved. As many are remembered.
_MAX_REMEMBERED = 1024
_EQUAL = 1e-9


@dataclass
class _Group:
    num: int
    low: float
    high: float


class Groups:
    """The latest groups. A group is what the log names so, else rollouts with the same prompt and
    label."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, _Group] = OrderedDict()

    def add(self, decision: Decision) -> None:
        # Hashes, as texts may be long.
        key = hash((decision.group,) if decision.group else (decision.prompt, str(decision.label)))
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = _Group(1, decision.reward, decision.reward)
            if len(self._groups) > _MAX_REMEMBERED:
                self._groups.popitem(last=False)
        else:
            group.num += 1
            group.low = min(group.low, decision.reward)
            group.high = max(group.high, decision.reward)

    def measure_zero_variance(self) -> float | None:
        """Share of the latest complete groups whose rewards are all equal. None: there are too few.

        A group is complete if it has as many rollouts as the median group.
        """
        if len(self._groups) < _MIN_GROUPS:
            return None
        size = statistics.median_high(group.num for group in self._groups.values())
        complete = (group for group in reversed(self._groups.values()) if group.num >= max(size, 2))
        latest = list(islice(complete, NUM_GROUPS))
        if len(latest) < _MIN_GROUPS:
            return None
        return sum(one.high - one.low <= _EQUAL for one in latest) / len(latest)
