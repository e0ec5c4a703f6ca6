"""The server's counters. /healthz shows them as JSON, /metrics in Prometheus' format.

Each is declared once, in `Status`: its type, its description, and its name in /metrics.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class Exported(NamedTuple):
    """A counter's name in /metrics, without its prefix, and whether it only ever grows."""

    name: str
    kind: Literal["counter", "gauge"]


def _counter(name: str, description: str) -> Any:
    """A number that only ever grows."""
    return Field(ge=0, description=description, json_schema_extra={"x-counter": name})


def _gauge(name: str, description: str) -> Any:
    """A current value."""
    return Field(ge=0, description=description, json_schema_extra={"x-gauge": name})


class ScorerStatus(BaseModel):
    """One of several scorers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int = Field(ge=0)
    node: str = Field(description="address of the machine that it runs on; empty: it has none yet")
    state: Literal["starting", "loading", "up", "behind"] = Field(
        description="behind: it could not load the weights in service, and gets no work"
    )
    busy_share: float = Field(ge=0, description="share of its latest stretch of work")
    tokens: int = Field(ge=0, description="tokens scored")
    policy_version: int = Field(ge=0, description="training step of the weights that it used last")
    restarts: int = Field(ge=0, description="how often it came back after it was lost")


class Status(BaseModel):
    """Counters since the server started, and its current state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ready: bool = _gauge("ready", "whether rewards are given")
    rollouts: int = _counter("rollouts", "rollouts that got a reward")
    in_flight: int = _gauge("in_flight_rollouts", "rollouts of requests that have no answer yet")
    queued_rollouts: int = _gauge("queued_rollouts", "rollouts that wait for the scorer")
    queued_tokens: int = _gauge("queued_tokens", "tokens that wait for the scorer")
    oldest_queued_s: float = _gauge("oldest_queued_s", "seconds that the oldest has waited")
    unreadable_labels: int = _counter("unreadable_labels", "math labels that could not be read")
    # Not in /metrics: the count of the histogram `batch_sequences` is the same number.
    batches: int = Field(ge=0, description="calls of the scorer")
    sequences: int = _counter("scored_sequences", "sequences scored, two for each rollout")
    tokens: int = _counter("scored_tokens", "tokens scored")
    abandoned: int = _counter("abandoned", "rollouts or requests skipped as their client had gone")
    busy_s: float = _counter("busy_seconds", "seconds spent in the scorer")
    busy_share: float = _gauge("busy_share", "share of the latest stretch of work in the scorer")
    grader_restarts: int = _counter("grader_restarts", "grader processes that were late or died")
    checkpoints_refused: int = _counter("checkpoints_refused", "checkpoints that were refused")
    checkpoint_failures: int = _counter(
        "checkpoint_failures", "failed loads, and looks at --follow, that are tried again"
    )
    checkpoints_incomplete: int = _gauge(
        "checkpoints_incomplete", "new checkpoints that stay incomplete for over a minute"
    )
    follow_newest_step: int = _gauge("follow_newest_step", "newest step in the --follow folder")
    follow_look_age_s: float = _gauge(
        "follow_look_age_seconds", "seconds since the last look at --follow that succeeded"
    )
    decisions_not_logged: int = _counter("decisions_not_logged", "rewards not in the reward log")
    decisions_not_watched: int = _counter(
        "decisions_not_watched", "rewards that the dashboard missed, as too many came at once"
    )
    held_rollouts: int = _gauge("held_rollouts", "scored rollouts that wait for their siblings")
    held_chars: int = _gauge("held_chars", "characters of the rollouts kept for their groups")
    groups: int = _counter("groups", "groups of rollouts that were compared")
    groups_incomplete: int = _counter("groups_incomplete", "those of them that lacked siblings")
    rollouts_again: int = _counter("rollouts_again", "rollouts of groups that were sent again")
    policy_version: int = _gauge("policy_version", "training step of the weights; 0: the first")
    policy_age_s: float = _gauge("policy_age_seconds", "seconds since the weights were loaded")
    scorer_load_failures: int = _counter(
        "scorer_load_failures", "loads that failed on one of several scorers"
    )
    # In /metrics, each number is a series with the scorer's id.
    scorers: tuple[ScorerStatus, ...] = Field(
        description="the scorers of --scorers; empty if the model is scored in this process"
    )
    # In /metrics, these two are the labels of one gauge.
    scoring_path: str = Field(
        description="how the model is scored: varlen, packed, unpacked (slow) or vllm"
    )
    scoring_path_reason: str = Field(description="why it is not scored in a faster way")


EXPORTED = {
    name: Exported(schema[f"x-{kind}"], kind)
    for name, schema in Status.model_json_schema()["properties"].items()
    for kind in ("counter", "gauge")
    if f"x-{kind}" in schema
}
"""The counters of /metrics, by their name in `Status`."""
