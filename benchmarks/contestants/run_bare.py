"""No library: the same commands on as many connections, without locks, to see what connections and loop allow.

As in this library, all that is queued for a server in one turn of the loop leaves in one write, on the one connection
to it, and a quorum of right replies is awaited. There is nothing else: no validity, no time-outs, no reconnecting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from zlib import crc32

import hiredis
from harness import HOST, TTL, Groups, Library, serve

TOKEN = b"0123456789abcdefghijkl@benchmark:12345"
KEY = b"redlock:%b"
ACQUIRE = hiredis.pack_command((b"SET", b"%b", TOKEN, b"NX", b"GET", b"PX", TTL * 1000)).replace(
    b"$2\r\n%b", b"$%d\r\n%b"
)
RELEASE = hiredis.pack_command((b"DELIFEQ", b"%b", TOKEN)).replace(b"$2\r\n%b", b"$%d\r\n%b")


class Round:
    """Counts the right replies to one command; wakes the waiter when they are a quorum or can't become one."""

    __slots__ = ("_future", "_missing", "_right", "_spare")

    def __init__(self, right: object, servers: int, future: asyncio.Future[bool]) -> None:
        self._right, self._future = right, future
        self._missing = servers // 2 + 1
        self._spare = servers - self._missing

    def reply(self, value: object) -> None:
        """A server answered."""
        if value == self._right:
            self._missing -= 1
            if self._missing == 0:
                self._future.set_result(True)
        else:
            self._spare -= 1
            if self._spare == -1:
                self._future.set_result(False)


class Connection(asyncio.Protocol):
    """A transport, a parser, and those who wait for replies."""

    def __init__(self, dirty: list[Connection]) -> None:
        self._dirty = dirty
        self._reader = hiredis.Reader()
        self._pending: deque[Round] = deque()
        self._buffer: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, command: bytes, answer: Round) -> None:
        """Queues a command."""
        if not self._buffer:
            self._dirty.append(self)
        self._buffer.append(command)
        self._pending.append(answer)

    def flush(self) -> None:
        """Writes what is queued."""
        self.transport.write(b"".join(self._buffer))
        self._buffer.clear()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._reader.feed(data)
        while (value := self._reader.gets()) is not False:
            self._pending.popleft().reply(value)


class Bare:
    """Groups of connections, without any locks."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._dirty: list[Connection] = []
        self._scheduled = False
        self._lines: list[list[Connection]] = []

    async def connect(self, groups: Groups) -> Bare:
        """Connects to every server of every group."""
        for ports in groups:
            self._lines.append([await self._dial(port) for port in ports])
        return self

    async def _dial(self, port: int) -> Connection:
        _, connection = await self._loop.create_connection(lambda: Connection(self._dirty), HOST, port)
        return connection

    async def lock(self, resource: str) -> Sequence[Connection] | None:
        """The connections that were asked, or None."""
        key = KEY % resource.encode()
        line = self._lines[crc32(key) % len(self._lines)]
        return line if await self._round(line, ACQUIRE % (len(key), key), None) else None

    wait = lock

    async def unlock(self, resource: str, held: Sequence[Connection]) -> bool:
        """Whether a quorum deleted the key."""
        key = KEY % resource.encode()
        return await self._round(held, RELEASE % (len(key), key), 1)

    def _round(self, line: Sequence[Connection], command: bytes, right: object) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self._loop.create_future()
        answer = Round(right, len(line), future)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        for connection in line:
            connection.send(command, answer)
        return future

    def _flush(self) -> None:
        self._scheduled = False
        for connection in self._dirty:
            connection.flush()
        self._dirty.clear()

    async def close(self) -> None:
        """Closes the connections."""
        for line in self._lines:
            for connection in line:
                connection.transport.close()


async def connect(groups: Groups) -> Bare:
    """Connections in the running loop."""
    return await Bare().connect(groups)


if __name__ == "__main__":
    serve(Library(("hiredis", "uvloop"), aio=connect))
