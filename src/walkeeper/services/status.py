"""What a keeper tells of a timeline in answer to ``SHOW walkeeper_status``: one JSON object, for ``walkeeper status``.

LSNs are text as PostgreSQL prints them.  Fields may be added, and none changes its meaning.
Does not know HTTP, whose JSON is Neon's.
"""

import json
from typing import Any

from walkeeper.acceptor.state import AcceptorState
from walkeeper.ids import NodeId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.timeline.registry import Client, Receiver, Sender
from walkeeper.timeline.timeline import TimelineStatistics


def describe_timeline(node_id: NodeId, statistics: TimelineStatistics, state: AcceptorState) -> str:
    """``state``: that of ``statistics``, which must have one."""
    return json.dumps(
        {
            "node_id": node_id,
            "term": state.term,
            "last_log_term": state.last_log_term,
            "is_whole": state.is_whole,
            "timeline_start_lsn": format_lsn(state.kept.timeline_start_lsn),
            "local_start_lsn": format_lsn(state.kept.local_start_lsn),
            "flush_lsn": format_lsn(state.wal.flush_lsn),
            "commit_lsn": format_lsn(state.ahead.commit_lsn),
            "receivers": [_describe_receiver(each) for each in statistics.receivers],
            "senders": [_describe_sender(each) for each in statistics.senders],
        }
    )


def _describe_client(client: Client) -> dict[str, Any]:
    return {
        "connection": client.connection,
        "peer": client.peer or None,
        "application_name": client.application_name,
    }


def _describe_receiver(receiver: Receiver) -> dict[str, Any]:
    return _describe_client(receiver.client) | {"status": receiver.status.value}


def _describe_sender(sender: Sender) -> dict[str, Any]:
    """A pageserver's positions are told in a standby's words: received, consistent on its disk, remotely consistent."""
    standby, pageserver = sender.status, sender.pageserver
    reported: tuple[Lsn | None, ...] = (None, None, None)
    if standby is not None:
        reported = (standby.write_lsn, standby.flush_lsn, standby.apply_lsn)
    elif pageserver is not None:
        reported = (pageserver.last_received_lsn, pageserver.disk_consistent_lsn, pageserver.remote_consistent_lsn)
    names = ("write_lsn", "flush_lsn", "apply_lsn")
    positions = {name: None if lsn is None else format_lsn(lsn) for name, lsn in zip(names, reported, strict=True)}
    return _describe_client(sender.client) | {"sent_lsn": format_lsn(sender.sent_lsn)} | positions
