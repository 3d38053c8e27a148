"""What a PostgreSQL client is told about an error: its code and its text.

Does not know where the error came from.  Source: PostgreSQL, "PostgreSQL Error Codes".
"""

from typing import Final

from walkeeper.errors import (
    AccessDenied,
    BadCommand,
    DiskFull,
    LoginFailed,
    MustUseTls,
    NotAllowed,
    NotFound,
    OutOfFiles,
    OutOfMemory,
    PeerError,
    Refused,
    StorageError,
    TimelineUnavailable,
    TooManyClients,
    WalkeeperError,
    WalNotAvailable,
)
from walkeeper.formats.backend import ErrorResponse

SUCCESSFUL_COMPLETION: Final = "00000"
INTERNAL_ERROR: Final = "XX000"
FEATURE_NOT_SUPPORTED: Final = "0A000"

_CODES: Final[tuple[tuple[type[WalkeeperError], str], ...]] = (
    (PeerError, "08P01"),  # protocol_violation
    (LoginFailed, "28P01"),  # invalid_password
    (NotAllowed, "42501"),  # insufficient_privilege
    (MustUseTls, INTERNAL_ERROR),  # as Neon; our writers try again
    (AccessDenied, INTERNAL_ERROR),  # as Neon; our writers try again, with the token that they have then
    (BadCommand, "42601"),  # syntax_error
    (WalNotAvailable, "58P01"),  # undefined_file
    (TooManyClients, "53300"),  # too_many_connections
    (OutOfMemory, "53200"),  # out_of_memory
    (Refused, "55000"),  # object_not_in_prerequisite_state
    (NotFound, "42704"),  # undefined_object
    (TimelineUnavailable, "57P03"),  # cannot_connect_now
    (DiskFull, "53100"),  # disk_full
    (OutOfFiles, "53000"),  # insufficient_resources
    (StorageError, "58030"),  # io_error
)
"""The first that fits."""


def error_response(error: WalkeeperError) -> ErrorResponse:
    """The error as a client is told it."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL_ERROR)
    return ErrorResponse(str(error), code)
