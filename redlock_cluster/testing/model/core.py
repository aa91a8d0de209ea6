"""What commands work on: the server's state and one session for each connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from redlock_cluster.testing.model.keyspace import Keyspace
from redlock_cluster.testing.model.replies import OUT_OF_MEMORY, Push, Reply, encode, invalidation
from redlock_cluster.testing.model.versions import ModelVersion

__all__ = ["DATABASES", "Command", "Core", "Run", "Session", "Words"]

Words: TypeAlias = list[bytes]
Run: TypeAlias = "Callable[[Core, Session, Words], Reply]"

DATABASES: Final = 16
_READONLY: Final = b"READONLY You can't write against a read only replica."
_CONFIG: Final = {
    b"appendonly": b"no",
    b"appendfsync": b"everysec",
    b"no-appendfsync-on-rewrite": b"no",
    b"maxmemory": b"0",
    b"maxmemory-policy": b"noeviction",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command.

    name: as errors spell it
    run: executes it
    arity: its number of words, negative for at least so many
    reads: it only reads, so its keys can be tracked
    writes: a replica refuses it
    grows: it may need memory, so a full server refuses it
    all_keys: its keys are all words from the second on; else the second word
    scriptable: scripts may call it
    subscribed: a RESP2 connection that has subscriptions may send it
    known: whether a version has it
    """

    name: bytes
    run: Run
    arity: int
    reads: bool = False
    writes: bool = False
    grows: bool = False
    all_keys: bool = False
    scriptable: bool = True
    subscribed: bool = False
    known: Callable[[ModelVersion], bool] = lambda version: True

    def keys(self, words: Words) -> Words:
        """The keys that these words name."""
        return words[1:] if self.all_keys else words[1:2]


@dataclass(slots=True, eq=False)
class Session:
    """One connection, as the server sees it.

    push: gets bytes that nobody asked for
    killed: called when the server closes the connection
    channels: those that it subscribed to, in that order
    early: its own pushes that the running command sends before its reply
    messages, pending: those that it sends behind its reply: published messages, then what changed
    declared: the keys that the running script declared; None while no script runs
    wrote: that script has written, so a full server lets it grow
    """

    id: int
    push: Callable[[bytes], None]
    killed: Callable[[], None]
    authenticated: bool
    resp: int = 2
    database: int = 0
    name: bytes = b""
    tracking: bool = False
    optin: bool = False
    optout: bool = False
    noloop: bool = False
    caching: bool = False
    channels: dict[bytes, None] = field(default_factory=dict)
    early: list[bytes] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    pending: list[bytes] = field(default_factory=list)
    declared: list[bytes] | None = None
    wrote: bool = False
    closed: bool = False


class Core:
    """A server's memory, clients and time.

    clock: the server's seconds; the time stands still while a command runs
    commands: by upper-case words of the name, those that the version has
    config: what CONFIG GET answers; with a maxmemory below 1 MiB the server is full
    replica: it replicates from another server
    """

    def __init__(
        self,
        clock: Callable[[], float],
        version: ModelVersion,
        run_id: str,
        password: str | None,
        commands: dict[tuple[bytes, ...], Command],
    ) -> None:
        self._clock = clock
        self.version = version
        self.run_id = run_id
        self.password = None if password is None else password.encode()
        self.commands = commands
        self.config = dict(_CONFIG)
        self.replica = False
        self.now_us = 0
        self.now_ms = 0
        self.tick()
        self.started_us = self.now_us
        self.databases = [Keyspace(self._time, self._touched) for _ in range(DATABASES)]
        self.sessions: dict[int, Session] = {}
        self.subscribers: dict[bytes, dict[int, Session]] = {}
        self.scripts: dict[bytes, bytes] = {}
        self.current: Session | None = None
        self.table: dict[bytes, dict[int, None]] = {}
        self.last_id = 0

    def refusal(self, command: Command, wrote: bool = False) -> bytes | None:
        """Why a command is not executed as the server is now.

        wrote: it is of a script that has written before
        """
        if self.full and command.grows and not wrote:
            return OUT_OF_MEMORY
        return _READONLY if self.replica and command.writes else None

    def tick(self) -> None:
        """Reads the clock, to the microsecond as servers do."""
        self.now_us = round(self._clock() * 1_000_000)
        self.now_ms = self.now_us // 1000

    @property
    def full(self) -> bool:
        """Whether it has no memory left: the limit is below what an empty server needs."""
        return 0 < int(self.config[b"maxmemory"]) < 1 << 20

    def database(self, session: Session) -> Keyspace:
        """The database that the session selected."""
        return self.databases[session.database]

    def remember(self, session: Session, keys: list[bytes]) -> None:
        """Registers keys for invalidation, where the session's mode of tracking wants it."""
        if (session.optin and not session.caching) or (session.optout and session.caching):
            return
        for key in keys:
            self.table.setdefault(key, {})[session.id] = None

    def everything_changed(self, before_reply: bool) -> None:
        """Notifies every tracking session that all keys have changed.

        before_reply: the running session's push is sent before its reply
        """
        self.table.clear()
        for session in list(self.sessions.values()):
            if session.tracking:
                self._notify(session, None, before_reply)

    def subscribe(self, session: Session, channel: bytes) -> None:
        """From now on the session gets what is published on the channel."""
        session.channels[channel] = None
        self.subscribers.setdefault(channel, {})[session.id] = session

    def unsubscribe(self, session: Session, channel: bytes) -> None:
        """Ends a subscription, if there is one."""
        if channel in session.channels:
            del session.channels[channel]
            del self.subscribers[channel][session.id]
            if not self.subscribers[channel]:
                del self.subscribers[channel]

    def publish(self, channel: bytes, message: bytes) -> int:
        """Sends a message to all subscribers of a channel.

        The running session's own stands behind its reply since Redis 7.2, before it in older versions.

        Returns how many get it.
        """
        receivers = list(self.subscribers.get(channel, {}).values())
        for session in receivers:
            push = encode(Push([b"message", channel, message]), session.resp)
            if session is self.current:
                (session.messages if self.version.since_7_2 else session.early).append(push)
            else:
                session.push(push)
        return len(receivers)

    def drop(self, session: Session) -> None:
        """Ends a session without notice."""
        for channel in list(session.channels):
            self.unsubscribe(session, channel)
        session.closed = True
        self.sessions.pop(session.id, None)

    def _time(self) -> int:
        return self.now_ms

    def _touched(self, key: bytes) -> None:
        """Sends each session that registered the key one push; it must register anew for another."""
        for number in self.table.pop(key, ()):
            session = self.sessions.get(number)
            if session is not None and session.tracking and not (session.noloop and session is self.current):
                self._notify(session, key)

    def _notify(self, session: Session, key: bytes | None, early: bool = False) -> None:
        if session.resp != 3:
            return
        if session is self.current:
            (session.early if early else session.pending).append(invalidation(key))
        else:
            session.push(invalidation(key))
