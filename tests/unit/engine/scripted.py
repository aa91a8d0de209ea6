"""A group whose servers are played by the test: it sees every command and gives every reply by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import hiredis

from redlock_cluster.aio import AsyncSupervisor
from redlock_cluster.engine.deployments import Deployments
from redlock_cluster.options import ServerOptions
from redlock_cluster.options.file import load_options
from redlock_cluster.wire.ports import Ports

Words = list[bytes]
OK, NIL, ONE, ZERO = b"+OK\r\n", b"_\r\n", b":1\r\n", b":0\r\n"
UNKNOWN = b"-ERR unknown command\r\n"
TTL_REFUSED = b"-ERR invalid expire time in 'set' command\r\n"
SYNTAX = b"-ERR syntax error\r\n"

VALKEY_9 = (TTL_REFUSED, TTL_REFUSED, ZERO, UNKNOWN)
REDIS_8_4 = (TTL_REFUSED, TTL_REFUSED, UNKNOWN, ZERO)
REDIS_6 = (SYNTAX, SYNTAX, UNKNOWN, UNKNOWN)


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


class Wire(asyncio.Transport):
    """One connection, seen from the server: answers the greeting by itself, keeps every later command for the test."""

    def __init__(self, protocol: asyncio.Protocol, client_id: int, run_id: bytes, probes: tuple[bytes, ...]) -> None:
        super().__init__()
        self.protocol, self.client_id, self.run_id = protocol, client_id, run_id
        self.commands: list[Words] = []
        self.writes: list[list[Words]] = []
        self.closed = False
        self._probes = iter(probes)
        self._scripts = 2
        self._greeted = False
        self._reader = hiredis.Reader()

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.closed
        self._reader.feed(data)
        written = list(self._parsed())
        if self._greeted:
            self.writes.append(written)
            self.commands += written
            return
        asyncio.get_running_loop().call_soon(self._greet, written)

    def _greet(self, commands: list[Words]) -> None:
        self.protocol.data_received(b"".join(map(self._greeting_reply, commands)))

    def _parsed(self) -> Iterator[Words]:
        while (words := self._reader.gets()) is not False:
            assert isinstance(words, list)
            yield words

    def _greeting_reply(self, words: Words) -> bytes:
        match words:
            case [b"HELLO", *_]:
                return b"%1\r\n+proto\r\n:3\r\n"
            case [b"CLIENT", b"ID"]:
                return b":%d\r\n" % self.client_id
            case [b"INFO", b"server"]:
                return bulk(b"run_id:" + self.run_id + b"\r\nredis_version:0.0.0\r\n")
            case [b"INFO", *_]:
                return bulk(b"role:master\r\n")
            case [b"SCRIPT", *_]:
                self._scripts -= 1
                self._greeted = self._scripts == 0
                return bulk(b"0" * 40)
            case [b"SET" | b"DELIFEQ" | b"DELEX", *_]:
                return next(self._probes)
            case _:
                return OK

    def reply(self, data: bytes) -> None:
        """Gives the next reply."""
        self.protocol.data_received(data)

    def break_off(self) -> None:
        """The connection breaks."""
        self.closed = True
        self.protocol.connection_lost(ConnectionResetError("reset"))

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Entropy:
    """Tokens in order: 22 digits with a number in them."""

    def __init__(self) -> None:
        self.made = 0

    def texts(self, count: int) -> list[bytes]:
        first, self.made = self.made + 1, self.made + count
        return [b"%022d" % number for number in range(first, first + count)]

    def fraction(self) -> float:
        return 0.0


class Group:
    """A supervisor over one group whose servers the test plays. wires: by server, the newest connection last."""

    def __init__(
        self,
        size: int = 3,
        probes: tuple[bytes, ...] = VALKEY_9,
        clock: Clock | None = None,
        **options: object,
    ) -> None:
        self.size, self.probes = size, probes
        self.run_ids = [b"run%d" % i for i in range(size)]
        self.refusing: set[int] = set()
        self.wires: list[list[Wire]] = [[] for _ in range(size)]
        settings: dict[str, object] = {
            "servers": [{"port": 1000 + i} for i in range(size)],
            "pool_size": 1,
            "owner": "test",
            "health_check_interval": "60s",
            "reconnection_interval": "1ms",
            "retry_interval": "1ms",
            **options,
        }
        ports = Ports(clock=clock, dial=self._dial, entropy=Entropy())
        self.supervisor = AsyncSupervisor.over(Deployments(load_options(settings), ports), "default")

    async def _dial(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        index = server.port - 1000
        if index in self.refusing:
            raise ConnectionRefusedError("refused")
        lives = self.wires[index]
        wire = Wire(protocol, 10 * (index + 1) + len(lives), self.run_ids[index], self.probes)
        lives.append(wire)
        protocol.connection_made(wire)

    async def __aenter__(self) -> Group:
        await self.supervisor.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.supervisor.close()

    @property
    def now(self) -> list[Wire]:
        """The newest connection of each server."""
        return [lives[-1] for lives in self.wires]

    def commands(self) -> list[list[Words]]:
        """Every command on each server's newest connection, in order."""
        return [wire.commands for wire in self.now]

    async def reconnected(self, index: int, lives: int) -> Wire:
        """Waits until a server has had so many connections and the newest is greeted."""
        for _ in range(2000):
            if len(self.wires[index]) >= lives and self.wires[index][-1]._greeted:
                await turns(5)
                return self.wires[index][-1]
            await asyncio.sleep(0.001)
        raise AssertionError("not connected again")


