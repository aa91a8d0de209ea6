"""What the servers of a group remember of themselves (`core.meta`): they are asked for it here, and told.

`engine.quarantine` decides what follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from hiredis import pack_command

from redlock_cluster.core.meta import ServerMemory, read_meta, words_to_keep
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.server_clock import time_in
from redlock_cluster.engine.asking import ask
from redlock_cluster.engine.group import Group
from redlock_cluster.lua import META
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.handshake import forgets
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import ConnectionFailed, Entropy

__all__ = ["Heard", "HearsKept", "Memories"]

HearsKept = Callable[[int, int, float, ErrorReply | None], None]
"""Hears that a server was told for how long locks last, or would not be: its index, the horizon in milliseconds, engine
time before it was told, and its error. What was asked on that connection behind that is answered later."""

_COUNTS_FOR: Final = 4  # horizons for which a server remembers one of them; see meta.lua


@dataclass(slots=True)
class Heard:
    """What servers said when they were asked together.

    causes: of every server, how often it was known to have forgotten before they were asked
    metas: by index, of those that answered, what each remembers
    times: what time it was there, milliseconds
    connections: where each answered
    silent: those that could be asked, and have not answered in time
    forbidden: those that may not be asked, and what they said
    """

    causes: tuple[int, ...]
    metas: dict[int, ServerMemory | None] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    connections: dict[int, Connection] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    forbidden: dict[int, str] = field(default_factory=dict)

    def horizons(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Those that count on any of these servers, milliseconds."""
        metas = ((self.metas[index], self.times[index]) for index in indices)
        return tuple(sorted({each for meta, now in metas if meta is not None for each in meta.live(now)}))


class Memories:
    """Speaks with the servers of one group.

    group: whose servers
    key: where they remember themselves
    entropy: servers' ids come from there
    kept: hears what becomes of `keep`
    """

    def __init__(self, group: Group, key: bytes, entropy: Entropy, kept: HearsKept) -> None:
        self._group, self._key, self._entropy, self._kept = group, key, entropy, kept

    def connections(self) -> list[Connection | None]:
        """For each server one that answers, if there is one."""
        connections = [self._keeper_of(index).connection for index in range(self._group.size)]
        return [each if each is not None and not each.silent else None for each in connections]

    def _keeper_of(self, index: int) -> Keeper:
        """One of a server's connections, if there is one."""
        keepers = self._group.pools[index].keepers
        return next((keeper for keeper in keepers if keeper.connection is not None), keepers[0])

    async def ask(self, heard: Heard) -> None:
        """Ask all servers together; `heard` takes in what they say."""
        keepers, stood = [self._keeper_of(index) for index in range(self._group.size)], self.connections()
        answers = await ask(self._group, keepers, (("HGETALL", self._key), ("TIME",)))
        for index, (keeper, connection, answer) in enumerate(zip(keepers, stood, answers, strict=True)):
            if connection is not None and keeper.connection is connection:
                self._hear(index, connection, answer, heard)

    def _hear(self, index: int, connection: Connection, answer: list[object] | str, heard: Heard) -> None:
        """What one server has answered, or why it has not."""
        if isinstance(answer, str):
            if not connection.full:  # one that was waited for in vain is not asked the next time
                heard.silent.add(index)
            return
        meta, seconds = read_meta(answer[0]), time_in(answer[1])
        if isinstance(meta, ErrorReply):
            if meta.forbidden:
                heard.forbidden[index] = meta.text
        elif seconds is not None:
            heard.metas[index], heard.times[index], heard.connections[index] = meta, int(seconds * 1000), connection

    async def forgets(self, heard: Heard, index: int) -> str:
        """As `wire.handshake.forgets`, of a server that was heard; "" for one that does not say."""
        try:
            async with asyncio.timeout(self._group.timing.server_timeout):
                return await forgets(heard.connections[index])
        except (ConnectionFailed, TimeoutError):
            return ""

    async def begin(
        self, heard: Heard, index: int, run_id: str, before: ServerMemory | None, horizons: tuple[int, ...]
    ) -> tuple[ServerMemory | None, object]:
        """Have a server remember that its run counts from now on, on the connection on which its memory was read.

        heard: what it said there
        before: what it remembers now
        horizons: of the locks in use, milliseconds

        Returns what it was told, and its reply: 1; 0 if somebody was faster, or it is too late; None if there is none.
        """
        connection = heard.connections.get(index)
        if connection is None or not connection.alive:
            return None, None
        patience, now_ms = self._group.timing.server_timeout, heard.times[index]
        try:
            async with asyncio.timeout(patience):
                durable = not await forgets(connection)
            told = ServerMemory(
                run_id,
                self._entropy.texts(1)[0].decode(),
                self._group.name,
                self._group.size,
                durable,
                tuple((horizon, now_ms + _COUNTS_FOR * horizon) for horizon in horizons),
            )
            words = told.words(before, now_ms + round(4000 * patience))
            async with asyncio.timeout(patience):
                return told, await connection.request(*self._script(words))
        except (ConnectionFailed, TimeoutError):
            return None, None

    def take_back(self, heard: Heard, index: int, told: ServerMemory) -> None:
        """Have a server forget that it was told so: it has forgotten once more meanwhile."""
        connection = heard.connections[index]
        if connection.alive:
            connection.request(*self._script(told.words_to_take_back()))

    def keep(self, index: int, connection: Connection, horizon: int) -> None:
        """Tell a server that locks last so long, milliseconds."""
        command = pack_command(self._script(words_to_keep(horizon)))
        connection.send(command, _Kept(self._kept, index, horizon, self._group.clock()))

    def _script(self, words: tuple[str | int, ...]) -> tuple[str | bytes | int, ...]:
        """The command that runs `meta.lua`."""
        return "EVAL", META.source, 1, self._key, *words


class _Kept:
    """Hears whether a server was told for how long locks last."""

    __slots__ = ("_asked", "_hear", "_horizon", "_index")

    def __init__(self, hear: HearsKept, index: int, horizon: int, asked: float) -> None:
        self._hear, self._index, self._horizon, self._asked = hear, index, horizon, asked

    def reply(self, connection: Connection, value: object) -> None:
        error = value if isinstance(value, ErrorReply) else None
        self._hear(self._index, self._horizon, self._asked, error)

    def lost(self, connection: Connection) -> None:
        pass
