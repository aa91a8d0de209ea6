"""What servers were told, by their own account: MONITOR on every server of a group."""

from __future__ import annotations

import ast
import asyncio
import re
import socket
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from redlock_cluster.lua import READ, TAKE

from .servers import ServerGroup

_LINE: Final = re.compile(r"\+[\d.]+ \[\d+ (\S+)\] (.*)")
_WORD: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Command:
    """One executed command. server: index in the group; source: the connection's address, or "lua"."""

    server: int
    source: str
    words: tuple[bytes, ...]

    @property
    def name(self) -> str:
        return self.words[0].decode().upper()

    @property
    def attempt(self) -> tuple[bytes, bytes] | None:
        """The key and the token of an attempt to take a lock, by `SET … NX` or by script."""
        if self.name == "SET" and b"NX" in [word.upper() for word in self.words[3:]]:
            return self.words[1], self.words[2]
        if self.name == "EVALSHA" and self.words[1] in (TAKE.sha, READ.sha):
            return self.words[3], self.words[3 + int(self.words[2])]
        return None

    @property
    def from_script(self) -> bool:
        return self.source == "lua"


class Record:
    """The commands a group of servers executed; complete after its block has ended.

    streams: what MONITOR tells, by server
    """

    def __init__(self, streams: Sequence[BinaryIO]) -> None:
        self.commands: list[Command] = []
        self._streams = streams

    def about(self, key: bytes) -> list[Command]:
        """Commands sent over a connection that name the key or a side key of it."""
        return [c for c in self.commands if not c.from_script and any(key in word for word in c.words)]

    def attempts(self, key: bytes) -> list[Command]:
        """Every attempt to take a lock whose key contains this."""
        return [c for c in self.about(key) if c.attempt and key in c.attempt[0]]

    def tokens(self, key: bytes) -> list[bytes]:
        """Those attempts' tokens."""
        return [c.attempt[1] for c in self.attempts(key) if c.attempt]

    async def attempted(self, key: bytes, times: int, where: Iterable[int] | None = None) -> None:
        """Returns when each of these servers, of all by default, has executed so many attempts for this very key."""
        await asyncio.to_thread(self.wait, key, times, where)

    def wait(self, key: bytes, times: int, where: Iterable[int] | None = None) -> None:
        """Blocks until each of these servers has executed so many attempts."""
        for index in range(len(self._streams)) if where is None else where:
            while (
                len([c for c in self.attempts(key) if c.server == index and c.attempt and c.attempt[0] == key]) < times
            ):
                self.commands.append(self._next(index))

    def complete(self, mark: str) -> None:
        """Reads on until each server tells of the mark."""
        for index in range(len(self._streams)):
            while (command := self._next(index)).words[-1] != mark.encode():
                self.commands.append(command)

    def _next(self, index: int) -> Command:
        line = self._streams[index].readline()
        assert line, "the server closed the connection that monitors it"
        match = _LINE.match(line.decode("latin-1"))
        assert match, line
        return Command(index, match[1], tuple(ast.literal_eval(f'b"{word}"') for word in _WORD.findall(match[2])))


@contextmanager
def recorded(servers: ServerGroup) -> Iterator[Record]:
    """What the servers execute inside the block."""
    with ExitStack() as stack:
        streams = []
        for server in servers.embedded:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
            connection.sendall(b"MONITOR\r\n")
            stream = stack.enter_context(connection.makefile("rb"))
            assert stream.readline() == b"+OK\r\n"
            streams.append(stream)
        record = Record(streams)
        yield record
        mark = uuid.uuid4().hex
        for client in servers.clients:
            # What others sent before may be read after this first command, in the same turn of the server's loop.
            client.ping()
            client.echo(mark)
        record.complete(mark)
