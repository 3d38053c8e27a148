"""What ``walkeeper status`` prints: a table for people, JSON for programs.

Rules: names that clients chose for themselves come out in printable characters only.  In the JSON LSNs are text as
PostgreSQL prints them, everything that is not known is null, and fields may be added.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from walkeeper.errors import printable
from walkeeper.formats.commands import INCOMPLETE, WHOLE
from walkeeper.links.poll import Answer, Trouble
from walkeeper.lsn import format_lsn
from walkeeper.membership import majority
from walkeeper.tools.status import KeeperStatus, SenderStatus, Status

Row = Sequence[object]

KEEPER_COLUMNS = ("keeper", "node", "standing", "term", "flushed", "committed", "behind (bytes)")
STREAM_COLUMNS = ("keeper", "stream", "application", "peer", "sent", "flushed", "applied")


def as_json(status: Status) -> str:
    found = status.found
    quorum = {
        "keepers": len(found.results),
        "needed": majority(len(found.results)),
        "answered": len(found.answers),
        "is_reached": found.has_majority,
        "commit_lsn": None if found.commit_lsn is None else format_lsn(found.commit_lsn),
    }
    document = {
        "tenant_id": str(status.ttid.tenant_id),
        "timeline_id": str(status.ttid.timeline_id),
        "keepers": [_keeper_as_json(status, each) for each in found.results],
        "quorum": quorum,
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def _keeper_as_json(status: Status, result: Answer[KeeperStatus] | Trouble) -> dict[str, Any]:
    match result:
        case Trouble(address, why):
            return {"address": str(address), "trouble": why}
        case Answer(address, _, told):
            lag_bytes = status.lag_bytes(told)
            return {"address": str(address), "trouble": None, "lag_bytes": lag_bytes} | msgspec.structs.asdict(
                told
            )


def as_text(status: Status) -> str:
    found = status.found
    keepers = [_keeper_row(status, each) for each in found.answers]
    streams = [row for each in found.answers for row in _stream_rows(each)]
    lines = [
        *_table(KEEPER_COLUMNS, keepers),
        *(_cell(each.why) for each in found.troubles),
        "",
        _quorum_line(status),
    ]
    if streams:
        lines += ["", *_table(STREAM_COLUMNS, streams)]
    return "\n".join(lines)


def _quorum_line(status: Status) -> str:
    found = status.found
    size = len(found.results)
    count = f"{len(found.answers)} of {size} keepers have the timeline, {majority(size)} are needed"
    if found.commit_lsn is None:
        return f"no quorum: {count}"
    return f"committed on a quorum: {format_lsn(found.commit_lsn)} ({count})"


def _keeper_row(status: Status, answer: Answer[KeeperStatus]) -> Row:
    told = answer.told
    lag_bytes = status.lag_bytes(told)
    return answer.address, told.node_id, _standing(told), told.term, told.flush_lsn, told.commit_lsn, lag_bytes


def _standing(told: KeeperStatus) -> str | None:
    match told.is_whole:
        case None:
            return None
        case is_whole:
            return WHOLE if is_whole else INCOMPLETE


def _stream_rows(answer: Answer[KeeperStatus]) -> Iterator[Row]:
    for receiver in answer.told.receivers:
        yield (
            answer.address,
            f"in, {receiver.status.lower()}",
            receiver.application_name,
            receiver.peer,
            "",
            "",
            "",
        )
    for sender in answer.told.senders:
        yield _sender_row(answer, sender)


def _sender_row(answer: Answer[KeeperStatus], sender: SenderStatus) -> Row:
    lsns = (sender.sent_lsn, sender.flush_lsn, sender.apply_lsn)
    return answer.address, "out", sender.application_name, sender.peer, *lsns


def _table(columns: Row, rows: Sequence[Row]) -> list[str]:
    """Lines with columns as wide as they have to be; none if there are no rows."""
    if not rows:
        return []
    cells = [[_cell(value) for value in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def _cell(value: object) -> str:
    return printable("-" if value is None else str(value))
