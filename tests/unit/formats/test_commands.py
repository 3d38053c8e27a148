"""The grammar of simple queries, quirks included."""

import pytest

from walkeeper.errors import BadCommand
from walkeeper.formats.commands import (
    COMMAND_LENGTH_MAX,
    Command,
    IdentifySystem,
    SetDateStyle,
    Show,
    StartReplication,
    StartWalPush,
    TimelineStatus,
    encode_start_recovery,
    encode_start_replication,
    encode_start_wal_push,
    parse_command,
)
from walkeeper.ids import TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.terms import Term


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("START_WAL_PUSH", StartWalPush(2, True)),
        ("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')", StartWalPush(3, True)),
        ("START_WAL_PUSH (proto_version '2', allow_timeline_creation 'false')", StartWalPush(2, False)),
        ("START_WAL_PUSH\t\n(proto_version 3)", StartWalPush(3, True)),
        ("START_WAL_PUSH (proto_version ''3'' and so on, newer 'x')", StartWalPush(3, True)),
        ("START_WAL_PUSH (proto_version '4294967295')", StartWalPush(2**32 - 1, True)),
        ("START_WAL_PUSH (proto_version '0003' ) (to the last parenthesis)", StartWalPush(3, True)),
        ("START_WAL_PUSH (proto_version '3') trailing", StartWalPush(3, True)),
    ],
)
def test_start_wal_push_reads_its_options(text: str, command: Command) -> None:
    assert parse_command(text) == command


@pytest.mark.parametrize(
    "text",
    [
        "START_WAL_PUSH(proto_version '3')",
        "START_WAL_PUSH (proto_version '3'",
        "START_WAL_PUSH proto_version '3'",
        "START_WAL_PUSHED (proto_version '3')",
        "START_WAL_PUSH (proto_version\n'3')",
        "START_WAL_PUSH;",
    ],
)
def test_options_that_do_not_look_like_options_are_silently_defaults(text: str) -> None:
    assert parse_command(text) == StartWalPush(2, True)


@pytest.mark.parametrize(
    "options",
    ["proto_version", "", "proto_version '3',", "newer", "proto_version 'x'", "proto_version '-3'"]
    + ["proto_version '4294967296'", "proto_version ''", "allow_timeline_creation 'yes'"]
    + ["allow_timeline_creation 'TRUE'", "proto_version '" + "9" * 5000 + "'"],
)
def test_start_wal_push_refuses_options_without_or_with_bad_values(options: str) -> None:
    with pytest.raises(BadCommand):
        parse_command(f"START_WAL_PUSH ({options})")


@pytest.mark.parametrize(
    ("text", "lsn", "term"),
    [
        ("START_REPLICATION 0/3000000", 0x3000000, None),
        ("START_REPLICATION SLOT x PHYSICAL a/B", 0xA_0000_000B, None),
        ("START_REPLICATION PHYSICAL 0/1 (term='5')", 1, 5),
        ("START_REPLICATION 0/1 (term='18446744073709551615') and more", 1, 2**64 - 1),
        ("START_REPLICATION PHYSICAL 0/1  (term='5')", 1, None),
        ("START_REPLICATION 0/1 (TERM='5')", 1, None),
        ("START_REPLICATION 0/1 (term='5', x '1')", 1, None),
        ("START_REPLICATION nonsense START_REPLICATION 0/2", 2, None),
    ],
)
def test_start_replication_is_searched_for_and_a_strange_term_ignored(
    text: str, lsn: int, term: int | None
) -> None:
    assert parse_command(text) == StartReplication(Lsn(lsn), None if term is None else Term(term))


@pytest.mark.parametrize(
    ("text", "tli"),
    [
        ("START_REPLICATION 0/1 TIMELINE 1", 1),
        ('START_REPLICATION SLOT "x" PHYSICAL 0/1 TIMELINE 4294967295', 2**32 - 1),
        ("START_REPLICATION 0/1 TIMELINE 1 (term='5')", 1),
        ("START_REPLICATION 0/1  TIMELINE 1", None),
        ("START_REPLICATION 0/1 timeline 1", None),
        ("START_REPLICATION 0/1 TIMELINE x", None),
    ],
)
def test_start_replication_may_say_which_timeline_id_the_client_writes_down_and_then_has_no_term(
    text: str, tli: int | None
) -> None:
    assert parse_command(text) == StartReplication(Lsn(1), tli=None if tli is None else TimelineNumber(tli))


