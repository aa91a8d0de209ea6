"""Keeps one connection to one server: makes it again whenever it breaks, and finds out when it hangs.

    connecting --handshake done--> preparing --prepared--> serving --broken--> waiting --interval--> connecting
    connecting --failed--> waiting

Preparing: predecessors are killed and the owner's hook runs, both before anything else is sent on the connection, so
the server executes their commands first.

`Keeper` is the word of the Elixir library `redlock` for this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from hiredis import pack_command

from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.server_clock import ClockSample, better, time_in
from redlock_cluster.core.text import cut
from redlock_cluster.core.timing import Interval
from redlock_cluster.options import DeploymentOptions, ServerOptions
from redlock_cluster.options.credentials import Login
from redlock_cluster.wire.blocking import call, doing
from redlock_cluster.wire.connection import Connection, Flusher, Upstream
from redlock_cluster.wire.handshake import Facts, Handshake
from redlock_cluster.wire.ports import Clock, ConnectionFailed, IsReplica, Ports
from redlock_cluster.wire.predecessors import Predecessors

__all__ = ["Keeper", "OnConnected", "OnPush"]

_log = logging.getLogger(__name__)

_GRACE: Final = 0.01  # seconds that a suspect connection gets at least

# Nobody waits for what nobody uses, so it need not be known at once that it hangs. Every fifth check leaves little to
# save, and keeps what the interval is set for in proportion; 5 s are what `reconnection_interval_max` is, so that a
# server that hangs is noticed about as late as one that is back; and they are far below what firewalls and address
# translators forget a connection after.
_UNUSED_CHECKS: Final = 5
_UNUSED_LONGEST: Final = 5.0

_QUIET_TURNS: Final = 5
_CLOSING_TURNS: Final = 50  # milliseconds at least

_MOST_SHOWN: Final = 256

_EVERYTHING_CHANGED: Final[list[object]] = [b"invalidate", None]

_TIME: Final = pack_command((b"TIME",))

OnConnected = Callable[["Keeper", Connection, Facts], Awaitable[None]]
"""Prepares a new connection, on which a server said this; must return before it serves."""

OnPush = Callable[["Keeper", list[object]], None]
"""Hears what a server sends of its own accord: a kind, and what belongs to it. Must not raise."""


class Keeper:
    """A connection to one server, kept alive.

    server: where it is
    index: the server's, in its group's order
    options: intervals and time-outs
    ports, flusher: the engine's
    handshake: what is said first
    on_connected: prepares each new connection
    on_push: hears what the server sends of its own accord

    connection: the one that serves, None while there is none
    facts: what the server said on the newest connection, None before the first
    attempted: set once the first attempt has ended
    error: why there is no connection, "" while there is one; last_error: the same, but it stays
    refusals: by kind of command, in what words the server refuses it
    doubt: why the server's grants don't count, "" if they do
    was_replica: it has been one since that was last looked at
    since: engine time of the last change
    latency: seconds that the last health check took (the handshake has one), None before
    measured_at: engine time when it was answered
    reconnects: connections after the first one
    leaving: it ends its connection for good
    """

    def __init__(
        self,
        server: ServerOptions,
        index: int,
        options: DeploymentOptions,
        ports: Ports,
        flusher: Flusher,
        handshake: Handshake,
        on_connected: OnConnected,
        on_push: OnPush,
    ) -> None:
        self.index, self.name = index, server.name
        self.connection: Connection | None = None
        self.attempted = asyncio.Event()
        self.facts: Facts | None = None
        self.error, self.last_error = "not connected yet", ""
        self.refusals: dict[str, str] = {}
        self.doubt, self.was_replica = "", False
        self.latency: float | None = None
        self.measured_at = 0.0
        self.reconnects = 0
        self.leaving = False
        self._clock, self._dial, self._entropy = ports.clock, ports.dial, ports.entropy
        self.since = self._checked_at = self._asked_at = self._clock()
        self._server, self._options, self._flusher = server, options, flusher
        self._handshake, self._on_connected, self._on_push = handshake, on_connected, on_push
        self._interval = Interval(options.reconnection_interval_base, options.reconnection_interval_max)
        self._loop = asyncio.get_running_loop()
        self._upstream: Upstream | None = None
        self._predecessors = Predecessors(self.name)
        self._group: tuple[Keeper, ...] = ()
        self._broken = asyncio.Event()
        checks = min(_UNUSED_CHECKS, max(1, int(_UNUSED_LONGEST / options.health_check_interval)))
        self._unused_due = (checks - 0.5) * options.health_check_interval  # timers are never just on time
        self._suspect: tuple[Connection, int] | None = None
        self._own_heard = -1
        self._sample: ClockSample | None = None
        self._flushed_on: Connection | None = None
        self._closing = False

    # --- for those who send ----------------------------------------------------------------------------------------

    def serve(self, upstream: Upstream) -> None:
        """From now on every connection serves this pipeline."""
        self._upstream = upstream

    def meet(self, group: tuple[Keeper, ...]) -> None:
        """These are the keepers of all servers of its group, its own among them."""
        self._group = group

    def overdue(self, waited: float) -> None:
        """An answer was waited for in vain, so many seconds: after a full server timeout it is silent."""
        if self.connection is not None and waited >= self._options.server_timeout and not self.connection.silent:
            self.connection.fall_silent()
            self._changed()

    def absence(self) -> str:
        """Why this server can't be asked now."""
        connection = self.connection
        if connection is None:
            return self.error
        if connection.silent:
            return f"no answer for over {self._options.server_timeout:g} s"
        return "too many commands wait for its answers"

    @property
    def may_still_land(self) -> bool:
        """Whether what was in flight on an older connection can't be excluded to be executed even now."""
        return self._predecessors.may_still_land

    def queue_open(self) -> None:
        """Queue what is gathered for all connections of its pipeline."""
        if self._upstream is not None:
            self._upstream.queue_open()

    def drain(self) -> asyncio.Future[object] | None:
        """Done when everything that was sent before is answered; None if nothing is awaited."""
        connection = self.connection
        return connection.request("TIME") if connection is not None and connection.waiting else None

    def _changed(self) -> None:
        """The connection came, went or fell silent, or the server refuses what it did before, or no longer."""
        if self._upstream is not None:
            self._upstream.refresh()

    # --- whether the server may have forgotten locks ---------------------------------------------------------------

    def trust(self, doubt: str) -> None:
        """The server's grants don't count from now on, not those either that are on their way; "": they do.

        doubt: why not
        """
        before, self.doubt = self.doubt, doubt
        if doubt and not before and self.connection is not None:
            self.queue_open()
            self.connection.part_series()
        if bool(doubt) is not bool(before):
            self.since = self._clock()
        if doubt != before:
            self._changed()

    # --- what the server refuses -----------------------------------------------------------------------------------

    def note_reply(self, connection: Connection, kind: str, reply: object) -> None:
        """An error means that the server refuses this kind of command, until it carries out one of the same kind.

        kind: what its user calls such commands
        """
        if connection is not self.connection:
            return
        if not isinstance(reply, ErrorReply) or reply.wrong_type:
            if self.refusals.pop(kind, None) is not None and not self.refusals:
                self.since = self._clock()
                self._changed()
        elif reply.read_only:
            self._demoted(reply.text)
        elif reply.code != "NOSCRIPT":
            self._refused(kind, reply.text)

    def _demoted(self, text: str) -> None:
        """The server has become a replica, and its name may lead to another one by now: leave it altogether."""
        for keeper in self._group:
            if keeper.index == self.index:
                keeper.was_replica = True
                if keeper.connection is not None:
                    keeper.connection.abort(text)

    def _refused(self, kind: str, text: str) -> None:
        news = not self.refusals
        self.refusals[kind] = text
        if self.refusal != self.last_error:
            self.last_error = self.refusal
            _log.info("%s refuses commands: %s", cut(self.name), self.refusal)
        if news:
            self.since = self._clock()
            self._changed()

    @property
    def refusal(self) -> str:
        """What the server refuses, in its words; "" while it refuses nothing."""
        return "; ".join(f"{kind}: {text}" for kind, text in [*self.refusals.items()])[:_MOST_SHOWN]  # at one moment

    # --- health ----------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """One health check: ask for `TIME` if that is due; suspect what owed an answer at the last and has given none.

        A check that comes late means that this process stood still and replies may lie unread; so the suspect gets as
        much time again before it is given up.
        """
        before, self._checked_at = self._checked_at, now
        connection = self.connection
        if connection is None:
            return
        due = self._due(connection, before, now)
        if self._suspect == (connection, connection.heard):
            late = now - before - self._options.health_check_interval
            self._loop.call_later(max(late, _GRACE), self._give_up, connection, connection.heard)
        elif due and not connection.full:
            self._asked_at = now
            connection.send(_TIME, _HealthCheck(self, now))
        self._suspect = (connection, connection.heard) if connection.unanswered else None

    def _due(self, connection: Connection, before: float, now: float) -> bool:
        """Whether `TIME` is to be asked for.

        before: engine time of the last check
        """
        used = connection.unanswered > 0 or connection.heard != self._own_heard
        self._own_heard = -1 if connection.unanswered else connection.heard
        if used and self._asked_at <= before:
            return True
        return now - self._asked_at > self._unused_due

    def _give_up(self, connection: Connection, heard: int) -> None:
        if connection.heard == heard:
            connection.abort(f"no answer for {self._options.health_check_interval:g} s")

    def note_time(self, connection: Connection, asked: float, seconds: float | None) -> None:
        """A reply with the server's time in it stands for a health check and is no use of its connection.

        To be called by who hears that reply, at once.

        connection: where it came
        asked: engine time before its command was sent
        seconds: since 1970, on the server's clock; None if it had no time in it after all
        """
        if connection is not self.connection:
            return
        if connection.heard == self._own_heard and not connection.unanswered:
            self._own_heard += 1  # of what has come now this was the last
        self._asked_at = max(self._asked_at, asked)
        self._measured(asked, self._clock(), seconds)

    def _measured(self, asked: float, answered: float, seconds: float | None) -> None:
        self.latency, self.measured_at = answered - asked, answered
        self._sample = None if seconds is None else better(self._sample, ClockSample.of(asked, answered, seconds))

    @property
    def sample(self) -> ClockSample | None:
        """The last look at the server's clock, on this connection."""
        return self._sample

    @property
    def offset(self) -> float | None:
        """Seconds to add to engine time to get the server's (since 1970); None while no connection has told it."""
        return None if (sample := self._sample) is None else sample.offset

    # --- the connection's life -------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Connect, and connect again on the reconnection interval whenever that fails or the connection breaks."""
        failures = 0
        while True:
            try:
                connection = await self._connect()
            except Exception as error:  # noqa: BLE001  whatever dialing raises, the next attempt must come
                self._failed(error)
            else:
                failures = 0
                try:
                    await self._broken.wait()
                except asyncio.CancelledError:
                    await self._leave(connection)
                    raise
            self.attempted.set()
            await asyncio.sleep(self._interval.after(failures, self._entropy.fraction()))
            failures += 1

    def close(self) -> None:
        """The supervisor closes: a cancelled `keep` ends its connection at once."""
        self._closing = True

    async def _leave(self, connection: Connection) -> None:
        """End the connection; not at once if the supervisor was not closed.

        `asyncio.run` cancels all tasks there are when its main one has ended, and those that hold locks are about to
        release them.
        """
        self.leaving = True
        give_up, quiet = self._clock() + self._options.server_timeout, 0
        while not self._closing and connection.alive and quiet < _QUIET_TURNS and self._clock() < give_up:
            quiet = 0 if connection.waiting else quiet + 1
            await asyncio.sleep(0 if quiet else 0.001)
        connection.finish()
        for _ in range(_CLOSING_TURNS):
            if connection.gone:
                return
            await asyncio.sleep(0.001)
        connection.drop()

    async def _connect(self) -> Connection:
        connection = Connection(self._flusher, self.index, self._lost, self._pushed)
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                login = await self._login()
                await self._dial(self._server, connection)
                first = _FirstCheck(self._clock)
                with doing("waiting for its handshake"):
                    facts = await self._handshake.perform(connection, self._server, login, first.ask)
                connection.speak(facts.dialect)
                if connection.alive:
                    self._predecessors.kill(connection, facts)
                    await self._on_connected(self, connection, facts)
            self._serve(connection, facts, first)
        finally:
            if self.connection is not connection:
                connection.abort("the handshake failed")
        return connection

    async def _login(self) -> Login | None:
        """Who logs in now."""
        credentials = self._server.credentials
        if credentials is None or not credentials.blocks:
            return None if credentials is None else credentials.read()
        return await call(credentials.key, credentials.read, "waiting for its credentials")

    def _serve(self, connection: Connection, facts: Facts, first: _FirstCheck) -> None:
        if not connection.alive:
            raise ConnectionFailed(connection.reason)
        self._require_other_than_the_rest(facts)
        self.reconnects += self.facts is not None
        self.connection, self.facts = connection, facts
        self.error, self.since = "", self._clock()
        self._asked_at, self._own_heard = first.asked, connection.heard
        self._measured(first.asked, first.answered, first.seconds)
        connection.serve(self._upstream)
        if self._flushed_on is connection:  # while it was prepared
            self._on_push(self, _EVERYTHING_CHANGED)
        self._changed()
        self._broken.clear()
        self.attempted.set()
        _log.info("connected to %s (%s)", cut(self.name), facts.version or "version unknown")
        if facts.warning:
            _log.warning("%s: %s", cut(self.name), facts.warning)

    def _require_other_than_the_rest(self, facts: Facts) -> None:
        """One server at two addresses would vote twice. What was connected to before says nothing: servers move."""
        for other in self._group:
            known = "" if other.connection is None or other.facts is None else other.facts.run_id
            if known and known == facts.run_id and other.index != self.index:
                raise ConnectionFailed(
                    f"it is the same server as {cut(other.name)} (equal run ids); a group needs servers of their own"
                )

    def _pushed(self, connection: Connection, push: list[object]) -> None:
        if connection is self.connection:
            self._on_push(self, push)
        elif push == _EVERYTHING_CHANGED:
            self._flushed_on = connection

    def _lost(self, connection: Connection) -> None:
        if self.connection is connection:
            self.connection = self._sample = None
            self._predecessors.add(self.facts)
            self.error = self.last_error = connection.reason
            self.since = self._clock()
            self._changed()
            self._broken.set()
            _log.info("lost the connection to %s: %s", cut(self.name), connection.reason)

    def _failed(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        self.was_replica = self.was_replica or isinstance(error, IsReplica)
        if isinstance(error, TimeoutError) and isinstance(error.__cause__, asyncio.CancelledError):
            still = getattr(error.__cause__, "__notes__", ())
            text = ": still ".join(("no connection within the connect timeout", *still[:1]))
        if text != self.error:
            _log.info("can't connect to %s: %s", cut(self.name), text)
            self.error = self.last_error = text
            self._changed()


class _HealthCheck:
    """Hears the answer to a health check."""

    __slots__ = ("_asked", "_keeper")

    def __init__(self, keeper: Keeper, asked: float) -> None:
        self._keeper, self._asked = keeper, asked

    def reply(self, connection: Connection, value: object) -> None:
        self._keeper.note_time(connection, self._asked, time_in(value))

    def lost(self, connection: Connection) -> None:
        pass


class _FirstCheck:
    """The health check within a handshake, of a connection that nobody has yet; arguments as for `note_time`.

    answered: engine time of its reply
    """

    __slots__ = ("_clock", "answered", "asked", "seconds")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.asked = self.answered = clock()
        self.seconds: float | None = None

    def ask(self, connection: Connection) -> None:
        """Queue it."""
        if connection.alive:
            self.asked = self._clock()
            connection.send(_TIME, self)

    def reply(self, connection: Connection, value: object) -> None:
        self.answered, self.seconds = self._clock(), time_in(value)

    def lost(self, connection: Connection) -> None:
        pass
