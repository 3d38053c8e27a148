"""Tokens on the HTTP port: who shows none, or one that is no good, is told so and no more.

Does not know keys: ``auth`` does.  Source: Neon's ``libs/http-utils``, statuses and words as in its newest version.
"""

from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from walkeeper.auth.claims import Claims, Verify

CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


def claims_of(request: Request, verify: Verify) -> Claims:
    """What the request's token says.  Raises HTTPException 401 if there is none, and AccessDenied."""
    header = request.headers.get("authorization")
    if header is None:
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "Unauthorized: missing authorization header", CHALLENGE)
    word, _, token = header.partition(" ")
    if word != "Bearer" or not token or " " in token:
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "Unauthorized: malformed authorization header", CHALLENGE)
    return verify(token.encode("latin-1"))
