"""The JSON of the management API, field by field as Neon's clients expect it, and its translation to our values.

LSNs travel as strings (``0/16B3748``; a number is refused), ids as 32 hexadecimal digits of either case, unknown
fields are ignored and missing optional ones are null.  Field names are the wire's; ours are in the vocabulary.

Source: Neon's safekeeper_api (models, membership).  Does not know HTTP.
"""

from typing import Annotated, Any, TypeVar

import msgspec

from walkeeper.acceptor.administration import HearOfPeer
from walkeeper.acceptor.state import AcceptorState
from walkeeper.errors import Malformed
from walkeeper.formats.control_file import control_file_as_json
from walkeeper.formats.replication import StandbyStatusUpdate, format_time
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, format_lsn, parse_lsn
from walkeeper.membership import KEEPERS_MAX, Configuration, Generation, Member
from walkeeper.messages import NO_HOT_STANDBY, PageserverFeedback, ServerInfo
from walkeeper.terms import Term
from walkeeper.timeline.registry import Sender
from walkeeper.timeline.timeline import TimelineStatistics

T = TypeVar("T")

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{32}$", max_length=32)]  # Python's $ lets a line feed pass
LsnText = Annotated[str, msgspec.Meta(pattern=r"^\s*[0-9a-fA-F]{1,8}/[0-9a-fA-F]{1,8}\s*$")]
U32 = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
Port = Annotated[int, msgspec.Meta(ge=0, lt=2**16)]

WAL_SEG_SIZE_DEFAULT = 16 * 1024 * 1024


def require_u64(name: str, value: int) -> None:
    """Raises ValueError above 64 bits, which msgspec's own bounds do not reach."""
    if value >= 2**64:
        raise ValueError(f"Expected `int` < 2**64 - at `$.{name}`")


class Json(msgspec.Struct, frozen=True):
    """A JSON object."""


class NodeStatus(Json, frozen=True):
    id: U64


class MemberJson(Json, frozen=True):
    id: U64
    host: str
    pg_port: Port

    def __post_init__(self) -> None:
        require_u64("id", self.id)


MembersJson = Annotated[tuple[MemberJson, ...], msgspec.Meta(max_length=KEEPERS_MAX)]


class ConfigurationJson(Json, frozen=True):
    generation: U32
    members: MembersJson
    new_members: MembersJson | None = None


class CreateTimelineJson(Json, frozen=True):
    """Without ``commit_lsn`` the timeline starts with everything committed, at ``start_lsn``."""

    tenant_id: Hex
    timeline_id: Hex
    mconf: ConfigurationJson
    pg_version: U32
    start_lsn: LsnText
    system_id: U64 | None = None
    wal_seg_size: U32 | None = None
    commit_lsn: LsnText | None = None

    def __post_init__(self) -> None:
        require_u64("system_id", self.system_id or 0)

    @property
    def ttid(self) -> TenantTimelineId:
        return TenantTimelineId(TenantId.parse(self.tenant_id), TimelineId.parse(self.timeline_id))

    @property
    def server(self) -> ServerInfo:
        wal_seg_size = WAL_SEG_SIZE_DEFAULT if self.wal_seg_size is None else self.wal_seg_size
        return ServerInfo(self.pg_version, self.system_id or 0, wal_seg_size)


class TimelineName(Json, frozen=True):
    tenant_id: str
    timeline_id: str


class WalReceiverJson(Json, frozen=True):
    conn_id: int
    status: str


class TimelineStatus(Json, frozen=True):
    """``mconf``, ``acceptor_state`` and ``pg_info`` are as in the JSON of a control file, but for ``epoch``.

    ``peers`` is there for Neon's clients, which insist on it; ``is_whole`` is ours.
    """

    tenant_id: str
    timeline_id: str
    mconf: dict[str, Any]
    acceptor_state: dict[str, Any]
    pg_info: dict[str, Any]
    flush_lsn: str
    timeline_start_lsn: str
    local_start_lsn: str
    commit_lsn: str
    backup_lsn: str
    peer_horizon_lsn: str
    remote_consistent_lsn: str
    walreceivers: list[WalReceiverJson]
    walsenders: list[dict[str, Any]]
    is_whole: bool
    peers: tuple[()] = ()


class DeletedJson(Json, frozen=True):
    """``dir_existed``: whether there was anything of the timeline on the disk."""

    dir_existed: bool


class Utilization(Json, frozen=True):
    timeline_count: int


class TaskJson(Json, frozen=True):
    """One task.  ``depth``: how many started each other above it; ``marks``: those of its log lines; ``frames``: where it
    waits, innermost last."""

    name: str
    depth: int
    marks: dict[str, str]
    frames: list[str]


class TasksJson(Json, frozen=True):
    """``is_cut``: there are more."""

    tasks: list[TaskJson]
    is_cut: bool


class Digest(Json, frozen=True):
    sha256: str


class TermBumpJson(Json, frozen=True):
    """Without ``term``: to the next one."""

    term: U64 | None = None

    def __post_init__(self) -> None:
        require_u64("term", self.term or 0)


class TermBumped(Json, frozen=True):
    previous_term: int
    current_term: int


class MembershipSwitched(Json, frozen=True):
    previous_conf: dict[str, Any]
    current_conf: dict[str, Any]
    last_log_term: int
    flush_lsn: str


