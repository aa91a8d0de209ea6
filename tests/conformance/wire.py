"""What servers were told, by their own account: MONITOR on every server of a group."""

from __future__ import annotations

import ast
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

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
    def from_script(self) -> bool:
        return self.source == "lua"


class Record:
    """The commands a group of servers executed; complete after its block has ended."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def about(self, key: bytes) -> list[Command]:
        """Commands sent over a connection that name the key or a side key of it."""
        return [c for c in self.commands if not c.from_script and any(key in word for word in c.words)]

    def sets(self, key: bytes) -> list[Command]:
        """Attempts: every `SET key token … NX …`."""
        return [c for c in self.about(key) if c.name == "SET" and b"NX" in [word.upper() for word in c.words[3:]]]


@contextmanager
def recorded(servers: ServerGroup) -> Iterator[Record]:
    """What the servers execute inside the block."""
    record = Record()
    with ExitStack() as stack:
        streams = []
        for server in servers.embedded:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
            connection.sendall(b"MONITOR\r\n")
            stream = stack.enter_context(connection.makefile("rb"))
            assert stream.readline() == b"+OK\r\n"
            streams.append(stream)
        yield record
        for index, stream in enumerate(streams):
            # What others sent before may be read after this first command, in the same turn of the server's loop.
            servers.clients[index].ping()
            mark = uuid.uuid4().hex
            servers.clients[index].echo(mark)
            record.commands += _until(stream, mark, index)


def _until(stream: BinaryIO, mark: str, index: int) -> Iterator[Command]:
    for line in stream:
        match = _LINE.match(line.decode("latin-1"))
        assert match, line
        words = tuple(ast.literal_eval(f'b"{word}"') for word in _WORD.findall(match[2]))
        if words[-1] == mark.encode():
            return
        yield Command(index, match[1], words)
    raise AssertionError("the server closed the connection that monitors it")