@pytest.mark.parametrize(
    "text",
    [
        "START_REPLICATION",
        "START_REPLICATION SLOT a LOGICAL 0/1",
        "START_REPLICATION  0/1",
        "START_REPLICATION SLOT  0/1",
        "START_REPLICATION 1",
        "START_REPLICATION 123456789/1",
        "START_REPLICATION 0/1 (term='18446744073709551616')",
        "START_REPLICATION 0/1 TIMELINE 4294967296",
        "start_replication 0/1",
    ],
)
def test_start_replication_that_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(BadCommand) as caught:
        parse_command(text)
    assert caught.value.command == text


def test_the_other_commands_are_recognised_by_their_beginning() -> None:
    assert parse_command("IDENTIFY_SYSTEM; and more") == IdentifySystem()
    assert parse_command("TIMELINE_STATUS") == TimelineStatus()


@pytest.mark.parametrize("text", ["SHOW wal_segment_size", "show WAL_SEGMENT_SIZE ;", "Show\twal_segment_size;\n"])
def test_show_names_a_setting(text: str) -> None:
    assert parse_command(text) == Show("wal_segment_size")


def test_psycopg2_may_set_its_date_style() -> None:
    assert parse_command("SET DateStyle TO 'ISO'") == SetDateStyle()


@pytest.mark.parametrize(
    "text", ["", "SELECT 1", "identify_system", "SHOW", "SHOW a b", " START_WAL_PUSH", "JSON_CTRL {}"]
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(BadCommand) as caught:
        parse_command(text)
    assert caught.value.command == text


@pytest.mark.parametrize(
    "text", ["SHOW a" + " " * 100_000 + "b", "START_REPLICATION SLOT " + "x" * 100_000, "X" * 1_000_000]
)
def test_a_long_text_is_refused_in_a_short_one(text: str) -> None:
    with pytest.raises(BadCommand) as caught:
        parse_command(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text", ["START_WAL_PUSH (" + "a b," * 1000 + "a b)", "IDENTIFY_SYSTEM" + " " * COMMAND_LENGTH_MAX]
)
def test_a_text_that_no_client_sends_is_not_read(text: str) -> None:
    """Reading some of them takes a quarter of a second for each MiB."""
    parse_command(text[:COMMAND_LENGTH_MAX])
    with pytest.raises(BadCommand):
        parse_command(text.ljust(COMMAND_LENGTH_MAX + 1))


def test_what_our_clients_send_is_what_neons_send() -> None:
    assert (
        encode_start_wal_push(StartWalPush(3, True))
        == "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')"
    )
    assert encode_start_recovery(Lsn(0x1000001), Term(7)) == "START_REPLICATION PHYSICAL 0/1000001 (term='7')"


def test_our_commands_are_understood_by_ourselves() -> None:
    push = StartWalPush(2, False)
    assert parse_command(encode_start_wal_push(push)) == push
    assert parse_command(encode_start_recovery(Lsn(5), Term(7))) == StartReplication(Lsn(5), Term(7))
    assert parse_command(encode_start_replication(Lsn(5), slot="s", tli=3)) == StartReplication(
        Lsn(5), tli=TimelineNumber(3)
    )


def test_a_slot_is_quoted_for_postgresql() -> None:
    text = encode_start_replication(Lsn(0x3000000), slot='wal"keeper', tli=2)
    assert text == 'START_REPLICATION SLOT "wal""keeper" PHYSICAL 0/3000000 TIMELINE 2'
    assert encode_start_replication(Lsn(0)) == "START_REPLICATION PHYSICAL 0/0"


def test_who_asks_for_a_history_file_is_told_where_it_is() -> None:
    with pytest.raises(BadCommand, match="primary's pg_wal: TIMELINE_HISTORY 2"):
        parse_command("TIMELINE_HISTORY 2")
