"""One place in a server's connection pool: a connection, made again for ever when it breaks.

A SET in flight when a connection breaks may still land after a release sent on its successor. So the successor first
kills the old client id on the server, then releases every token still owed, and only then serves rounds; the server
executes one connection's commands in order.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

from hiredis import pack_command

from redlock_cluster.core.dialect import ErrorReply
from redlock_cluster.core.timing import Interval
from redlock_cluster.core.votes import Token
from redlock_cluster.engine.pending import Debt
from redlock_cluster.options import DeploymentOptions, ServerOptions
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.flusher import Outbox
from redlock_cluster.wire.handshake import Greeting, greet
from redlock_cluster.wire.pipeline import Lane
from redlock_cluster.wire.ports import ConnectionFailed, Ports

__all__ = ["Link"]

_log = logging.getLogger(__name__)


_GRACE = 0.01  # seconds that a suspect connection gets at least
_QUIET_TURNS = 5
_CLOSING_TURNS = 50  # milliseconds at least
_MOST_UNKILLED = 100  # of a server that hangs up again and again; older ones count as not killable
_SETTLED_AT_ONCE = 1000  # tokens released in one health check, so that it does not hold up the loop

_TIME = pack_command((b"TIME",))


class Link:
    """A connection to one server, kept alive.

    connection: None while there is none that may serve; lane: where it is; index: the server's place in its group
    greeting: what the server told on the newest connection; attempted: set once the first attempt has ended
    error: why there is no connection, "" while there is one; last_error: stays; since: engine time of the last change
    closing: the supervisor closes, so a cancelled connection ends at once
    latency: seconds the last health check (or the greeting) took; reconnects: connections after the first one
    """

    def __init__(
        self, server: ServerOptions, index: int, options: DeploymentOptions, ports: Ports, outbox: Outbox
    ) -> None:
        self.index, self.name = index, server.name
        self.connection: Connection | None = None
        self.lane: Lane | None = None
        self.attempted = asyncio.Event()
        self.greeting: Greeting | None = None
        self.error, self.last_error = "not connected yet", ""
        self.latency: float | None = None
        self.reconnects = 0
        self.closing = self._kill_refused = False
        self.clock, self._dial, self._entropy = ports.clock, ports.dial, ports.entropy
        self.since = self._checked_at = self.clock()
        self._server, self._options, self._outbox = server, options, outbox
        self._interval = Interval(options.reconnection_interval_base, options.reconnection_interval_max)
        self._debts: dict[tuple[bytes, Token], Debt] = {}
        self._broken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._checked: tuple[Connection | None, int] = (None, 0)
        self._unkilled: dict[int, str] = {}
        self._predecessor_unknown = False

    # --- what rounds use -------------------------------------------------------------------------------------------

    def overdue(self, waited: float) -> None:
        """A vote was waited for in vain: after a full server timeout no round waits for it until it answers again."""
        if self.connection is not None and waited >= self._options.server_timeout and not self.connection.silent:
            self.connection.silent = True
            self._changed()

    def _changed(self) -> None:
        """The connection came, went or fell silent."""
        if self.lane is not None:
            self.lane.refresh()

    def absence(self) -> str:
        """Why this server can't vote now."""
        connection = self.connection
        if connection is None:
            return self.error
        if connection.silent:
            return f"no answer for over {self._options.server_timeout:g} s"
        return "too many commands wait for its answers"

    def release(self, debt: Debt) -> None:
        """Sees to it that a token goes from this server: now, or when the server is reachable again."""
        connection = self.connection
        if connection is None or connection.full:
            self.owe(debt)
        else:
            connection.send(connection.dialect.release(debt.key, debt.token), debt)

    def owe(self, debt: Debt) -> None:
        """Remembers a token to be released when the server is reachable again."""
        self._debts[debt.key, debt.token] = debt

    def flush(self) -> asyncio.Future[object] | None:
        """Sends what is owed; the future is done when everything sent before was answered, None if nothing was."""
        if self.lane is not None:
            self.lane.hand_over()
        self._settle()
        connection = self.connection
        return connection.request("TIME") if connection is not None and connection.pending else None

    @property
    def owed(self) -> int:
        """How many tokens are still to be released on this server."""
        return len(self._debts)

    # --- health ----------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """One health check: asks an idle connection for `TIME`, suspects one that has answered nothing since the last.

        A check that comes late means that this process stood still and replies may lie unread; so the suspect gets as
        much time again before it is given up.
        """
        late = now - self._checked_at - self._options.health_check_interval
        self._checked_at = now
        connection = self.connection
        if connection is None:
            self._forget_expired()
            return
        if self._checked == (connection, connection.heard):
            self._loop.call_later(max(late, _GRACE), self._give_up, connection, connection.heard)
        elif not connection.pending:
            connection.send(_TIME, _Probe(self, now))
        self._checked = (connection, connection.heard)
        self._settle(_SETTLED_AT_ONCE)

    def _give_up(self, connection: Connection, heard: int) -> None:
        if connection.heard == heard:
            connection.abort(f"no answer for {self._options.health_check_interval:g} s")

    def killed(self, client_id: int, refusal: str | None) -> None:
        """A predecessor is gone from the server, or the server refuses to end it."""
        self._unkilled.pop(client_id, None)
        if refusal is not None:
            self._kill_refused = True
            _log.warning(
                "%s refused CLIENT KILL (%s): what is in flight there is released until its ttl", self.name, refusal
            )

    @property
    def may_still_land(self) -> bool:
        """Whether what was in flight on an older connection can't be excluded to land even now."""
        return self._kill_refused

    def probed(self, seconds: float) -> None:
        """A health check was answered after so many seconds."""
        self.latency = seconds

    def _settle(self, most: int | None = None) -> None:
        """Releases what is owed, if there is a connection: all of it, or the oldest so many."""
        self._forget_expired()
        for place in list(islice(self._debts, most)):
            self.release(self._debts.pop(place))

    def _forget_expired(self) -> None:
        now = self.clock()
        for place in [place for place, debt in self._debts.items() if debt.expires_at <= now]:
            del self._debts[place]

    # --- the connection's life -------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Connects, and connects again on the reconnection interval whenever that fails or the connection breaks."""
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

    async def _leave(self, connection: Connection) -> None:
        """Ends the connection; not at once if the supervisor was not closed: `asyncio.run` then cancels all tasks there
        are, and those that hold locks are about to release them.
        """
        give_up, quiet = self.clock() + self._options.server_timeout, 0
        while not self.closing and connection.alive and quiet < _QUIET_TURNS and self.clock() < give_up:
            quiet = 0 if connection.pending else quiet + 1
            await asyncio.sleep(0 if quiet else 0.001)
        connection.finish()
        for _ in range(_CLOSING_TURNS):
            if connection.gone:
                return
            await asyncio.sleep(0.001)
        connection.drop()

    async def _connect(self) -> Connection:
        connection = Connection(self._outbox, self.index, self._lost)
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                await self._dial(self._server, connection)
                asked = self.clock()
                greeting = await greet(connection, self._server, self._options.key_prefix)
            self._serve(connection, greeting, self.clock() - asked)
        finally:
            if self.connection is not connection:
                connection.abort("the greeting failed")
        return connection

    def _serve(self, connection: Connection, greeting: Greeting, latency: float) -> None:
        if not connection.alive:
            raise ConnectionFailed(connection.reason)
        connection.dialect = greeting.dialect
        self.reconnects += self.greeting is not None
        self.greeting = greeting
        self._kill_refused = self._predecessor_unknown
        for client_id, run_id in list(self._unkilled.items()):
            if run_id == greeting.run_id:
                connection.send(pack_command((b"CLIENT", b"KILL", b"ID", client_id)), _Killed(self, client_id))
            elif greeting.run_id:
                del self._unkilled[client_id]  # it died with that run, and the id may be somebody else's now
        self.connection, self.error, self.latency, self.since = connection, "", latency, self.clock()
        connection.lane = self.lane
        self._changed()
        self._broken.clear()
        self._settle()
        self.attempted.set()
        _log.info("connected to %s (%s)", self.name, greeting.version or "version unknown")

    def _lost(self, connection: Connection) -> None:
        if self.connection is connection:
            self.connection = None
            greeting = self.greeting
            if greeting is not None and greeting.client_id is not None and greeting.run_id:
                self._unkilled[greeting.client_id] = greeting.run_id
                if len(self._unkilled) > _MOST_UNKILLED:
                    del self._unkilled[next(iter(self._unkilled))]
                    self._predecessor_unknown = True
            else:
                self._predecessor_unknown = True
            self.error = self.last_error = connection.reason
            self.since = self.clock()
            self._changed()
            self._broken.set()
            _log.info("lost the connection to %s: %s", self.name, connection.reason)

    def _failed(self, error: Exception) -> None:
        text = "no connection within the connect timeout" if isinstance(error, TimeoutError) else str(error)
        text = text or type(error).__name__
        if text != self.error:
            _log.info("can't connect to %s: %s", self.name, text)
            self.error = self.last_error = text
            self._changed()


class _Probe:
    """Hears the answer to a health check."""

    __slots__ = ("asked", "link")

    def __init__(self, link: Link, asked: float) -> None:
        self.link, self.asked = link, asked

    def reply(self, connection: Connection, value: object) -> None:
        self.link.probed(self.link.clock() - self.asked)

    def lost(self, connection: Connection) -> None:
        pass


class _Killed:
    """Hears whether a predecessor was killed; until then every successor tries again."""

    __slots__ = ("client_id", "link")

    def __init__(self, link: Link, client_id: int) -> None:
        self.link, self.client_id = link, client_id

    def reply(self, connection: Connection, value: object) -> None:
        self.link.killed(self.client_id, value.text if isinstance(value, ErrorReply) else None)

    def lost(self, connection: Connection) -> None:
        pass