async def turns(number: int = 3) -> None:
    """Lets the loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)


Answer = Callable[[Words], bytes | list[bytes]]
"""What a server says to a command: all at once, or piece by piece."""


def honest(words: Words) -> bytes:
    """What a server without any locks says, that has and does whatever it is asked to compare."""
    match words:
        case [b"SET", _, _, b"NX", *rest]:
            return NIL if b"GET" in rest else OK
        case [b"SET", *_]:
            return OK
        case [b"GET", *_]:
            return NIL
        case [b"TIME"]:
            return b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n"
        case _:
            return ONE


class AutomaticWire(Wire):
    """One connection, whose server says to every command what its group's `answers` and `greetings` say."""

    group: AutomaticGroup
    index: int

    def write(self, data: bytes) -> None:  # type: ignore[override]
        seen = len(self.commands)
        super().write(data)
        if new := self.commands[seen:]:
            asyncio.get_running_loop().call_soon(self._say, self.group.answers[self.index], new)

    def _greet(self, commands: list[Words]) -> None:
        told = {id(words): self._greeting_reply(words) for words in commands}
        self._say(lambda words: self.group.greetings[self.index](words, told[id(words)]), commands)

    def _say(self, answer: Answer, commands: list[Words]) -> None:
        for words in commands:
            said = answer(words)
            for piece in said if isinstance(said, list) else [said]:
                if not self.closed:
                    self.protocol.data_received(piece)


class AutomaticGroup(Group):
    """Servers that answer by themselves; the test may change what each of them says.

    answers: by server, to every command after the greeting
    greetings: by server, to every command of the greeting; the second argument is what a server should say
    mishaps: what reached the loop's exception handler
    """

    def __init__(self, size: int = 3, **options: object) -> None:
        super().__init__(size, **options)  # type: ignore[arg-type]
        self.answers: list[Answer] = [honest] * size
        self.greetings: list[Callable[[Words, bytes], bytes | list[bytes]]] = [lambda _, usual: usual] * size
        self.mishaps: list[dict[str, object]] = []

    async def _dial(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        index = server.port - 1000
        lives = self.wires[index]
        wire = AutomaticWire(protocol, 10 * (index + 1) + len(lives), self.run_ids[index], self.probes)
        wire.group, wire.index = self, index
        lives.append(wire)
        protocol.connection_made(wire)

    async def __aenter__(self) -> AutomaticGroup:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.mishaps.append(context))
        await super().__aenter__()
        self.tasks = asyncio.all_tasks() - {asyncio.current_task()}
        return self

    def whole(self) -> bool:
        """Whether nothing was raised where nobody catches it, and no task of the engine has ended."""
        return not self.mishaps and not any(task.done() for task in self.tasks)

    async def standing(self) -> None:
        """Waits until every server has a connection that is greeted."""
        for _ in range(2000):
            if all(wire._greeted and not wire.closed for wire in self.now):
                return await turns(8)
            await asyncio.sleep(0.001)
        raise AssertionError("not connected again")
