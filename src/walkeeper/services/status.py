"""What a keeper tells of a timeline in answer to ``SHOW walkeeper_status``, and of itself to ``SHOW walkeeper_about``.

One JSON object each, for ``walkeeper status`` and its kin.

LSNs are text as PostgreSQL prints them, moments are RFC 3339 by this keeper's clock, which is told, too.  Fields may be
added, and none changes its meaning.
Does not know HTTP, whose JSON is Neon's.
"""

import json
import time
from datetime import UTC, datetime
from typing import Any

from walkeeper import __version__
from walkeeper.acceptor.state import AcceptorState
from walkeeper.ids import NodeId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.timeline.registry import Client, Receiver, Sender
from walkeeper.timeline.timeline import TimelineStatistics


def describe_keeper(node_id: NodeId) -> str:
    return json.dumps({"node_id": node_id, "version": __version__, "now": _moment(time.time())})


def describe_timeline(node_id: NodeId, statistics: TimelineStatistics, state: AcceptorState) -> str:
    """``state``: that of ``statistics``, which must have one."""
    account = statistics.account
    return json.dumps(
        {
            "node_id": node_id,
            "now": _moment(time.time()),
            "generation": state.kept.configuration.generation,
            "term": state.term,
            "last_log_term": state.last_log_term,
            "is_whole": state.is_whole,
            "timeline_start_lsn": format_lsn(state.kept.timeline_start_lsn),
            "local_start_lsn": format_lsn(state.kept.local_start_lsn),
            "flush_lsn": format_lsn(state.wal.flush_lsn),
            "commit_lsn": format_lsn(state.ahead.commit_lsn),
            "flushed_at": _moment(account.flushed_at),
            "committed_at": _moment(account.committed_at),
            "refused": account.refused and {"why": account.refused.why, "at": _moment(account.refused.at)},
            "receivers": [_describe_receiver(each) for each in statistics.receivers],
            "senders": [_describe_sender(each) for each in statistics.senders],
        }
    )


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


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
