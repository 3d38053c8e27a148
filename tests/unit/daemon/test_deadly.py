"""Signals that end the process at once, as whoever started it sees them."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from walkeeper.daemon.deadly import make_deadly
make_deadly(signal.Signals(int(sys.argv[1])), int(sys.argv[2]))
os.kill(os.getpid(), int(sys.argv[1]))
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("pid", "code"), [(1, 128), (4711, 0)])
def test_number_1_ends_itself_and_others_are_ended_by_the_kernel(
    number: signal.Signals, pid: int, code: int
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(int(number)), str(pid)]
    done = subprocess.run(command, check=False, timeout=30)
    assert done.returncode == (code + number if code else -number)
