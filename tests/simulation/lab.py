"""A simulated network to experiment with: one host that echoes, and clients that listen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hiredis import pack_command

from redlock_cluster.options import ServerOptions
from redlock_cluster.testing.simulation import Connection, Host, Network, VirtualLoop, stream

SERVER = ServerOptions(host="s0", port=1)


class Echo:
    """A service that replies with a command's last word; KILL ends the oldest session, PUSH pushes to it."""

    def __init__(self) -> None:
        self.sessions: list[EchoSession] = []

    def connect(self, push: Callable[[bytes], None], killed: Callable[[], None]) -> EchoSession:
        self.sessions.append(EchoSession(self, push, killed))
        return self.sessions[-1]


class EchoSession:
    def __init__(self, service: Echo, push: Callable[[bytes], None], killed: Callable[[], None]) -> None:
        self.service, self.push, self.killed = service, push, killed
        self.seen: list[bytes] = []
        self.closed = False

    def execute(self, words: list[bytes]) -> bytes:
        self.seen.append(words[-1])
        if words[0] == b"KILL":
            self.service.sessions[0].killed()
        if words[0] == b"PUSH":
            self.service.sessions[0].push(words[-1] + b"!")
        return words[-1] + b";"

    def close(self) -> None:
        self.closed = True


class Client(asyncio.Protocol):
    """Keeps what it hears. ended: None while connected, else (how, when)"""

    def __init__(self) -> None:
        self.heard = b""
        self.times: list[float] = []
        self.ended: tuple[type[Exception] | None, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Connection)
        self.connection = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.times.append(asyncio.get_running_loop().time())

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = (None if exc is None else type(exc), asyncio.get_running_loop().time())

    def say(self, *words: bytes) -> None:
        for word in words:
            self.send(b"SAY", word)

    def send(self, *words: bytes) -> None:
        """Sends one command."""
        self.connection.write(pack_command(words))


class Lab:
    """One host, and as many clients as are dialed."""

    def __init__(self, seed: int = 1, fragments: float = 0.0) -> None:
        self.loop = VirtualLoop()
        self.network = Network(self.loop, stream(seed, "network"), 0.001, 0.1, fragments)
        self.echo = Echo()
        self.host: Host = self.network.add("s0:1", self.echo)

    async def dial(self, name: str = "c0") -> Client:
        client = Client()
        await self.network.dialer(name)(SERVER, client)
        return client


def run(test: Callable[[Lab], Coroutine[Any, Any, None]], fragments: float = 0.0, seed: int = 1) -> None:
    lab = Lab(seed, fragments)
    lab.loop.run_until_complete(test(lab))
    lab.loop.close()
    assert not lab.loop.faults
