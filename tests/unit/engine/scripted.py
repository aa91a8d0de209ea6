"""A group whose servers are played by the test: it sees every command and gives every reply by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import hiredis

from redlock_cluster.aio import AsyncSupervisor
from redlock_cluster.engine.deployments import Deployments
from redlock_cluster.options import ServerOptions
from redlock_cluster.options.file import load_options
from redlock_cluster.testing.simulation import VirtualLoop
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
    """One connection, seen from the server: answers the handshake by itself, keeps every later command for the test.

    ready: the handshake is over
    """

    def __init__(self, group: Group, index: int, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.group, self.index, self.protocol = group, index, protocol
        self.client_id, self.run_id = 10 * (index + 1) + len(group.wires[index]), group.run_ids[index]
        self.commands: list[Words] = []
        self.writes: list[list[Words]] = []
        self.closed = self.ready = False
        self._probes = iter(group.probes)
        self._reader = hiredis.Reader()

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.closed
        self.group.news.set()
        self._reader.feed(data)
        written = list(self._parsed())
        if self.ready:
            self.writes.append(written)
            self.commands += written
            return
        asyncio.get_running_loop().call_soon(self._shake, written)

    def _shake(self, commands: list[Words]) -> None:
        self.protocol.data_received(b"".join(map(self._handshake_reply, commands)))

    def _parsed(self) -> Iterator[Words]:
        while (words := self._reader.gets()) is not False:
            assert isinstance(words, list)
            yield words

    def _handshake_reply(self, words: Words) -> bytes:
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
                return bulk(b"0" * 40)
            case [b"SUBSCRIBE", channel]:
                self.ready = True
                self.group.news.set()
                return b">3\r\n$9\r\nsubscribe\r\n%b:1\r\n" % bulk(channel)
            case [b"SET" | b"DELIFEQ" | b"DELEX", *_]:
                return next(self._probes)
            case _:
                return OK

    def reply(self, data: bytes) -> None:
        """Gives the next reply."""
        self.protocol.data_received(data)

    def break_off(self) -> None:
        """The connection breaks."""
        self._end()
        self.protocol.connection_lost(ConnectionResetError("reset"))

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self._end()
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def _end(self) -> None:
        self.closed = True
        self.group.news.set()


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
    """A supervisor over one group whose servers the test plays. Its clock is the loop's unless it is given one.

    Supervisors with one entropy are of one process.

    refusing: servers that can't be connected to; greetings: by server, what it says before it is asked
    wires: by server, the newest connection last; news: set whenever something happened on one of them
    """

    kind: type[Wire] = Wire

    def __init__(
        self,
        size: int = 3,
        probes: tuple[bytes, ...] = VALKEY_9,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        **options: object,
    ) -> None:
        self.size, self.probes = size, probes
        self.run_ids = [b"run%d" % i for i in range(size)]
        self.refusing: set[int] = set()
        self.greetings: dict[int, bytes] = {}
        self.wires: list[list[Wire]] = [[] for _ in range(size)]
        self.news = asyncio.Event()
        settings: dict[str, object] = {
            "servers": [{"port": 1000 + i} for i in range(size)],
            "pool_size": 1,
            "owner": "test",
            "restart_guard": False,  # engine/test_quarantine.py is about that
            "health_check_interval": "60s",
            "reconnection_interval": "1ms",
            "retry_interval": "1ms",
            **options,
        }
        if "cluster" in options:
            del settings["servers"]
        ports = Ports(clock or asyncio.get_running_loop().time, dial=self._dial, entropy=entropy or Entropy())
        self.supervisor = AsyncSupervisor.over(Deployments(load_options(settings), ports), "default")

    async def _dial(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        index = server.port % 1000
        if index in self.refusing:
            raise ConnectionRefusedError("refused")
        wire = self.kind(self, index, protocol)
        self.wires[index].append(wire)
        protocol.connection_made(wire)
        if index in self.greetings:
            wire.reply(self.greetings[index])

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

    async def when(self, condition: Callable[[], object]) -> None:
        """Waits until it is true; asked again whenever something happened on one of the servers' connections."""
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def reconnected(self, index: int, lives: int) -> Wire:
        """Waits until a server has had so many connections and the newest is ready."""
        await self.when(lambda: len(self.wires[index]) >= lives and self.wires[index][-1].ready)
        await turns(5)
        return self.wires[index][-1]


async def turns(number: int = 3) -> None:
    """Lets the loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)


async def passes(seconds: float) -> None:
    """So much virtual time."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    await asyncio.sleep(seconds)


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
    """One connection, whose server says to every command what its group's `answers` and `handshakes` say."""

    group: AutomaticGroup

    def write(self, data: bytes) -> None:  # type: ignore[override]
        seen = len(self.commands)
        super().write(data)
        if new := self.commands[seen:]:
            asyncio.get_running_loop().call_soon(self._say, self.group.answers[self.index], new)

    def _shake(self, commands: list[Words]) -> None:
        told = {id(words): self._handshake_reply(words) for words in commands}
        self._say(lambda words: self.group.handshakes[self.index](words, told[id(words)]), commands)

    def _say(self, answer: Answer, commands: list[Words]) -> None:
        for words in commands:
            said = answer(words)
            for piece in said if isinstance(said, list) else [said]:
                if not self.closed:
                    self.protocol.data_received(piece)


class AutomaticGroup(Group):
    """Servers that answer by themselves; the test may change what each of them says.

    answers: by server, to every command after the handshake
    handshakes: by server, to every command of the handshake; the second argument is what a server should say
    mishaps: what reached the loop's exception handler
    """

    kind = AutomaticWire

    def __init__(self, size: int = 3, **options: object) -> None:
        super().__init__(size, **options)  # type: ignore[arg-type]
        self.answers: list[Answer] = [honest] * size
        self.handshakes: list[Callable[[Words, bytes], bytes | list[bytes]]] = [lambda _, usual: usual] * size
        self.mishaps: list[dict[str, object]] = []

    async def __aenter__(self) -> AutomaticGroup:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.mishaps.append(context))
        await super().__aenter__()
        self.tasks = asyncio.all_tasks() - {asyncio.current_task()}
        return self

    async def __aexit__(self, *_: object) -> None:
        # Closing asks those that refuse again until its time is over, and none passes while everybody answers at once.
        self.answers = [honest] * self.size
        await super().__aexit__()

    def whole(self) -> bool:
        """Whether nothing was raised where nobody catches it, and no task of the engine has ended."""
        return not self.mishaps and not any(task.done() for task in self.tasks)

    async def standing(self) -> None:
        """Waits until every server has a connection that is ready."""
        await self.when(lambda: all(wire.ready and not wire.closed for wire in self.now))
        await turns(8)
