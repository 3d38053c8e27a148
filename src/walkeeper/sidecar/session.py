"""One leadership: from a primary that answers to the first thing that ends it.

::

    examine the primary -> ask keepers what is committed -> campaign -> prove the junction -> lead

    primary ==WAL==> window ==> keepers
    primary <=commit_lsn= quorum

The window holds everything that is not committed; when it is full of that, the primary waits.  One record longer than
the window is let in whole, since nothing can be acknowledged before its end.

Nothing survives a session but the term: whatever fails is tried again from the beginning, with all its proofs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import trio

from walkeeper.errors import ConfigError, ServerError, Unreachable, leaves
from walkeeper.formats.commands import encode_start_replication
from walkeeper.links.ensemble import Ensemble
from walkeeper.links.keeper import KeptTimeline
from walkeeper.links.keeper_link import Introduction
from walkeeper.links.log import Log
from walkeeper.links.postgres import Connection, time_limit
from walkeeper.links.primary import (
    Primary,
    ask_flush_lsn,
    connect_primary,
    describe,
    examine,
    first_lsn_to_keep,
)
from walkeeper.links.wal_stream import WalStream
from walkeeper.links.window import Window
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import NO_CONFIGURATION
from walkeeper.messages import ProposerGreeting, Slice
from walkeeper.proposer.election import Election
from walkeeper.proposer.proposer import Proposer, Stage
from walkeeper.sidecar.account import Account
from walkeeper.sidecar.config import ProposeConfig
from walkeeper.sidecar.junction import Junction, Proof, fetch_junction
from walkeeper.sidecar.leadership import Leadership
from walkeeper.sidecar.lookout import Lookout
from walkeeper.sidecar.majority import watch_majority
from walkeeper.sidecar.reports import Reports
from walkeeper.sidecar.slot import Slot
from walkeeper.sidecar.survey import ask_commit_lsn
from walkeeper.terms import Term

STATUS_SECONDS: Final = 1.0
"""How often the primary hears from us although nothing changed; PostgreSQL gives up a standby after 60 s."""

PRIMARY_SILENCE_SECONDS: Final = 30.0
"""It is asked to answer every STATUS_SECONDS, and does so even while it writes nothing."""

ANSWER_SECONDS: Final = 30.0
"""For a primary to answer a few questions; making a slot may have to wait for its disk."""

SLOT_WAIT_SECONDS: Final = 30.0
"""For a predecessor, which has just been fenced, to let go of the slot."""

SLOT_PAUSE_SECONDS: Final = 0.5

_OBJECT_IN_USE: Final = "55006"
_WAL_REMOVED: Final = ("58P01", "55000")
"""What PostgreSQL says when WAL that was asked for is gone, or its slot was invalidated."""


@dataclass(slots=True)
class Standing:
    """What outlives a session: the highest term of a writer that has led, None before that."""

    held_term: Term | None = None


async def run_session(
    config: ProposeConfig, standing: Standing, account: Account, lookout: Lookout, log: Log
) -> None:
    """Lead until something ends it; never returns normally.

    Raises, perhaps in groups, what the links raise.
    """
    async with connect_primary(config.primary, config.application_name) as connection:
        with time_limit(ANSWER_SECONDS, connection.name):
            primary = await examine(connection)
            log.info("primary connected", primary=str(config.primary), **describe(primary))
            await lookout.look_at_settings(connection)
            slot = Slot(connection, config.primary, config.slot_name, primary.server.pg_major, config.unsafe_slot)
            await slot.check()
        await _Session(config, primary, connection, slot, standing, account, log).run(lookout)


class _Session:
    """The parts of one leadership and how they are tied together."""

    def __init__(
        self,
        config: ProposeConfig,
        primary: Primary,
        connection: Connection,
        slot: Slot,
        standing: Standing,
        account: Account,
        log: Log,
    ) -> None:
        self._config = config
        self._primary = primary
        self._connection = connection
        self._slot = slot
        self._standing = standing
        self._account = account
        self._log = log
        self._ttid = config.ttid(primary.server.system_id)
        self._window = Window()
        self._committed = trio.Event()
        self._stream: WalStream | None = None
        self._heard_at = inf
        self._reports = Reports(connection)
        self._proposer = Proposer(
            [str(address) for address in config.keepers],
            ProposerGreeting(self._ttid, NO_CONFIGURATION, primary.server),
            config.pace,
            standing.held_term,
        )
        self._introduction = Introduction(self._ttid, config.application_name, self._check_keeper)
        self._ensemble = Ensemble(
            config.keepers, self._introduction, self._proposer, self._window, self._on_commit, log
        )
        self._leadership = Leadership(self._ensemble, self._window)

    async def run(self, lookout: Lookout) -> None:
        self._account.begin(self._leadership, self._primary.flush_lsn)
        try:
            await self._require_committed()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ensemble.run)
                nursery.start_soon(watch_majority, self._ensemble, self._log)
                nursery.start_soon(lookout.watch, self._primary.server.pg_major)
                election = await self._ensemble.wait_elected()
                self._account.elections += 1
                junction = await self._find_junction(election)
                lookout.look_soon()
                stream = await self._start_stream(junction)
                nursery.start_soon(self._report_regularly)
                await self._pour(stream, junction)
        except* ServerError as group:
            self._explain(group)
            raise
        finally:
            self._account.end()
            if self._standing.held_term is not None:
                self._standing.held_term = max(self._standing.held_term, self._proposer.term)

    # -- before leading ---------------------------------------------------------------------------------------

    def _check_keeper(self, keeper: str, kept: KeptTimeline | None) -> None:
        if kept is None:
            return
        if kept.system_id and kept.system_id != self._primary.server.system_id:
            raise ConfigError(
                f"{keeper} keeps {self._ttid} of another cluster: system identifier {kept.system_id}, the primary's is"
                f" {self._primary.server.system_id}; check --primary, or name a new --timeline"
            )
        if kept.end_lsn and kept.tli and kept.tli != self._primary.tli:
            raise ConfigError(
                f"{keeper} keeps {self._ttid} of PostgreSQL's timeline {kept.tli}, the primary is on {self._primary.tli}, as after"
                " a promotion: name a new --timeline for it and take a base backup, or bring back the former primary"
            )

    async def _require_committed(self) -> None:
        """Raises ConfigError when the primary lacks what keepers say is committed."""
        commit_lsn = await ask_commit_lsn(self._config.keepers, self._introduction)
        if commit_lsn > self._primary.flush_lsn:
            with time_limit(ANSWER_SECONDS, self._connection.name):
                await self._require_wal_up_to(commit_lsn)

    async def _require_wal_up_to(self, lsn: Lsn) -> Lsn:
        """How far the primary is, asked anew: it may have gone on with whoever has led until now.

        Raises ConfigError when that is below ``lsn``.
        """
        flush_lsn = await ask_flush_lsn(self._connection)
        if lsn > flush_lsn:
            raise ConfigError(
                f"the keepers have WAL up to {format_lsn(lsn)}, ahead of the primary's end at {format_lsn(flush_lsn)}: it has"
                " lost commits that they have; restore it from them"
            )
        return flush_lsn

    async def _find_junction(self, election: Election) -> Junction:
        """Where the primary has to continue.  Raises ConfigError if it cannot."""
        with time_limit(ANSWER_SECONDS, self._connection.name):
            flush_lsn = await self._require_wal_up_to(election.start_lsn)
            # A slot that has never kept WAL does so from now on.
            kept_from = await self._slot.prepare(self._log) or flush_lsn
        if election.is_first:
            first_lsn = await first_lsn_to_keep(self._connection, self._primary, kept_from, flush_lsn)
            self._log.info("the quorum is empty", term=election.term, keeping_from=format_lsn(first_lsn))
            return Junction(first_lsn)
        self._log.info("elected", term=election.term, quorum_ends_at=format_lsn(election.start_lsn))
        donor = self._config.keepers[election.donor]
        return await fetch_junction(
            donor, self._ttid, self._config.application_name, election, self._primary.server
        )

    async def _start_stream(self, junction: Junction) -> WalStream:
        """Ask the primary for WAL.  Raises ConfigError when it has it no more, or the slot belongs to another."""
        command = encode_start_replication(
            junction.compare_from, slot=self._config.slot_name, tli=self._primary.tli
        )
        deadline = trio.current_time() + SLOT_WAIT_SECONDS
        while True:
            try:
                with time_limit(ANSWER_SECONDS, self._connection.name):
                    await self._connection.start_copy(command)
                return WalStream(self._connection, junction.compare_from)
            except ServerError as error:
                if error.sqlstate != _OBJECT_IN_USE:
                    raise
                if trio.current_time() > deadline:
                    raise ConfigError(f"{error}: end the other one, or name another slot (--slot)") from error
            await trio.sleep(SLOT_PAUSE_SECONDS)

    def _explain(self, failures: BaseExceptionGroup[ServerError]) -> None:
        """Raises ConfigError if the primary has no more what it was asked for, which it may say at any time."""
        for error in leaves(failures):
            assert isinstance(error, ServerError)
            if error.server == self._connection.name and error.sqlstate in _WAL_REMOVED:
                raise ConfigError(
                    f"{error}: the keepers' WAL cannot be continued; drop the slot {self._config.slot_name}, name a new"
                    " --timeline and take a base backup"
                )

    # -- leading ----------------------------------------------------------------------------------------------

    async def _pour(self, stream: WalStream, junction: Junction) -> None:
        """WAL from the primary into the window, and from there to whoever takes it."""
        self._window.start_at(junction.lsn)
        self._stream = stream
        proof = Proof(junction, self._primary.server)
        self._lead_when(proof, junction.lsn)
        while True:
            await self._wait_room()
            delivery = await stream.receive()
            self._heard_at = trio.current_time()
            wal = proof.let_through(delivery.slices)
            self._lead_when(proof, junction.lsn)
            self._keep(wal)
            if delivery.reply_requested:
                self._report()

    def _lead_when(self, proof: Proof, lsn: Lsn) -> None:
        if proof.may_lead and self._proposer.stage is Stage.WON:
            self._standing.held_term = self._proposer.term
            self._ensemble.lead(lsn)
            self._log.info("leading", term=self._proposer.term, from_lsn=format_lsn(lsn))

    def _keep(self, wal: Sequence[Slice]) -> None:
        if wal:
            is_due = self._account.is_due(self._heard_at)
            for piece in wal:
                self._window.append(piece)
            if is_due:
                self._watch_newest()
            self._window.shrink(self._config.window_bytes, self._proposer.commit_lsn)
            self._ensemble.wal_grew(self._window.end_lsn)

    def _watch_newest(self) -> None:
        """Until a majority has it.  That may already be so: of the padding behind an XLOG_SWITCH."""
        if self._window.end_lsn > self._proposer.commit_lsn:
            self._account.arrived(self._window.end_lsn, self._heard_at)

    async def _wait_room(self) -> None:
        """Until the window may grow.  Whoever waits here makes the primary wait."""
        while self._window.cost_bytes > self._config.window_bytes and not self._leadership.is_inside_record():
            self._heard_at = inf
            self._committed = trio.Event()
            await self._committed.wait()
            self._window.shrink(self._config.window_bytes, self._proposer.commit_lsn)

    # -- reporting --------------------------------------------------------------------------------------------

    def _on_commit(self, commit_lsn: Lsn) -> None:
        self._committed.set()
        self._report()
        self._account.committed(commit_lsn, self._window.end_lsn)  # after the primary knows

    def _report(self, *, reply_requested: bool = False) -> None:
        """Tell the primary what a quorum has fsynced, and nothing more (invariant 37)."""
        if self._stream is None:
            return
        # Behind an XLOG_SWITCH keepers are at the next segment before its padding has come.
        lsn = min(self._proposer.commit_lsn, self._stream.next_lsn)
        self._reports.status(lsn, reply_requested=reply_requested)

    async def _report_regularly(self) -> None:
        """Raises Unreachable when the primary has said nothing for long, although asked to."""
        while True:
            await trio.sleep(STATUS_SECONDS)
            with trio.move_on_after(STATUS_SECONDS):
                await self._connection.wait_sent()  # what the kernel has no room for goes before the next report
            self._report(reply_requested=True)
            self._pass_on_hot_standby()
            if trio.current_time() - self._heard_at > PRIMARY_SILENCE_SECONDS:
                raise Unreachable(self._connection.name, f"it has said nothing for {PRIMARY_SILENCE_SECONDS:g} s")

    def _pass_on_hot_standby(self) -> None:
        """Tell the primary what standbys behind the keepers need, once the keepers have told us."""
        needed = self._proposer.hot_standby(trio.current_time())
        if needed is not None:
            self._reports.hot_standby(needed)
