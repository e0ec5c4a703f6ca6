"""What the front and the process that talks to Ray send to each other.

A scorer has a number, and a run: each start of it is a run with a number of its own, so that a
message about an earlier run is recognised.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from reward_server.scaling.options import ScalingOptions


class Start(NamedTuple):
    """To Ray: the first message."""

    options: ScalingOptions


class Connected(NamedTuple):
    """To the front: Ray is there."""

    num_gpus_per_scorer: float


class NotConnected(NamedTuple):
    """To the front: Ray is not there. The process ends."""

    reason: str
    is_final: bool
    """Whether it is of no use to try again."""


class Ping(NamedTuple):
    """To Ray: answer with `Pong`."""


class Pong(NamedTuple):
    """To the front: the process handles messages."""


class AddScorer(NamedTuple):
    """To Ray: start a scorer, and start it again whenever it ends."""

    scorer: int


class StopScorer(NamedTuple):
    """To Ray: end a scorer."""

    scorer: int


class RestartScorer(NamedTuple):
    """To Ray: end a run of a scorer, and start it again."""

    scorer: int
    run: int
    reason: str


class Running(NamedTuple):
    """To the front: a scorer has started, on this node."""

    scorer: int
    run: int
    node: str
    node_id: str
    gpus: tuple[str, ...]
    pid: int


class Lost(NamedTuple):
    """To the front: a run of a scorer has ended, by itself or on request."""

    scorer: int
    run: int
    reason: str


class Call(NamedTuple):
    """To Ray: call a method of `ScorerActor`."""

    number: int
    scorer: int
    run: int
    method: Literal["score", "load", "unload", "has_room"]
    arguments: tuple[Any, ...]


class Returned(NamedTuple):
    """To the front: what the call with this number returned."""

    number: int
    value: Any


class CallLost(NamedTuple):
    """To the front: the scorer ended before the call with this number returned."""

    number: int
    reason: str


class Forget(NamedTuple):
    """To Ray: the files of this model are not sent to scorers any more."""

    key: int
