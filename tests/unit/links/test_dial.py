"""What is said of connections that cannot be begun."""

import errno
import socket

import pytest

from walkeeper.links.conninfo import ConnectionInfo
from walkeeper.links.dial import dial_socket, why_not_dialled

REFUSED = OSError(errno.ECONNREFUSED, "Error connecting to ('127.0.0.1', 1): Connection refused")


def caused(*causes: OSError) -> OSError:
    """As Trio tells of several addresses that have all failed."""
    error = OSError("all attempts to connect to k1:5454 failed")
    error.__cause__ = ExceptionGroup("", causes)
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (REFUSED, "Connection refused"),
        (caused(REFUSED, REFUSED), "Connection refused"),
        (
            caused(REFUSED, OSError(errno.EHOSTUNREACH, "No route to host")),
            "Connection refused, No route to host",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("odd"), "odd"),
    ],
)
def test_the_reason_is_one_line_without_the_address(error: OSError, why: str) -> None:
    assert why_not_dialled(error) == why


@pytest.mark.parametrize("host", ["a..b", 300 * "x"])
async def test_what_cannot_be_a_hosts_name_is_none_that_is_known(host: str) -> None:
    with pytest.raises(OSError) as caught:
        await dial_socket(ConnectionInfo(host, 1))
    assert why_not_dialled(caught.value) == "Name or service not known"
