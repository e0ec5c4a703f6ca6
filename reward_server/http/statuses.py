"""The HTTP status of every error, and the name its type has in an answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from reward_server import errors

# What nginx logs when the client closes the connection first. Nobody reads this answer.
_CLIENT_CLOSED_REQUEST = 499


class ErrorStatus(NamedTuple):
    """How an error appears on the wire."""

    status: int
    type: str
    """`error.type` of the answer's body."""


STATUSES: dict[type[errors.RewardServerError], ErrorStatus] = {
    errors.RewardServerError: ErrorStatus(HTTPStatus.INTERNAL_SERVER_ERROR, "internal"),
    errors.InvalidRequest: ErrorStatus(HTTPStatus.BAD_REQUEST, "invalid_request"),
    errors.CheckpointRefused: ErrorStatus(HTTPStatus.BAD_REQUEST, "invalid_request"),
    errors.CheckpointIncomplete: ErrorStatus(HTTPStatus.BAD_REQUEST, "invalid_request"),
    errors.CheckpointNotLoaded: ErrorStatus(HTTPStatus.SERVICE_UNAVAILABLE, "not_loaded"),
    errors.Busy: ErrorStatus(HTTPStatus.CONFLICT, "busy"),
    errors.Unauthorized: ErrorStatus(HTTPStatus.UNAUTHORIZED, "unauthorized"),
    errors.Forbidden: ErrorStatus(HTTPStatus.FORBIDDEN, "forbidden"),
    errors.TooLarge: ErrorStatus(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"),
    errors.Overloaded: ErrorStatus(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    errors.NotReady: ErrorStatus(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready"),
    errors.ClientGone: ErrorStatus(_CLIENT_CLOSED_REQUEST, "client_gone"),
    errors.RequestTimedOut: ErrorStatus(HTTPStatus.GATEWAY_TIMEOUT, "request_timed_out"),
    errors.ScoringFailed: ErrorStatus(HTTPStatus.INTERNAL_SERVER_ERROR, "scoring_failed"),
}
