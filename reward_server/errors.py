"""What can go wrong with a request, and the HTTP status each error has."""

from __future__ import annotations

from http import HTTPStatus


class RequestError(Exception):
    """An error a client is told about: its type's name, a message, and the field at fault."""

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    type = "internal"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidRequest(RequestError):
    """The request is not one that can be answered; sending it again will not help."""

    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request"


class Unauthorized(RequestError):
    """The request carries no key, or a wrong one."""

    status = HTTPStatus.UNAUTHORIZED
    type = "unauthorized"


class Forbidden(RequestError):
    """The server was not started for this."""

    status = HTTPStatus.FORBIDDEN
    type = "forbidden"


class TooLarge(RequestError):
    """The request is beyond a limit of this server; sending it again will not help."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "too_large"


class Overloaded(RequestError):
    """More is waiting than the server may hold."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "overloaded"


class NotReady(RequestError):
    """The model is not loaded yet, or the server is stopping."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "not_ready"


class ClientGone(RequestError):
    """Nobody waits for the answer any more, so it is not computed. No one will read this status,
    which is the one nginx logs for it."""

    status = 499
    type = "client_gone"


class RequestTimedOut(RequestError):
    """The rewards were not there in time; refused before the client stops waiting by itself."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    type = "request_timed_out"


class ScoringFailed(RequestError):
    """The scorer or a grader failed: our fault, and no reward."""

    type = "scoring_failed"
