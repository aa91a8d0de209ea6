"""One place in a server's connection pool: a connection, made again for ever when it breaks.

A SET in flight when a connection breaks may still land after a release sent on its successor. So the successor first
kills the old client id on the server, then releases every token still owed, and only then serves rounds; the server
executes one connection's commands in order.
"""

from __future__ import annotations

import asyncio
import logging

from hiredis import pack_command

from redlock_cluster.core.commands import ErrorReply, evaluate
from redlock_cluster.core.timing import Interval
from redlock_cluster.core.votes import Token
from redlock_cluster.engine.connection import Connection, ConnectionFailed, Outbox
from redlock_cluster.engine.greeting import Greeting, greet
from redlock_cluster.engine.ports import Ports
from redlock_cluster.lua import RELEASE
from redlock_cluster.options import DeploymentOptions, ServerOptions

__all__ = ["Debt", "Link"]

_log = logging.getLogger(__name__)

_NEVER = float("inf")

_TIME = pack_command((b"TIME",))


class Link:
    """A connection to one server, kept alive.

    connection: None while there is none that may serve; index: the server's place in its group
    greeting: what the server told on the newest connection; attempted: set once the first attempt has ended
    error: why there is no connection, "" while there is one; last_error: stays; since: engine time of the last change
    latency: seconds the last health check (or the greeting) took; reconnects: connections after the first one
    """

    def __init__(
        self, server: ServerOptions, index: int, options: DeploymentOptions, ports: Ports, outbox: Outbox
    ) -> None:
        self.index, self.name = index, server.name
        self.connection: Connection | None = None
        self.attempted = asyncio.Event()
        self.greeting: Greeting | None = None
        self.error, self.last_error = "not connected yet", ""
        self.latency: float | None = None
        self.reconnects = 0
        self.clock, self._dial, self._entropy = ports.clock, ports.dial, ports.entropy
        self.since = self._checked_at = self.clock()
        self._server, self._options, self._outbox = server, options, outbox
        self._interval = Interval(options.reconnection_interval_base, options.reconnection_interval_max)
        self._debts: dict[tuple[bytes, Token], Debt] = {}
        self._broken = asyncio.Event()
        self._checked: tuple[Connection | None, int] = (None, 0)

    # --- what rounds use -------------------------------------------------------------------------------------------

    def overdue(self, waited: float) -> None:
        """A vote was waited for in vain: after a full server timeout no round waits for it until it answers again."""
        if self.connection is not None and waited >= self._options.server_timeout:
            self.connection.silent = True

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
        self._settle()
        connection = self.connection
        return connection.request("TIME") if connection is not None and connection.pending else None

    @property
    def owed(self) -> int:
        """How many tokens are still to be released on this server."""
        return len(self._debts)

    # --- health ----------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """One health check: asks an idle connection for `TIME`, gives up one that has answered nothing since the last.

        A check that comes late means that this process stood still; then it only asks.
        """
        late = now - self._checked_at > 1.5 * self._options.health_check_interval
        self._checked_at = now
        connection = self.connection
        if connection is None:
            return
        if self._checked == (connection, connection.heard) and not late:
            connection.abort(f"no answer for {self._options.health_check_interval:g} s")
            return
        if not connection.pending:
            connection.send(_TIME, _Probe(self, now))
        self._checked = (connection, connection.heard)
        self._settle()

    def probed(self, seconds: float) -> None:
        """A health check was answered after so many seconds."""
        self.latency = seconds

    def _settle(self) -> None:
        if self._debts:
            now = self.clock()
            debts, self._debts = self._debts, {}
            for debt in debts.values():
                if debt.expires_at > now:
                    self.release(debt)

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
                finally:
                    connection.finish()
            self.attempted.set()
            await asyncio.sleep(self._interval.after(failures, self._entropy.fraction()))
            failures += 1

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
        previous, self.greeting = self.greeting, greeting
        if previous is not None:
            self.reconnects += 1
            if previous.client_id is not None and previous.run_id and previous.run_id == greeting.run_id:
                connection.send(pack_command((b"CLIENT", b"KILL", b"ID", previous.client_id)), _Killed(self.name))
        self.connection, self.error, self.latency, self.since = connection, "", latency, self.clock()
        self._broken.clear()
        self._settle()
        self.attempted.set()
        _log.info("connected to %s (%s)", self.name, greeting.version or "version unknown")

    def _lost(self, connection: Connection) -> None:
        if self.connection is connection:
            self.connection = None
            self.error = self.last_error = connection.reason
            self.since = self.clock()
            self._broken.set()
            _log.info("lost the connection to %s: %s", self.name, connection.reason)

    def _failed(self, error: Exception) -> None:
        text = "no connection within the connect timeout" if isinstance(error, TimeoutError) else str(error)
        text = text or type(error).__name__
        if text != self.error:
            _log.info("can't connect to %s: %s", self.name, text)
        self.error = self.last_error = text


class Debt:
    """A token to be taken from one server; a sink that hears whether that was done and sees to it if not.

    answered: the server replied to the SET, so the key is gone after the ttl at the latest; else the SET may still
    land at any time, and the token is remembered until the server is reachable again
    """

    __slots__ = ("expires_at", "key", "link", "token", "ttl")

    def __init__(self, link: Link, key: bytes, token: Token, ttl_ms: int, answered: bool) -> None:
        self.link, self.key, self.token, self.ttl = link, key, token, ttl_ms / 1000
        self.expires_at = link.clock() + self.ttl if answered else _NEVER

    def reply(self, connection: Connection, value: object) -> None:
        """Deleted, or not there: settled. NOSCRIPT: the script in full. Any other error: at the next health check."""
        if not isinstance(value, ErrorReply) or value.wrong_type:
            return
        if value.code == "NOSCRIPT":
            connection.send(evaluate(RELEASE, self.key, self.token), self)
            return
        self.expires_at = min(self.expires_at, self.link.clock() + self.ttl)
        self.link.owe(self)

    def lost(self, connection: Connection) -> None:
        """Whether it was done is unknown: again on the next connection."""
        self.link.owe(self)


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
    """Hears whether the predecessor was killed."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def reply(self, connection: Connection, value: object) -> None:
        if isinstance(value, ErrorReply):
            _log.warning(
                "%s refused CLIENT KILL (%s): a command still in flight on the old connection may leave a key",
                self.name,
                value.text,
            )

    def lost(self, connection: Connection) -> None:
        pass
