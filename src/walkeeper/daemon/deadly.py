"""Signals that end the process at once, also process number 1, as a container's is.

The kernel spares number 1 every signal that it does not handle: what ends other processes by itself, a number 1 has to do.
It does so when Python comes to it: not while a call of the main thread to the disk stands still, where the kernel would end
others.
"""

import os
import signal
from types import FrameType
from typing import Final

NUMBER_1: Final = 1

CODE_OF_SIGNALS: Final = 128
"""As shells report a program that a signal has ended: that, and the signal's number."""


def make_deadly(number: signal.Signals, pid: int) -> None:
    """From now on ``number`` ends this process, whose number is ``pid``."""
    signal.signal(number, _end if pid == NUMBER_1 else signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(CODE_OF_SIGNALS + number)
