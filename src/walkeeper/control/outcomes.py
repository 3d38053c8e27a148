"""How an error of ours looks over HTTP: its status and its ``{"msg": ...}``.

This is the one table of status codes.  Where it differs from Neon's, which says 500 for most: a timeline that is
busy with itself and a keeper without descriptors, or without room for WAL, are 503, one that is in the way or was deleted is 409, a request that cannot be meant is 400.

Does not log and does not send.
"""

from http import HTTPStatus

from walkeeper.control.models import ErrorJson
from walkeeper.errors import (
    AccessDenied,
    Deleted,
    DiskLimit,
    Exists,
    InvalidTimeline,
    NotFound,
    NotMember,
    OutOfFiles,
    PeerError,
    Refused,
    StillMember,
    TimelineUnavailable,
    WalkeeperError,
)


def status_of(error: WalkeeperError) -> HTTPStatus:
    match error:
        case PeerError() | InvalidTimeline():
            return HTTPStatus.BAD_REQUEST
        case AccessDenied() | NotMember() | StillMember():
            return HTTPStatus.FORBIDDEN
        case NotFound():
            return HTTPStatus.NOT_FOUND
        case Exists() | Refused():
            return HTTPStatus.CONFLICT
        case TimelineUnavailable() | OutOfFiles() | DiskLimit():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            return HTTPStatus.INTERNAL_SERVER_ERROR


def body_of(error: WalkeeperError) -> ErrorJson:
    """The text of an error with the prefix that Neon's clients look for."""
    match error, status_of(error):
        case Deleted(), _:
            return ErrorJson(msg=f"NotFound: timeline {error.ttid} deleted")
        case NotFound(), _:
            return ErrorJson(msg=f"NotFound: timeline {error.ttid} not found")
        case _, HTTPStatus.FORBIDDEN:
            return ErrorJson(msg=f"Forbidden: {error}")
        case _, HTTPStatus.CONFLICT:
            return ErrorJson(msg=f"Conflict: {error}")
        case _:
            return ErrorJson(msg=str(error))
