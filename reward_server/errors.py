"""What can go wrong with a request. `reward_server.http.statuses` gives each error its HTTP status.

The docstring of each class is what /openapi.json says about it.
"""

from __future__ import annotations

from sar.errors import MAX_MESSAGE_CHARS, shorten


class RewardServerError(Exception):
    """The server failed in a way that it did not foresee."""

    def __init__(self, message: str, field: str | None = None) -> None:
        """
        Args:
            message: one line for whoever sent the request. A part that somebody else wrote
                belongs in `sar.errors.quote`; what is too long all the same is cut.
            field: the field of the request at fault, such as `labels[3].grader`.
        """
        super().__init__(shorten(message, MAX_MESSAGE_CHARS))
        self.field = None if field is None else shorten(field)


class InvalidRequest(RewardServerError):
    """The request cannot be answered as it is. Sending it again will not help."""


class CheckpointRefused(RewardServerError):
    """The checkpoint is broken or not the policy's. The weights in service stay."""


class CheckpointIncomplete(CheckpointRefused):
    """A file of the checkpoint is missing, cut off or not readable. The weights in service stay."""


class CheckpointNotLoaded(RewardServerError):
    """Loading the checkpoint failed for a reason that may pass, such as too little memory. The
    weights in service stay."""


class Busy(RewardServerError):
    """A checkpoint is being loaded, and another one waits. Send the request again later."""


class Unauthorized(RewardServerError):
    """The request carries no key, or a wrong one."""


class Forbidden(RewardServerError):
    """This server was not started with what the request needs, or the request comes from a foreign
    web page or is for a foreign host."""


class TooLarge(RewardServerError):
    """The request exceeds a limit of this server. Sending it again will not help."""


class Overloaded(RewardServerError):
    """The server already holds as much as it may: waiting tokens, or bodies not yet parsed."""


class NotReady(RewardServerError):
    """The model is not loaded yet, or the server is stopping."""


class ClientGone(RewardServerError):
    """The client closed the connection before its rollouts were scored. They were skipped."""


class RequestTimedOut(RewardServerError):
    """The rewards were not ready in time. The answer comes before the client gives up by itself."""


class ScoringFailed(RewardServerError):
    """The scorer or a grader failed. This is the server's fault, and no reward."""
