"""Tells systemd how we are.

Source: sd_notify(3).  Without NOTIFY_SOCKET, nobody is told.
"""

import socket
from collections.abc import Mapping
from typing import Final

import structlog

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"

log = structlog.stdlib.get_logger()


def notify(state: str, environment: Mapping[str, str]) -> None:
    """Send ``state`` to the service manager.  A failure is a warning: whoever waits for us will notice."""
    name = environment.get("NOTIFY_SOCKET")
    if not name:
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError as error:
        log.warning("cannot notify the service manager", state=state, error=str(error))