class PeerJson(Json, frozen=True):
    """What a keeper says of itself to others.  What is not here is not needed, and ignored."""

    last_log_term: U64 = 0
    commit_lsn: LsnText = "0/0"
    backup_lsn: LsnText = "0/0"
    peer_horizon_lsn: LsnText = "0/0"
    remote_consistent_lsn: LsnText = "0/0"

    @property
    def request(self) -> HearOfPeer:
        return HearOfPeer(
            Term(self.last_log_term),
            parse_lsn(self.commit_lsn),
            parse_lsn(self.backup_lsn),
            parse_lsn(self.peer_horizon_lsn),
            parse_lsn(self.remote_consistent_lsn),
        )


class ErrorJson(Json, frozen=True):
    msg: str


# -- in -----------------------------------------------------------------------------------------------------


def parse_json(body: bytes, shape: type[T]) -> T:
    """Raises Malformed when ``body`` is empty, not JSON, or not of this shape."""
    if not body:
        raise Malformed("missing request body")
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"failed to parse json request: {error}") from None


def configuration_of(wire: ConfigurationJson) -> Configuration:
    """Raises Malformed for a configuration that contradicts itself."""
    try:
        new_members = None if wire.new_members is None else _members_of(wire.new_members)
        return Configuration(Generation(wire.generation), _members_of(wire.members), new_members)
    except ValueError as error:
        raise Malformed(f"failed to parse json request: {error}") from None


def _members_of(wire: tuple[MemberJson, ...]) -> tuple[Member, ...]:
    return tuple(Member(NodeId(member.id), member.host, member.pg_port) for member in wire)


# -- out ----------------------------------------------------------------------------------------------------


Answer = Json | list[TimelineName] | dict[str, DeletedJson] | None
"""What a route answers with; None, where there is nothing to say, becomes ``null``."""


def encode_json(value: Answer) -> bytes:
    return msgspec.json.encode(value)


def timeline_name(ttid: TenantTimelineId) -> TimelineName:
    return TimelineName(tenant_id=str(ttid.tenant_id), timeline_id=str(ttid.timeline_id))


def timeline_status(statistics: TimelineStatistics, state: AcceptorState) -> TimelineStatus:
    """``state``: that of ``statistics``, which must have one.  Positions in memory go before those on disk."""
    ahead, shown = state.ahead, control_file_as_json(state.kept)
    return TimelineStatus(
        tenant_id=shown["tenant_id"],
        timeline_id=shown["timeline_id"],
        mconf=shown["mconf"],
        acceptor_state=shown["acceptor_state"] | {"epoch": state.last_log_term},
        pg_info=shown["server"],
        flush_lsn=format_lsn(state.flush_lsn),
        timeline_start_lsn=shown["timeline_start_lsn"],
        local_start_lsn=shown["local_start_lsn"],
        commit_lsn=format_lsn(ahead.commit_lsn),
        backup_lsn=format_lsn(ahead.backup_lsn),
        peer_horizon_lsn=format_lsn(ahead.peer_horizon_lsn),
        remote_consistent_lsn=format_lsn(ahead.remote_consistent_lsn),
        is_whole=state.is_whole,
        walreceivers=[
            WalReceiverJson(conn_id=receiver.client.connection, status=receiver.status.value)
            for receiver in statistics.receivers
        ],
        walsenders=walsenders(statistics),
    )


def membership_switched(before: AcceptorState, after: AcceptorState) -> MembershipSwitched:
    return MembershipSwitched(
        previous_conf=control_file_as_json(before.kept)["mconf"],
        current_conf=control_file_as_json(after.kept)["mconf"],
        last_log_term=after.last_log_term,
        flush_lsn=format_lsn(after.flush_lsn),
    )


def walsenders(statistics: TimelineStatistics) -> list[dict[str, Any]]:
    return [_walsender(statistics.ttid, sender) for sender in statistics.senders]


def _walsender(ttid: TenantTimelineId, sender: Sender) -> dict[str, Any]:
    client = sender.client
    shown = {
        "ttid": str(ttid),
        "addr": client.peer,
        "conn_id": client.connection,
        "appname": client.application_name,
    }
    return {"Vanilla": shown | {"feedback": _feedback(sender)}}


def _feedback(sender: Sender) -> dict[str, Any]:
    """Whoever has not reported as a standby is taken for a pageserver."""
    if not sender.is_standby:
        return {"Pageserver": _pageserver_feedback(sender.pageserver or PageserverFeedback())}
    status = sender.status or StandbyStatusUpdate(INVALID_LSN, INVALID_LSN, INVALID_LSN, 0)
    hot_standby = sender.hot_standby or NO_HOT_STANDBY
    reply = {
        "write_lsn": format_lsn(status.write_lsn),
        "flush_lsn": format_lsn(status.flush_lsn),
        "apply_lsn": format_lsn(status.apply_lsn),
        "reply_ts": status.client_time,
        "reply_requested": status.reply_requested,
    }
    needed = {"ts": hot_standby.timestamp, "xmin": hot_standby.xmin, "catalog_xmin": hot_standby.catalog_xmin}
    return {"Standby": {"reply": reply, "hs_feedback": needed}}


def _pageserver_feedback(feedback: PageserverFeedback) -> dict[str, Any]:
    return {
        "current_timeline_size": feedback.current_timeline_size,
        "last_received_lsn": format_lsn(feedback.last_received_lsn),
        "disk_consistent_lsn": format_lsn(feedback.disk_consistent_lsn),
        "remote_consistent_lsn": format_lsn(feedback.remote_consistent_lsn),
        "replytime": format_time(feedback.reply_time),
        "shard_number": feedback.shard_number,
        "corruption_detected": feedback.corruption_detected,
    }
