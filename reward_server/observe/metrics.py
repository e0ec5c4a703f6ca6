"""What the server shows of itself to Prometheus, at /metrics.

Histograms are filled as things happen; everything that is counted elsewhere already is read from
there when Prometheus asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sar.grading.label import Label
from sar.reward import Reward

# A series for each, with the time it was made, that nobody asks for.
disable_created_metrics()

_PREFIX = "reward_server_"
_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    180,
)
_TOKENS = tuple(2**n for n in range(4, 16))
_SEQUENCES = tuple(2**n for n in range(13))
_REWARDS = (-0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 1, 1.05, 1.1, 1.15, 1.2)
_SAR = (-1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

# Of `RewardService.status`: the metric's name, without the prefix, and what it says.
_COUNTED = {
    "rollouts": ("rollouts", "rollouts that got a reward"),
    "unreadable_labels": ("unreadable_labels", "math labels that could not be read"),
    "sequences": ("scored_sequences", "sequences scored, two to a rollout"),
    "tokens": ("scored_tokens", "tokens scored"),
    "abandoned": ("abandoned", "rollouts left out because their client had gone"),
    "busy_s": ("busy_seconds", "seconds in the scorer"),
    "checkpoints_refused": ("checkpoints_refused", "checkpoints that could not be taken"),
    "decisions_not_logged": ("decisions_not_logged", "decisions lost to the reward log"),
    "grader_restarts": ("grader_restarts", "grader processes that were late or died"),
}
_CURRENT = {
    "in_flight": ("in_flight_rollouts", "rollouts of requests that wait for their answer"),
    "queued_rollouts": ("queued_rollouts", "rollouts that wait to be scored"),
    "queued_tokens": ("queued_tokens", "their tokens"),
    "oldest_queued_s": ("oldest_queued_s", "seconds that the first of them has waited"),
    "busy_share": ("busy_share", "share of the latest stretch of work spent in the scorer"),
    "ready": ("ready", "1 while rewards are given"),
    "policy_version": ("policy_version", "the policy's step that the scoring weights are of"),
    "policy_age_s": ("policy_age_seconds", "seconds since they were loaded"),
}


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(_PREFIX + name, text, buckets=buckets, registry=self._registry)

        self._requests = Counter(
            _PREFIX + "requests", "requests answered", ["status"], registry=self._registry
        )
        self._verdicts = Counter(
            _PREFIX + "verdicts", "verdicts given", ["grader", "reason"], registry=self._registry
        )
        self._stages = Histogram(
            _PREFIX + "stage_seconds",
            "seconds of a stage: tokenise (a rollout), grade (a rollout, in its process), "
            "score (a batch), reply (a request)",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._request_seconds = histogram(
            "request_seconds", "seconds from a request to its answer", _SECONDS
        )
        self._batch_sequences = histogram(
            "batch_sequences", "sequences scored together", _SEQUENCES
        )
        self._batch_tokens = histogram("batch_tokens", "tokens scored together", _TOKENS)
        self._rewards = histogram("reward", "rewards given", _REWARDS)
        self._sar = histogram("sar", "Self-Aligned Reward", _SAR)
        self._response_tokens = histogram("response_tokens", "tokens of a response", _TOKENS)

    def read_from(self, status: Callable[[], Mapping[str, float]]) -> None:
        """Adds what is counted elsewhere."""
        self._registry.register(_Status(status))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def add_request(self, status: int, seconds: float) -> None:
        self._requests.labels(status).inc()
        self._request_seconds.observe(seconds)

    def add_stage(self, stage: str, seconds: float) -> None:
        self._stages.labels(stage).observe(seconds)

    def add_batch(self, num_sequences: int, num_tokens: int, seconds: float) -> None:
        self._batch_sequences.observe(num_sequences)
        self._batch_tokens.observe(num_tokens)
        self.add_stage("score", seconds)

    def add_reward(self, label: Label, reward: Reward) -> None:
        self._verdicts.labels(label.grader, reward.verdict.reason.value).inc()
        self._rewards.observe(reward.value)
        self._sar.observe(reward.likelihood.sar)
        self._response_tokens.observe(reward.likelihood.num_response_tokens)


class _Status:
    """A collector over `RewardService.status`."""

    def __init__(self, status: Callable[[], Mapping[str, float]]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        return ()  # asked for at registration, when there may be nothing to read yet

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for key, (name, text) in _COUNTED.items():
            yield CounterMetricFamily(_PREFIX + name, text, value=float(status[key]))
        for key, (name, text) in _CURRENT.items():
            yield GaugeMetricFamily(_PREFIX + name, text, value=float(status[key]))
