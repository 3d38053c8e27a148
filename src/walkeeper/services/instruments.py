"""Who counts what happens on the keeper's port.  The daemon's metrics do, a simulation does not.

None of it waits or raises, and what is called for every message costs next to nothing.
"""

from typing import Protocol


class Traffic(Protocol):
    """A connection, of which bytes are counted: a ``Link`` is one."""

    @property
    def received_bytes(self) -> int: ...

    @property
    def sent_bytes(self) -> int: ...


class Instruments(Protocol):
    """What they hear of."""

    def connection_begins(self, traffic: Traffic) -> None: ...

    def connection_identified(
        self, traffic: Traffic, application_name: str | None, availability_zone: str | None
    ) -> None:
        """The client has said who it is, and where."""

    def connection_ends(self, traffic: Traffic) -> None: ...

    def query_received(self, command: str) -> None: ...

    def query_finished(self, command: str) -> None: ...

    def refused(self, error: Exception) -> None: ...

    def message_processed(self, *, is_accepted: bool) -> None:
        """One message of a proposer, or the appends that share a sync."""

    def appends_kept(self, count: int) -> None:
        """So many appends have shared a sync."""

    def acknowledged(self, seconds: float) -> None:
        """From the arrival of WAL to the moment in which the kernel has the answer."""

    def leader_followed(self, seconds: float) -> None:
        """A new leader was accepted, with all that the disk had to do for it."""

    def pageserver_reported(self) -> None: ...
