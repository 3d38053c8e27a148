"""The command line: finds the command, settles its options, runs it, and turns errors into exit codes.

A user's mistake is one line on standard error and never a traceback.  A command's room is loaded when the command
runs: short-lived commands, and ``--help``, do not wait for what only the daemon needs.  What is loaded for all of
them is the standard library and little of ours: PostgreSQL starts ``fetch`` for every segment.

Does not do the work of any command, and does not know exit codes: ``exits`` does.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import walkeeper
from walkeeper.daemon import exits
from walkeeper.daemon.config import (
    ApproachConfig,
    CheckOptions,
    CommitLsnOptions,
    ConfigOptions,
    FencingConfig,
    FetchOptions,
    InspectOptions,
    KeptWalConfig,
    ProposeOptions,
    ServeConfig,
    StatusOptions,
    SyncOptions,
    TopOptions,
    WhyBlockedOptions,
)
from walkeeper.daemon.options import (
    FlagParser,
    Source,
    add_flags,
    effective,
    options_of,
    read_environment,
    read_flags,
    settle,
)
from walkeeper.errors import ConfigError, Corrupt, PeerError, ServerError, StorageError, Unreachable
from walkeeper.formats.segments import WAL_SEG_SIZE_MIN, is_beside_wal, parse_segment_name
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.sidecar.name import DEFAULT_NAME

if TYPE_CHECKING:
    from walkeeper.links.conninfo import ConnectionInfo
    from walkeeper.tools.top import Round

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Command(Generic[Config]):
    """A subcommand: ``shape`` is the dataclass that declares its options; ``run`` raises WalkeeperError, or returns an
    exit code where what was found is no error of the command; None is 0.

    ``report`` says what went wrong, be it with the options, and which exit code that is.
    """

    name: str
    summary: str
    shape: type[Config]
    run: Callable[[Config], int | None]
    report: Callable[[BaseException], int] = exits.report


def serve(config: ServeConfig) -> None:
    from walkeeper.daemon.run import dump_control_file, run_keeper

    if config.dump_control_file is not None:
        _print(dump_control_file(config.dump_control_file), end="")
    else:
        run_keeper(config)


def approach(config: ApproachConfig) -> None:
    """Have connections to keepers be as was said.  Raises ConfigError for files that cannot be used."""
    from walkeeper.links.keeper_tls import KeeperTls, demand_tls
    from walkeeper.links.token import show_token

    show_token(config.token_path)
    demand_tls(KeeperTls(config.sslmode, config.sslrootcert or "", config.sslcert or "", config.sslkey or ""))


def propose(options: ProposeOptions) -> None:
    import structlog
    import trio

    from walkeeper.daemon import memory
    from walkeeper.daemon.logs import configure_logs
    from walkeeper.daemon.stop import until_stopped
    from walkeeper.sidecar.config import ProposeConfig
    from walkeeper.sidecar.run import run_sidecar

    metrics = None
    if options.http is None:
        configure_logs(options.log.format, sys.stdout)
    else:
        from walkeeper.control.sidecar_metrics import SidecarMetrics

        metrics = SidecarMetrics(walkeeper.__version__)
        configure_logs(options.log.format, sys.stdout, metrics.log_event, count_lost=metrics.log_line_lost)
    memory.settle()
    approach(options.quorum.approach)
    config = ProposeConfig(
        primary=_primary(options.primary),
        keepers=options.quorum.keepers,
        tenant_id=options.quorum.tenant_id,
        timeline_id=options.quorum.timeline_id,
        slot_name=options.slot_name,
        unsafe_slot=options.unsafe_slot,
    )
    if options.http is not None and metrics is not None:
        from walkeeper.daemon.sidecar import run_with_port

        run_with_port(config, options.http, metrics)
    else:
        trio.run(until_stopped, partial(run_sidecar, config, log=structlog.get_logger()))


def sync(options: SyncOptions) -> None:
    _print(format_lsn(_synced_lsn(options.wal, options.fencing)))


def _synced_lsn(wal: KeptWalConfig, fencing: FencingConfig) -> Lsn:
    import structlog
    import trio

    from walkeeper.daemon.logs import configure_logs
    from walkeeper.tools.sync import SyncConfig, sync_keepers

    configure_logs(fencing.log.format, sys.stderr)
    approach(wal.quorum.approach)
    server = fencing.server.info(wal.system_id)
    config = SyncConfig(wal.quorum.keepers, wal.ttid(), fencing.timeout_seconds, server)
    lsn = trio.run(partial(sync_keepers, config, log=structlog.get_logger()))
    if not lsn:
        raise ConfigError(
            f"no keeper that answered has WAL of {config.ttid}: is it the right name, or --system-id?"
        )
    return lsn


def commit_lsn(options: CommitLsnOptions) -> None:
    import trio

    from walkeeper.tools.commit_lsn import read_commit_lsn

    wal = options.wal
    if options.is_exact:
        lsn = _synced_lsn(wal, options.fencing)
    else:
        approach(wal.quorum.approach)
        lsn = trio.run(read_commit_lsn, wal.quorum.keepers, wal.ttid())
    _print(format_lsn(lsn))


def fetch(options: FetchOptions) -> None:
    from walkeeper.tools.fetch import fetch as fetch_file
    from walkeeper.tools.fetch_config import FetchConfig

    wal = options.wal
    approach(wal.quorum.approach)
    config = FetchConfig(
        keepers=wal.quorum.keepers,
        ttid=wal.ttid(),
        file=options.file,
        path=options.path,
        server=options.server.info(wal.system_id),
        system_id=wal.system_id,
        ahead_bytes=options.ahead_bytes,
        may_be_unfinished=not options.no_partial,
        timeout_seconds=options.timeout_seconds,
    )
    fetch_file(config, warn=exits.tell)


def status(options: StatusOptions) -> None:
    import trio

    from walkeeper.tools.status import ask_status
    from walkeeper.tools.status_report import as_json, as_text

    approach(options.wal.quorum.approach)
    found = trio.run(ask_status, options.wal.quorum.keepers, options.wal.ttid())
    _print(as_json(found) if options.as_json else as_text(found))
    found.require_majority()


def top(options: TopOptions) -> None:
    import trio

    from walkeeper.links.http_get import trust_authorities
    from walkeeper.links.token import show_token
    from walkeeper.tools.top import ask_overviews, watch_overviews
    from walkeeper.tools.top_report import CLEAR, as_json, as_screen

    show_token(options.token_path)
    trust_authorities(options.authorities)
    in_colour = sys.stdout.isatty()
    if options.once or options.as_json:
        now = trio.run(ask_overviews, options.keepers, options.find)
        width = shutil.get_terminal_size().columns
        _print(as_json(now) if options.as_json else as_screen(now, None, width, in_colour=in_colour))
        now.require_well()
        return

    def show(now: "Round", before: "Round | None") -> None:
        width, height = shutil.get_terminal_size()
        clear, rows = (CLEAR, height - 1) if in_colour else ("", None)
        if not _print(f"{clear}{as_screen(now, before, width, rows, in_colour=in_colour)}"):
            raise SystemExit(0)

    trio.run(watch_overviews, options.keepers, options.find, options.interval_seconds, show)


def why_blocked(options: WhyBlockedOptions) -> int:
    import trio

    from walkeeper.tools.diagnosis import diagnose, is_blocked
    from walkeeper.tools.diagnosis_report import as_json, as_text
    from walkeeper.tools.why_blocked import WhyConfig, ask_everybody, ask_who_is_there, ask_whose_wal

    approach(options.wal.quorum.approach)
    primary = None if options.primary is None else _primary(options.primary)
    sidecar = (primary and primary.application_name) or DEFAULT_NAME
    config = WhyConfig(options.wal.quorum.keepers, primary, sidecar, options.slot_name)
    system_id, silence = None, ""
    if primary is not None and not options.wal.says_whose:
        try:
            system_id = trio.run(ask_whose_wal, primary)
        except (Unreachable, ServerError, PeerError) as error:
            silence = str(error)
    if silence:
        facts = trio.run(ask_who_is_there, config, silence)
    else:
        facts = trio.run(ask_everybody, config, options.wal.ttid(system_id))
    findings = diagnose(facts)
    _print(as_json(facts, findings) if options.as_json else as_text(facts, findings))
    return 1 if is_blocked(findings) else 0


def check(options: CheckOptions) -> int:
    import trio

    from walkeeper.ids import TenantTimelineId
    from walkeeper.storage.disk import OsDisk
    from walkeeper.tools.check_disk import check_disk
    from walkeeper.tools.check_keepers import check_keepers
    from walkeeper.tools.check_primary import check_primary
    from walkeeper.tools.verdicts import Grade, Verdict, as_json, as_text, graded

    options.require_something()
    approach(options.approach)
    verdicts: list[Verdict] = []
    system_id = options.system_id
    if options.path is not None:
        verdicts += check_disk(OsDisk(), options.path)
    if options.primary is not None:
        primary = _primary(options.primary)
        found, told_id = trio.run(check_primary, primary, primary.application_name or DEFAULT_NAME)
        verdicts += found
        system_id = system_id or told_id
    if options.keepers is not None:
        ttid = None if system_id is None else TenantTimelineId.of_system(system_id)
        verdicts += trio.run(check_keepers, options.keepers, ttid, system_id, walkeeper.__version__)
    _print(as_json(verdicts) if options.as_json else as_text(verdicts))
    is_bad = graded(Grade.FAIL, verdicts) or (options.is_strict and graded(Grade.WARN, verdicts))
    return 1 if is_bad else 0


def config(options: ConfigOptions) -> None:
    from walkeeper.daemon.show import as_json, as_toml, read_wish

    wish = read_wish(options.words)
    command, flags, variables = read_sources(wish.arguments, os.environ, COMMANDS)
    settled = list(effective(command.shape, flags, variables))
    _print(as_json(command.name, settled) if wish.as_json else as_toml(settled))


def _primary(conninfo: str) -> "ConnectionInfo":
    """The variables that libpq knows count, too.  Raises ConfigError."""
    import getpass

    from walkeeper.links.conninfo import parse_conninfo

    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        login = None
    return parse_conninfo(conninfo, os.environ, login=login)


def inspect(options: InspectOptions) -> None:
    from walkeeper.tools.inspect import Wanted, inspect_directory
    from walkeeper.tools.inspect_report import ProgressLine, as_json, as_text

    progress = ProgressLine(sys.stderr)
    found = inspect_directory(options.path, Wanted(options.tenant_id, options.timeline_id), progress)
    progress.clear()
    _print(as_json(found) if options.as_json else as_text(found))
    if count := found.count_problems():
        raise Corrupt(f"{count} problem{'s' if count > 1 else ''} found")


def _print(text: str, end: str = "\n") -> bool:
    """All of it at once, before anything that is said on standard error; a reader that has left (``| head``) is fine.

    Says whether there still is one.  Raises StorageError.
    """
    try:
        print(text, end=end, flush=True)
        return True
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits
        if isinstance(error, BrokenPipeError):
            return False
        raise StorageError(f"the answer cannot be written: {error.strerror}") from None


COMMANDS: Sequence[Command[Any]] = (
    Command("serve", "keep WAL: the daemon that writers and readers connect to", ServeConfig, serve),
    Command("propose", "push an unmodified PostgreSQL's WAL to keepers: the sidecar", ProposeOptions, propose),
    Command("sync", "fence every writer, make a majority whole, print where the WAL ends", SyncOptions, sync),
    Command(
        "fetch", "restore_command: give PostgreSQL a file of WAL", FetchOptions, fetch, exits.report_to_recovery
    ),
    Command(
        "commit-lsn",
        "print the highest LSN that a majority reports as committed: a lower bound, unless with --sync",
        CommitLsnOptions,
        commit_lsn,
    ),
    Command(
        "status", "show the keepers, how far they are, and who streams to and from them", StatusOptions, status
    ),
    Command("top", "show keepers again and again: timelines, lags, and what is wrong with them", TopOptions, top),
    Command(
        "why-blocked",
        "say why commits wait: who has not acknowledged, since when, and what can be done",
        WhyBlockedOptions,
        why_blocked,
    ),
    Command(
        "config", "show what a command would run with, and where each value comes from", ConfigOptions, config
    ),
    Command(
        "check",
        "look, before it matters: at a directory and its disk, a primary's settings, keepers",
        CheckOptions,
        check,
    ),
    Command(
        "inspect", "look at a data directory: what is there, and is every record whole", InspectOptions, inspect
    ),
)


def main() -> NoReturn:
    """The ``walkeeper`` program."""
    sys.exit(run_command(sys.argv[1:], os.environ))


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], commands: Sequence[Command[Any]] = COMMANDS
) -> int:
    """Run the command that ``arguments`` name; return the exit code."""
    report = _reporter(arguments, commands)
    try:
        command, config = read_command(arguments, environment, commands)
        return command.run(config) or 0
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  the boundary of a restore_command
        return report(error)


def _reporter(arguments: Sequence[str], commands: Sequence[Command[Any]]) -> Callable[[BaseException], int]:
    """Who says what went wrong.  A command whose words ask for a file of WAL was meant to be a restore_command."""
    named = next((each for each in commands if [each.name] == list(arguments[:1])), None)
    if named is None:
        return exits.report_no_command
    if named.report is exits.report and any(_is_archived(os.path.basename(word)) for word in arguments):
        return exits.report_to_misled_recovery
    return named.report


def _is_archived(name: str) -> bool:
    return is_beside_wal(name) or parse_segment_name(name, WAL_SEG_SIZE_MIN) is not None


def read_command(
    arguments: Sequence[str], environment: Mapping[str, str], commands: Sequence[Command[Any]]
) -> tuple[Command[Any], Any]:
    """The command and its options.  Raises ConfigError; leaves by SystemExit after ``--help`` and ``--version``."""
    command, flags, variables = read_sources(arguments, environment, commands)
    return command, settle(command.shape, flags, variables)


def read_sources(
    arguments: Sequence[str], environment: Mapping[str, str], commands: Sequence[Command[Any]]
) -> tuple[Command[Any], Source, Source]:
    """The command, and what command line and environment say.  As ``read_command``."""
    parser = FlagParser(prog="walkeeper", description="Keeps PostgreSQL WAL safe on a quorum of machines.")
    parser.add_argument("-V", "--version", action="version", version=f"walkeeper {walkeeper.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for each in commands:
        own = parsers.add_parser(each.name, help=each.summary, description=each.summary)
        add_flags(own, options_of(each.shape))
    said = parser.parse_args(arguments)
    command = next(each for each in commands if each.name == said.command)
    variables = read_environment(environment, (option for each in commands for option in options_of(each.shape)))
    return command, read_flags(said, options_of(command.shape)), variables
