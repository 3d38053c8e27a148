"""The command line: finds the command, settles its options, runs it, and turns errors into exit codes.

A user's mistake is one line on standard error and never a traceback.  A command's room is loaded when the command
runs: short-lived commands, and ``--help``, do not wait for what only the daemon needs.

Exit codes: 0 done, 1 failed, 2 wrong options or environment, 3 fenced by a newer term, 4 durability lost.
Does not do the work of any command.
"""

import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

import walkeeper
from walkeeper.daemon.config import ProposeOptions, ServeConfig, SyncOptions
from walkeeper.daemon.options import FlagParser, add_flags, options_of, read_environment, read_flags, settle
from walkeeper.errors import ConfigError, DurabilityLost, Fenced, WalkeeperError, leaves

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Command(Generic[Config]):
    """A subcommand: ``shape`` is the dataclass that declares its options; ``run`` raises WalkeeperError."""

    name: str
    summary: str
    shape: type[Config]
    run: Callable[[Config], None]


def serve(config: ServeConfig) -> None:
    from walkeeper.daemon.run import dump_control_file, run_keeper

    if config.dump_control_file is not None:
        sys.stdout.write(dump_control_file(config.dump_control_file))
    else:
        run_keeper(config)


def propose(options: ProposeOptions) -> None:
    import structlog
    import trio

    from walkeeper.daemon import memory
    from walkeeper.daemon.logs import configure_logs
    from walkeeper.daemon.stop import until_stopped
    from walkeeper.links.conninfo import parse_conninfo
    from walkeeper.sidecar.config import ProposeConfig
    from walkeeper.sidecar.run import run_sidecar

    configure_logs(options.log.format, sys.stdout)
    memory.settle()
    config = ProposeConfig(
        primary=parse_conninfo(options.primary, os.environ, login=getpass.getuser()),
        keepers=options.quorum.keepers,
        tenant_id=options.quorum.tenant_id,
        timeline_id=options.quorum.timeline_id,
        slot_name=options.slot_name,
        unsafe_slot=options.unsafe_slot,
    )
    trio.run(until_stopped, partial(run_sidecar, config, log=structlog.get_logger()))


def sync(options: SyncOptions) -> None:
    import structlog
    import trio

    from walkeeper.daemon.logs import configure_logs
    from walkeeper.lsn import format_lsn
    from walkeeper.tools.sync import SyncConfig, sync_keepers

    configure_logs(options.log.format, sys.stderr)
    config = SyncConfig(options.quorum.keepers, options.ttid(), options.timeout_seconds, options.server())
    lsn = trio.run(partial(sync_keepers, config, log=structlog.get_logger()))
    if not lsn:
        raise ConfigError(
            f"no keeper that answered has WAL of {config.ttid}: is it the right name, or --system-id?"
        )
    print(format_lsn(lsn))


COMMANDS: Sequence[Command[Any]] = (
    Command("serve", "keep WAL: the daemon that writers and readers connect to", ServeConfig, serve),
    Command("propose", "push an unmodified PostgreSQL's WAL to keepers: the sidecar", ProposeOptions, propose),
    Command("sync", "fence every writer, make a majority whole, print where the WAL ends", SyncOptions, sync),
)


def main() -> NoReturn:
    """The ``walkeeper`` program."""
    sys.exit(run_command(sys.argv[1:], os.environ))


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], commands: Sequence[Command[Any]] = COMMANDS
) -> int:
    """Run the command that ``arguments`` name; return the exit code."""
    try:
        command, config = read_command(arguments, environment, commands)
        command.run(config)
    except (WalkeeperError, BaseExceptionGroup) as error:
        gravest = _gravest(error)
        if gravest is None:
            raise
        print(f"walkeeper: {gravest}", file=sys.stderr)
        return exit_code(gravest)
    except KeyboardInterrupt:
        return 130  # as shells report a program that Ctrl-C ended
    return 0


def read_command(
    arguments: Sequence[str], environment: Mapping[str, str], commands: Sequence[Command[Any]]
) -> tuple[Command[Any], Any]:
    """The command and its options.  Raises ConfigError; leaves by SystemExit after ``--help`` and ``--version``."""
    parser = FlagParser(prog="walkeeper", description="Keeps PostgreSQL WAL safe on a quorum of machines.")
    parser.add_argument("-V", "--version", action="version", version=f"walkeeper {walkeeper.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for each in commands:
        own = parsers.add_parser(each.name, help=each.summary, description=each.summary)
        add_flags(own, options_of(each.shape))
    said = parser.parse_args(arguments)
    command = next(each for each in commands if each.name == said.command)
    variables = read_environment(environment, (option for each in commands for option in options_of(each.shape)))
    return command, settle(command.shape, read_flags(said, options_of(command.shape)), variables)


def exit_code(error: WalkeeperError) -> int:
    match error:
        case ConfigError():
            return 2
        case Fenced():
            return 3
        case DurabilityLost():
            return 4
        case _:
            return 1


def _gravest(error: BaseException) -> WalkeeperError | None:
    """What to tell of an error, or of several at once; None if one of them has no name and needs its traceback."""
    found = list(leaves(error))
    named = [leaf for leaf in found if isinstance(leaf, WalkeeperError)]
    if len(named) < len(found):
        return None
    return max(named, key=exit_code)
