"""The sidecar's life: leadership after leadership, until it is fenced or told that it cannot work.

What may pass by itself (the network, a primary that restarts, keepers that elect another) is logged and tried again,
with growing pauses.  What will not ends it: ``ConfigError`` and ``Fenced``, each a single error with one line to say.
"""

from dataclasses import replace

import trio

from walkeeper.errors import ConfigError, Fenced, PeerError, ServerError, StartOver, Unreachable, leaves
from walkeeper.links.backoff import Backoff
from walkeeper.links.log import Log
from walkeeper.links.passfile import with_password
from walkeeper.sidecar.account import Account
from walkeeper.sidecar.config import ProposeConfig
from walkeeper.sidecar.lookout import Lookout
from walkeeper.sidecar.session import Standing, run_session

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
"""Commits wait meanwhile, so not long."""

_PASSING = (Unreachable, ServerError, PeerError, StartOver)
_FINAL = (Fenced, ConfigError)


async def run_sidecar(config: ProposeConfig, *, log: Log, account: Account | None = None) -> None:
    """Stream from the primary to the keepers until cancelled.  ``account`` is written for those who look.

    Raises ConfigError (exit code 2) or Fenced (3).
    Cancellation: at any time; what keepers have acknowledged, they have.
    """
    account = account or Account(len(config.keepers))
    lookout = Lookout(config, account, log)
    standing = Standing()
    backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
    while True:
        started_at = trio.current_time()
        try:
            await run_session(_with_password(config, log), standing, account, lookout, log)
        except (*_FINAL, *_PASSING, BaseExceptionGroup) as error:
            why = str(_tolerable(error))
            account.session_ended(why)
            log.warning("session ended", why=why)
        if trio.current_time() - started_at > LONGEST_PAUSE_SECONDS:
            backoff.succeeded()
        await trio.sleep(backoff.next_pause_seconds())


def _with_password(config: ProposeConfig, log: Log) -> ProposeConfig:
    """The password file is read each time, so that a changed password needs no restart."""
    info = with_password(config.primary, "replication", lambda why: log.warning("password file not used", why=why))
    return replace(config, primary=info)


def _tolerable(error: BaseException) -> BaseException:
    """The error that ended a session, if another session may do better; raises the one that says otherwise."""
    found = list(leaves(error))
    for leaf in found:
        if isinstance(leaf, _FINAL):
            raise leaf
    for leaf in found:
        if not isinstance(leaf, _PASSING):
            raise error
    return found[0]
