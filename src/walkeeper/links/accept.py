"""The next client of a listening socket.

Want of descriptors or memory is no reason to stop listening: connections that end give some back.

Does not know who listens, or how many clients are too many.  Source: accept(2).
"""

import errno
import socket
from typing import Final

import trio

from walkeeper.links.throttle import throttled_logger

OUT_OF_FILES_SECONDS: Final = 0.1
"""Pause after accept has failed for want of descriptors or memory."""

_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

log = throttled_logger()


async def accept_client(listener: socket.socket) -> socket.socket:
    """The next client of ``listener``, which is non-blocking and listens.

    Cancellation: while it waits, nobody is lost.
    """
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF:
                log.error("cannot accept connections", error=error.strerror)
                await trio.sleep(OUT_OF_FILES_SECONDS)
            continue  # the client has gone again, or another process was faster
        return sock
