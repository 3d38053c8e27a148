"""Any control file survives being written and read; any other bytes are refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.errors import Malformed
from walkeeper.formats.control_file import (
    ControlFile,
    PartialSegment,
    UploadStatus,
    encode_control_file,
    parse_control_file,
)
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import LSN_MAX, Lsn
from walkeeper.membership import NO_CONFIGURATION, Configuration, Generation, Member
from walkeeper.messages import ServerInfo
from walkeeper.terms import Term, TermHistory, TermLsn

U16, U32, U64 = ((1 << bits) - 1 for bits in (16, 32, 64))

lsns = st.integers(0, LSN_MAX).map(Lsn)
terms = st.integers(0, U64).map(Term)
ids = st.binary(min_size=16, max_size=16)
names = st.text("a1.-_\0é漢🐘", max_size=80)
hosts = names.map(lambda name: name.replace("\0", ""))
members = st.lists(
    st.builds(Member, st.integers(0, U64).map(NodeId), hosts, st.integers(0, U16)),
    max_size=4,
    unique_by=lambda member: member.id,
).map(tuple)
configurations = st.builds(
    Configuration, st.integers(1, U32).map(Generation), members.filter(bool), st.none() | members
) | st.just(NO_CONFIGURATION)


@st.composite
def histories(draw: st.DrawFn) -> TermHistory:
    at = sorted(draw(st.lists(terms, max_size=5, unique=True)))
    starts = sorted(draw(st.lists(lsns, min_size=len(at), max_size=len(at))))
    return TermHistory(tuple(map(TermLsn, at, starts)))


control_files = st.builds(
    ControlFile,
    st.builds(TenantTimelineId, ids.map(TenantId), ids.map(TimelineId)),
    st.builds(ServerInfo, st.integers(0, U32), st.integers(0, U64), st.integers(0, U32)),
    configuration=configurations,
    term=terms,
    term_history=histories(),
    proposer_uuid=ids,
    timeline_start_lsn=lsns,
    local_start_lsn=lsns,
    commit_lsn=lsns,
    backup_lsn=lsns,
    peer_horizon_lsn=lsns,
    remote_consistent_lsn=lsns,
    partial_backup=st.lists(
        st.builds(PartialSegment, st.sampled_from(UploadStatus), names, lsns, lsns, terms), max_size=3
    ).map(tuple),
    evicted_at=st.none() | lsns,
)


@given(control_files)
def test_what_was_written_is_read(control_file: ControlFile) -> None:
    assert parse_control_file(encode_control_file(control_file)) == control_file


@given(
    control_files.filter(lambda control_file: control_file.configuration != NO_CONFIGURATION),
    st.tuples(st.integers(0, U64), st.integers(0, U32)),
)
def test_with_a_generation_the_time_of_creation_is_kept(
    control_file: ControlFile, created_at: tuple[int, int]
) -> None:
    stamped = replace(control_file, created_at=created_at)
    assert parse_control_file(encode_control_file(stamped)) == stamped


@given(st.binary(max_size=600))
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_control_file(data)
