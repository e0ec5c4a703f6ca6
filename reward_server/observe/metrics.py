"""The server's metrics for Prometheus, at /metrics.

Histograms are filled as things happen. Counters that other parts keep are read from `Status` when
Prometheus asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from reward_server.observe.status import EXPORTED, ScorerStatus, Status
from sar.grading.label import Label
from sar.reward import Reward

# By default, every metric gets a second series that holds its creation time.
disable_created_metrics()

_PREFIX = "reward_server_"
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
            120, 180)  # fmt: skip
_TOKENS = tuple(2**n for n in range(4, 16))
_SEQUENCES = tuple(2**n for n in range(13))
_REWARDS = (-0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 1, 1.05, 1.1, 1.15, 1.2)
_SAR = (-1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
# Terms have no common scale: most are at most 1, log-likelihoods are not.
_TERMS = (-10, -3, -1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 0.8, 1, 3, 10)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self._registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=self._registry)

        # `labels` looks a series up anew each time, which costs as much as counting.
        self._requests = cache(counter("requests", "requests answered", "status").labels)
        self._verdicts = cache(counter("verdicts", "verdicts given", "grader", "reason").labels)
        stages = histogram(
            "stage_seconds",
            "seconds of a stage: tokenise (of a rollout), grade (of a rollout, in its process), "
            "score (of a batch), reply (of a request), explain (scoring one rollout for /explain)",
            _SECONDS,
            "stage",
        )
        self._stages = cache(stages.labels)
        self._request_seconds = histogram(
            "request_seconds", "seconds from a request to its answer", _SECONDS
        )
        self._batch_sequences = histogram(
            "batch_sequences", "sequences scored together", _SEQUENCES
        )
        self._batch_tokens = histogram("batch_tokens", "tokens scored together", _TOKENS)
        self._rewards = histogram("reward", "rewards given", _REWARDS)
        self._sar = histogram("sar", "Self-Aligned Reward", _SAR)
        terms = histogram(
            "term", "values of the reward file's terms, before weights", _TERMS, "term"
        )
        self._terms = cache(terms.labels)
        self._response_tokens = histogram("response_tokens", "tokens of a response", _TOKENS)

    def read_from(self, read_status: Callable[[], Status]) -> None:
        """Adds the counters that other parts of the server keep."""
        self._registry.register(_StatusCollector(read_status))

    def show_alarms(self, read_gauge: Callable[[], Iterable[tuple[str, float]]]) -> None:
        """Adds the gauge of alarms.

        Args:
            read_gauge: names of alarms, and 1 for those that ring, else 0.
        """
        self._registry.register(_AlarmCollector(read_gauge))

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def add_request(self, status: int, seconds: float) -> None:
        self._requests(status).inc()
        self._request_seconds.observe(seconds)

    def add_stage(self, stage: str, seconds: float) -> None:
        self._stages(stage).observe(seconds)

    def add_batch(self, num_sequences: int, num_tokens: int, seconds: float) -> None:
        self._batch_sequences.observe(num_sequences)
        self._batch_tokens.observe(num_tokens)
        self.add_stage("score", seconds)

    def add_reward(self, label: Label, reward: Reward) -> None:
        self._verdicts(label.grader, reward.verdict.reason.value).inc()
        self._rewards.observe(reward.value)
        self._sar.observe(reward.likelihood.sar)
        self._response_tokens.observe(reward.likelihood.num_response_tokens)
        if label.mode == "train":  # otherwise no term was computed
            for name, value in reward.terms.items():
                self._terms(name).observe(value)


class _StatusCollector:
    """Reads the counters of `Status` when Prometheus asks for them."""

    def __init__(self, read_status: Callable[[], Status]) -> None:
        self._read_status = read_status

    def describe(self) -> Iterable[Metric]:
        return ()  # prometheus_client asks at registration, before there is a status to read

    def collect(self) -> Iterator[Metric]:
        status = self._read_status()
        for name, exported in EXPORTED.items():
            family = _FAMILIES[exported.kind]
            text = Status.model_fields[name].description or ""
            yield family(_PREFIX + exported.name, text, value=float(getattr(status, name)))
        if status.scoring_path:
            text = "1, with the way in which the model is scored, and why it is not a faster one"
            path = GaugeMetricFamily(
                _PREFIX + "scoring_path", text, labels=("path", "reason_not_faster")
            )
            path.add_metric((status.scoring_path, status.scoring_path_reason), 1)
            yield path
        if status.scorers:
            yield from _describe_scorers(status.scorers)


def _describe_scorers(scorers: Sequence[ScorerStatus]) -> Iterator[Metric]:
    """One series for each of several scorers."""
    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    families = (
        (gauge, "scorer_up", "1 if the scorer has work or may get it", lambda s: s.state == "up"),
        (gauge, "scorer_busy_share", "share of its latest stretch of work", lambda s: s.busy_share),
        (gauge, "scorer_policy_version", "weights that it used last", lambda s: s.policy_version),
        (counter, "scorer_tokens", "tokens scored", lambda s: s.tokens),
        (counter, "scorer_restarts", "times it came back after it was lost", lambda s: s.restarts),
    )
    for kind, name, text, read in families:
        family = kind(_PREFIX + name, text, labels=("scorer", "node"))
        for scorer in scorers:
            family.add_metric((str(scorer.id), scorer.node), float(read(scorer)))
        yield family


class _AlarmCollector:
    """Reads how the alarms stand when Prometheus asks."""

    def __init__(self, read_gauge: Callable[[], Iterable[tuple[str, float]]]) -> None:
        self._read_gauge = read_gauge

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        text = "1 while the alarm rings; no series before that can be told"
        gauge = GaugeMetricFamily(_PREFIX + "alarm", text, labels=("alarm",))
        for name, value in self._read_gauge():
            gauge.add_metric((name,), value)
        yield gauge
