"""systemd's unit files as data, and what they forbid, in force.

Purpose: read a unit, and run a program under its rules for system calls, without a systemd that runs.
Rules: standard library, `systemd-analyze` for what its groups of calls are, and the C library libseccomp, by which systemd
forbids calls itself.  What is forbidden kills here, whatever SystemCallErrorNumber says: nobody overlooks that.

Run as a script it becomes the program, under the unit's rules:
    python3 tests/units.py UNIT PROGRAM [WORD ...]
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
"""Of seccomp.h: SCMP_ACT_ALLOW, SCMP_ACT_KILL_PROCESS, and SCMP_ACT_ERRNO without its number."""

EQUAL, MASKED_EQUAL = 4, 7
"""Of seccomp.h: SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ."""

WRITE, EXECUTE = 2, 4
"""Of sys/mman.h: PROT_WRITE, PROT_EXEC."""

FAMILIES = 46
"""Of sockets, as sys/socket.h counts them."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Its settings, in order; one that is set twice is there twice, since some of them add up."""

    settings: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Continued lines are not used here."""
        lines = [line for line in text.splitlines() if line and line[0] not in "#;["]
        return cls(tuple((name, value) for name, _, value in (line.partition("=") for line in lines)))

    def all(self, name: str) -> list[str]:
        """Every value of that name."""
        return [value for each, value in self.settings if each == name]

    def __getitem__(self, name: str) -> str:
        """The value, "" if it is not set.  Raises KeyError where it is set twice."""
        match self.all(name):
            case []:
                return ""
            case [value]:
                return value
            case _:
                raise KeyError(name)

    def seconds(self, name: str) -> float:
        """A time span in seconds."""
        return float("inf") if self[name] == "infinity" else float(self[name].removesuffix("s"))


def allowed_calls(unit: Unit) -> set[str]:
    """The names of the system calls that SystemCallFilter leaves."""
    groups = groups_of_calls()
    allowed: set[str] = set()
    for value in unit.all("SystemCallFilter"):
        calls = {call for word in value.removeprefix("~").split() for call in calls_of(word, groups)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def groups_of_calls() -> dict[str, list[str]]:
    """What each group consists of: calls and groups, as systemd tells it."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    groups: dict[str, list[str]] = {}
    members: list[str] = []
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) != 1:
            continue  # a title, or nothing
        if line.startswith("@"):
            groups[words[0]] = members = []
        else:
            members.append(words[0])
    return groups


def calls_of(word: str, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A call is itself; a group is everything in it."""
    if word.startswith("@"):
        for member in groups[word]:
            yield from calls_of(member, groups)
    else:
        yield word


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp.h: which argument, how, and with what."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a call.  With a comparison: of one with such an argument."""

    action: int
    call: str
    comparison: Comparison | None = None


def load(default: int, rules: Iterable[Rule]) -> None:
    """Put this process, and what it becomes, under these rules besides those that there are.  Raises OSError."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    for rule in rules:
        number = library.seccomp_syscall_resolve_name(rule.call.encode())
        if number < 0:
            continue  # this machine has no such call
        given = () if rule.comparison is None else (rule.comparison,)
        code = library.seccomp_rule_add_array(
            context, ctypes.c_uint32(rule.action), number, len(given), (Comparison * len(given))(*given)
        )
        if code:
            raise OSError(-code, f"no rule for {rule.call}")
    code = library.seccomp_load(context)
    if code:
        raise OSError(-code, "the filter is not loaded")


def restrict(unit: Unit) -> None:
    """Put this process under the unit's rules for families of sockets, memory and system calls."""
    allowed = {int(getattr(socket, name)) for name in unit["RestrictAddressFamilies"].split()}
    families = [Comparison(0, EQUAL, family, 0) for family in range(FAMILIES) if family not in allowed]
    load(ALLOW, [Rule(ERROR | errno.EAFNOSUPPORT, "socket", each) for each in families])
    if unit["MemoryDenyWriteExecute"] == "yes":
        both = Comparison(2, MASKED_EQUAL, WRITE | EXECUTE, WRITE | EXECUTE)
        later = Comparison(2, MASKED_EQUAL, EXECUTE, EXECUTE)
        refused = (("mmap", both), ("mprotect", later), ("pkey_mprotect", later))
        load(ALLOW, [Rule(ERROR | errno.EPERM, call, each) for call, each in refused])
    load(KILL, [Rule(ALLOW, call) for call in sorted(allowed_calls(unit))])


if __name__ == "__main__":
    restrict(Unit.parse(Path(sys.argv[1]).read_text()))
    os.execv(sys.argv[2], sys.argv[2:])
