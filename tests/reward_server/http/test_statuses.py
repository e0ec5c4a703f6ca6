"""The table from errors to HTTP statuses."""

from __future__ import annotations

from reward_server.errors import InvalidRequest, NotReady, RewardServerError, ScoringFailed
from reward_server.http.statuses import STATUSES


def _with_subclasses(kind: type[RewardServerError]) -> set[type[RewardServerError]]:
    return {kind}.union(*(_with_subclasses(one) for one in kind.__subclasses__()))


def test_every_error_is_in_the_table() -> None:
    assert set(STATUSES) == _with_subclasses(RewardServerError)
    assert len(STATUSES) > 5


def test_the_statuses_are_those_of_the_protocol() -> None:
    kinds = [InvalidRequest, NotReady, ScoringFailed]
    assert [STATUSES[kind] for kind in kinds] == [
        (400, "invalid_request"),
        (503, "not_ready"),
        (500, "scoring_failed"),
    ]


def test_an_error_names_the_field_at_fault() -> None:
    assert InvalidRequest("bad", "query").field == "query"
    assert NotReady("later").field is None
