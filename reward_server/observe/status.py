"""The server's counters. /healthz shows them as JSON, /metrics in Prometheus' format.

Each is declared here, once: its type, its description, and its name in /metrics if it is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt


@dataclass(frozen=True)
class Exported:
    """The name of a counter in /metrics, without its prefix."""

    name: str
    kind: Literal["counter", "gauge"]
    """A counter only ever grows; a gauge is a current value."""


def _counter(name: str) -> Exported:
    return Exported(name, "counter")


def _gauge(name: str) -> Exported:
    return Exported(name, "gauge")


class Status(BaseModel):
    """Counters since the server started, and its current state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ready: Annotated[bool, _gauge("ready")] = Field(description="whether rewards are given")
    rollouts: Annotated[NonNegativeInt, _counter("rollouts")] = Field(
        description="rollouts that got a reward"
    )
    in_flight: Annotated[NonNegativeInt, _gauge("in_flight_rollouts")] = Field(
        description="rollouts of requests that wait for their answer"
    )
    queued_rollouts: Annotated[NonNegativeInt, _gauge("queued_rollouts")] = Field(
        description="rollouts that wait for the scorer"
    )
    queued_tokens: Annotated[NonNegativeInt, _gauge("queued_tokens")] = Field(
        description="tokens that wait for the scorer"
    )
    oldest_queued_s: Annotated[NonNegativeFloat, _gauge("oldest_queued_s")] = Field(
        description="seconds that the oldest of them has waited"
    )
    unreadable_labels: Annotated[NonNegativeInt, _counter("unreadable_labels")] = Field(
        description="math labels that could not be read"
    )
    # Not exported: the count of the histogram `batch_sequences` is the same number.
    batches: NonNegativeInt = Field(description="calls of the scorer")
    sequences: Annotated[NonNegativeInt, _counter("scored_sequences")] = Field(
        description="sequences scored, two for each rollout"
    )
    tokens: Annotated[NonNegativeInt, _counter("scored_tokens")] = Field(
        description="tokens scored"
    )
    abandoned: Annotated[NonNegativeInt, _counter("abandoned")] = Field(
        description="rollouts skipped because their client had gone"
    )
    busy_s: Annotated[NonNegativeFloat, _counter("busy_seconds")] = Field(
        description="seconds spent in the scorer"
    )
    busy_share: Annotated[NonNegativeFloat, _gauge("busy_share")] = Field(
        description="share of the latest stretch of work spent in the scorer"
    )
    grader_restarts: Annotated[NonNegativeInt, _counter("grader_restarts")] = Field(
        description="grader processes replaced because they were late or died"
    )
    checkpoints_refused: Annotated[NonNegativeInt, _counter("checkpoints_refused")] = Field(
        description="checkpoints that could not be loaded"
    )
    decisions_not_logged: Annotated[NonNegativeInt, _counter("decisions_not_logged")] = Field(
        description="rewards missing from the reward log"
    )
    policy_version: Annotated[NonNegativeInt, _gauge("policy_version")] = Field(
        description="training step of the weights in service; 0: those of the start"
    )
    policy_age_s: Annotated[NonNegativeFloat, _gauge("policy_age_seconds")] = Field(
        description="seconds since the weights in service were loaded"
    )


EXPORTED: dict[str, Exported] = {
    name: exported
    for name, field in Status.model_fields.items()
    for exported in field.metadata
    if isinstance(exported, Exported)
}
"""The counters of /metrics, by their name in `Status`."""
