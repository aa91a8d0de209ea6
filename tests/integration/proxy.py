"""What stands between a client and a server, under a test's control.

`Proxy` forwards commands and replies one by one and can hold, drop, answer or cut at a chosen one, go dark like a
network that swallows everything, and be as slow, unsteady and narrow as `Conditions` say. `Port` is a port where
something talks that is no proper server. Both run in threads of their own, so a test may block or run a loop meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar, cast

from hiredis import Reader, pack_command

from redlock_cluster.testing import PortReservation, reserve_port

HOST = "127.0.0.1"
RELEASES = frozenset({b"DELIFEQ", b"DELEX", b"EVALSHA", b"EVAL"})
"""Commands that delete a key if it holds a token (an extension by script is among them)."""

T = TypeVar("T")
Words = tuple[bytes, ...]


class Act(enum.Enum):
    """What is done with a command or a reply that a rule matches.

    HOLD: it and all after it on this wire wait for `go()`. DROP: swallowed. CUT: the client's side breaks, and it is
    not passed on. PASS_AND_CUT: it is passed on, then the client's side breaks. ANSWER: the rule's bytes instead.
    """

    HOLD = "hold"
    DROP = "drop"
    CUT = "cut"
    PASS_AND_CUT = "pass and cut"
    ANSWER = "answer"


class Side(enum.Enum):
    """What a rule looks at: commands on their way to the server, or the replies to them on their way back."""

    COMMAND = "command"
    REPLY = "reply"


class Seen(NamedTuple):
    """A command, and the number of the wire (0 for the proxy's first connection) that brought it."""

    wire: int
    words: Words

    @property
    def name(self) -> bytes:
        """The command's first word in upper case."""
        return self.words[0].upper()


@dataclass(frozen=True)
class Conditions:
    """What a network does to what is on its way in one direction. Bytes stay in order, as TCP keeps them.

    latency: seconds, one way
    jitter: at most so many seconds more
    lost: share of the pieces that are lost and sent again, after `resent` seconds
    rate: bytes a second
    """

    latency: float = 0.0
    jitter: float = 0.0
    lost: float = 0.0
    resent: float = 0.2
    rate: float = float("inf")


GOOD = Conditions()


@dataclass
class Rule:
    """What to do with commands (or replies to commands) that match, at most `times` times."""

    side: Side
    match: Callable[[Words], bool]
    act: Act
    answer: bytes
    times: float


class Loop:
    """An event loop in a thread; one for all proxies of a process."""

    _one: Loop | None = None

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="wires", daemon=True).start()

    @classmethod
    def one(cls) -> Loop:
        """The loop, started at first use."""
        if cls._one is None:
            cls._one = cls()
        return cls._one

    def do(self, what: Callable[[], T]) -> T:
        """Calls a function in the loop and returns what it returns."""
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(what())
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(call)
        return done.result(10)

    def run(self, what: Coroutine[object, object, T]) -> T:
        """Runs a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(10)


class _Half(asyncio.Protocol):
    """One of the two sockets of a wire."""

    def __init__(self, on_data: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self.on_data, self.on_lost = on_data, on_lost
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.on_lost()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Path:
    """One direction of a wire behind the proxy's rules: what `Conditions` are about.

    What is sent in one turn of the loop is one piece. What is on its way arrives, even if its sender is cut off.
    """

    def __init__(self, proxy: Proxy, side: Side, far: _Half) -> None:
        self._proxy, self._side, self._far = proxy, side, far
        self._gathered = bytearray()
        self._under_way: deque[bytes | None] = deque()
        self._sent = self._due = 0.0

    def carry(self, data: bytes) -> None:
        """Sends bytes."""
        if self._proxy.conditions[self._side] == GOOD and not (self._under_way or self._gathered):
            self._far.write(data)
            return
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._depart)
        self._gathered += data

    def end(self) -> None:
        """Sends the end, which comes after everything else."""
        if self._under_way or self._gathered:
            self._depart()
            self._put(None)
        else:
            self._far.close()

    def _depart(self) -> None:
        piece, self._gathered = bytes(self._gathered), bytearray()
        if piece:
            self._put(piece)

    def _put(self, piece: bytes | None) -> None:
        loop, now, network = asyncio.get_running_loop(), time.monotonic(), self._proxy.conditions[self._side]
        self._sent = max(self._sent, now) + len(piece or b"") / network.rate
        takes = network.latency + network.jitter * self._proxy.random.random()
        if self._proxy.random.random() < network.lost:
            takes += network.resent
        self._due = max(self._due, self._sent + takes)
        self._under_way.append(piece)
        loop.call_later(self._due - now, self._arrive)

    def _arrive(self) -> None:
        piece = self._under_way.popleft()  # the first in order, whichever timer this is
        if piece is None:
            self._far.close()
        else:
            self._far.write(piece)


@dataclass
class _Due:
    """A reply that the client waits for; canned: it will not come from the server."""

    words: Words
    canned: bytes | None = None


class Wire:
    """One connection of a proxy: a client's socket, a server's, and what is on its way between them."""

    def __init__(self, proxy: Proxy, number: int) -> None:
        self.proxy, self.number = proxy, number
        self.client = _Half(self._from_client, self._client_lost)
        self.server = _Half(self._from_server, self._server_lost)
        self._there, self._back = _Path(proxy, Side.COMMAND, self.server), _Path(proxy, Side.REPLY, self.client)
        self.commands: deque[tuple[Words, bytes]] = deque()
        self.replies: deque[tuple[Words, bytes]] = deque()
        self.answered: list[tuple[Words, bytes]] = []
        self.holding = self.holding_replies = False
        self.cut_off = self.server_closed = self.client_closed = False
        self._due: deque[_Due] = deque()
        self._in, self._out = bytearray(), bytearray()
        self._connecting: asyncio.Task[None] | None = None

    # in the proxy's loop

    def begin(self) -> asyncio.Protocol:
        """Called for a new connection."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())
        return self.client

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self.server, HOST, self.proxy.upstream)
        except OSError:
            self._server_lost()
        else:
            self.pump()

    def _from_client(self, data: bytes) -> None:
        self._in += data
        while (end := frame_end(self._in, 0)) is not None:
            raw, self._in = bytes(self._in[:end]), self._in[end:]
            words = words_of(raw)
            self.proxy.seen.append(Seen(self.number, words))
            self.commands.append((words, raw))
        self.pump()

    def _from_server(self, data: bytes) -> None:
        self._out += data
        while (end := frame_end(self._out, 0)) is not None:
            raw, self._out = bytes(self._out[:end]), self._out[end:]
            # What confirms a subscription is a push that stands where the reply would.
            if (raw[:1] == b">" and not raw.startswith(b">3\r\n$9\r\nsubscribe\r\n")) or not self._due:
                self.replies.append(((b"PUSH",), raw))
            else:
                self._emit_canned()
                self.replies.append((self._due.popleft().words, raw))
                self._emit_canned()
        self.pump()

    def _emit_canned(self) -> None:
        while self._due and (canned := self._due[0].canned) is not None:
            self.replies.append((self._due.popleft().words, canned))

    def _client_lost(self) -> None:
        self.client_closed = True
        # What is held belongs to the network now: it may still arrive. Otherwise the server hears of the end.
        if not (self.cut_off or self.holding or Side.COMMAND in self.proxy.dark):
            self._there.end()

    def _server_lost(self) -> None:
        self.server_closed = True
        if not (self.cut_off or Side.REPLY in self.proxy.dark):
            self._back.end()

    def pump(self) -> None:
        """Moves on what may move."""
        dark = self.proxy.dark
        while self.commands and self.server.transport is not None and not (self.holding or Side.COMMAND in dark):
            self._command(*self.commands[0])
        while self.replies and not (self.holding_replies or Side.REPLY in dark):
            self._reply(*self.replies[0])

    def _command(self, words: Words, raw: bytes) -> None:
        rule = self.proxy.rule_for(Side.COMMAND, words)
        act = rule.act if rule is not None else None
        if act is Act.HOLD:
            self.holding = True
            return
        self.commands.popleft()
        if act is Act.CUT:
            self.cut_now()
        elif act is Act.ANSWER and rule is not None:
            self._due.append(_Due(words, rule.answer))
            if len(self._due) == 1:
                self._emit_canned()
        elif act is not Act.DROP:
            self._due.append(_Due(words))
            self.proxy.forwarded.append(Seen(self.number, words))
            self._there.carry(raw)
            if act is Act.PASS_AND_CUT:
                self.cut_now()

    def _reply(self, words: Words, raw: bytes) -> None:
        rule = self.proxy.rule_for(Side.REPLY, words)
        act = rule.act if rule is not None else None
        if act is Act.HOLD:
            self.holding_replies = True
            return
        self.replies.popleft()
        if act is Act.CUT:
            self.cut_now()
        elif act is not Act.DROP:
            self.answered.append((words, raw))
            self._back.carry(rule.answer if rule is not None and act is Act.ANSWER else raw)
            if act is Act.PASS_AND_CUT:
                self.cut_now()

    def cut_now(self, keep: int | None = None) -> None:
        """Breaks the client's side with a reset; the server's side stays open, and what is held stays held.

        keep: how many of the held commands are still on their way; the others are lost with the connection
        """
        self.cut_off = True
        self.commands = deque(list(self.commands)[:keep])
        if self.client.transport is not None:
            sock = self.client.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.client.abort()

    def end(self) -> None:
        """Ends both sides."""
        self.cut_off = True
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.abort()
        self.server.abort()

    # from a test's thread

    def cut(self, keep: int | None = None) -> None:
        """As `cut_now`."""
        Loop.one().do(lambda: self.cut_now(keep))

    def go(self) -> None:
        """Lets go what is held, in both directions, also after a cut."""

        def act() -> None:
            self.holding = self.holding_replies = False
            self.pump()

        Loop.one().do(act)

    def inject(self, data: bytes) -> None:
        """Sends the client something that the server did not say."""
        Loop.one().do(lambda: self.client.write(data))

    def reply_to(self, *words: bytes) -> object:
        """What the server answered to the first command that begins with these words."""
        for command, raw in list(self.answered):
            if tuple(word.upper() for word in command[: len(words)]) == words:
                reader = Reader()
                reader.feed(raw)
                return reader.gets()
        raise AssertionError(f"wire {self.number} has no reply to {words}")


class Proxy:
    """A port in front of a server on this machine.

    seen, forwarded: commands as clients sent them, and as the server got them, over all wires in order
    dark: directions in which nothing passes; connections are accepted all the same
    conditions: what happens to what passes, by direction
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.wires: list[Wire] = []
        self.rules: list[Rule] = []
        self.seen: list[Seen] = []
        self.forwarded: list[Seen] = []
        self.dark: frozenset[Side] = frozenset()
        self.conditions = dict.fromkeys(Side, GOOD)
        self.random = random.Random(0)
        self._reservation: PortReservation = reserve_port()
        self.port = self._reservation.port
        self._listener: asyncio.AbstractServer | None = None
        self.accept()

    @property
    def name(self) -> str:
        """`host:port`, as an options file names it."""
        return f"{HOST}:{self.port}"

    def _wire(self) -> asyncio.Protocol:
        wire = Wire(self, len(self.wires))
        self.wires.append(wire)
        return wire.begin()

    def rule_for(self, side: Side, words: Words) -> Rule | None:
        """The first rule that matches; it is used up by one."""
        for rule in self.rules:
            if rule.side is side and rule.times > 0 and rule.match(words):
                rule.times -= 1
                return rule
        return None

    # rules

    def on(
        self,
        act: Act,
        match: Callable[[Words], bool],
        *,
        replies: bool = False,
        answer: bytes = b"",
        times: float = float("inf"),
    ) -> None:
        """Adds a rule for commands, or for the replies to them."""
        side = Side.REPLY if replies else Side.COMMAND
        Loop.one().do(lambda: self.rules.append(Rule(side, match, act, answer, times)))

    def clear(self) -> None:
        """Takes back all rules; what is held stays held until `go()`."""
        Loop.one().do(self.rules.clear)

    def go(self) -> None:
        """Takes back all rules and lets go what is held on every wire."""
        self.clear()
        for wire in list(self.wires):
            wire.go()

    def black_hole(self, *sides: Side) -> None:
        """From now on nothing passes in these directions (in both, if none is named), and nobody is told."""
        self.dark = frozenset(sides or Side)

    def weather(self, conditions: Conditions, *sides: Side) -> None:
        """From now on what passes in these directions (in both, if none is named) meets these conditions."""
        for side in sides or Side:
            self.conditions[side] = conditions

    @contextlib.contextmanager
    def flapping(self, seconds: float) -> Iterator[None]:
        """Meanwhile every wire is cut each so many seconds."""
        loop = Loop.one().loop
        timer: asyncio.TimerHandle | None = None

        def cut() -> None:
            nonlocal timer
            for wire in self.wires:
                wire.cut_now()
            timer = loop.call_later(seconds, cut)

        Loop.one().do(cut)
        try:
            yield
        finally:
            Loop.one().do(lambda: timer and timer.cancel())

    def light(self) -> None:
        """Everything passes again, also what was sent meanwhile."""

        def act() -> None:
            self.dark = frozenset()
            for wire in self.wires:
                wire.pump()
                # Ends that happened in the dark are told now.
                if wire.server_closed and not wire.cut_off:
                    wire.client.close()
                if wire.client_closed and not (wire.cut_off or wire.holding):
                    wire.server.close()

        Loop.one().do(act)

    def cut(self) -> None:
        """Breaks the client's side of every wire."""

        def act() -> None:
            for wire in self.wires:
                wire.cut_now()

        Loop.one().do(act)

    def refuse(self) -> None:
        """Nobody listens any more; connections that stand stay."""

        async def act() -> None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None

        Loop.one().run(act())

    def accept(self) -> None:
        """Listens, again."""

        async def act() -> None:
            if self._listener is None:
                self._listener = await asyncio.get_running_loop().create_server(self._wire, HOST, self.port)

        Loop.one().run(act())

    def reset(self) -> None:
        """As it was at first: listening, without wires, rules or memory."""
        self._end_wires()
        self.rules, self.wires, self.dark = [], [], frozenset()
        self.conditions = dict.fromkeys(Side, GOOD)
        self.seen, self.forwarded = [], []
        self.accept()

    def close(self) -> None:
        """Ends everything."""
        self.refuse()
        self._end_wires()
        self._reservation.close()

    def _end_wires(self) -> None:
        def act() -> None:
            for wire in self.wires:
                wire.end()

        Loop.one().do(act)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what was seen

    def live(self) -> list[Wire]:
        """The wires whose client is connected."""
        return [wire for wire in list(self.wires) if wire.client.transport is not None and not wire.cut_off]

    def holding(self, *, replies: bool = False) -> list[Wire]:
        """The wires that hold something."""
        return [wire for wire in list(self.wires) if (wire.holding_replies if replies else wire.holding)]

    def wires_answered(self) -> list[tuple[Words, bytes]]:
        """Commands and the replies to them that clients were given, wire after wire."""
        return [pair for wire in list(self.wires) for pair in list(wire.answered)]


# What commands look like


def about(resource: str, *names: bytes, prefix: str = "redlock:") -> Callable[[Words], bool]:
    """Matches commands on a resource's key; with these names, if any are given."""
    key = f"{prefix}{resource}".encode()
    return lambda words: key in words[1:5] and (not names or words[0].upper() in names)


def named(*names: bytes) -> Callable[[Words], bool]:
    """Matches commands by name."""
    return lambda words: words[0].upper() in names


def anything(words: Words) -> bool:
    """Matches every command."""
    return True


def frame_end(data: bytes | bytearray, start: int) -> int | None:
    """Where the RESP value that begins at `start` ends; None while it is incomplete."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    kind, end = data[start : start + 1], line + 2
    if kind in (b"$", b"=", b"!"):
        size = int(data[start + 1 : line])
        end = end if size < 0 else end + size + 2
        return end if len(data) >= end else None
    if kind in (b"*", b"~", b">", b"%", b"|"):
        count = int(data[start + 1 : line]) * (2 if kind in (b"%", b"|") else 1)
        for _ in range(max(0, count)):
            nested = frame_end(data, end)
            if nested is None:
                return None
            end = nested
    return end


def words_of(raw: bytes) -> Words:
    """The words of a command in RESP."""
    reader = Reader()
    reader.feed(raw)
    return tuple(cast(list[bytes], reader.gets()))


# Without a proxy


def ask(port: int, *words: str | bytes | int, timeout: float = 5.0, login: tuple[str, ...] = ()) -> object:
    """One command over a new plain connection; the reply, errors as `hiredis.ReplyError`."""
    return tell(port, *([("AUTH", *login)] if login else []), words, timeout=timeout)[-1]


def tell(port: int, *commands: tuple[str | bytes | int, ...], timeout: float = 5.0) -> list[object]:
    """Several commands over one new plain connection; their replies."""
    reader = Reader()
    replies: list[object] = []
    with socket.create_connection((HOST, port), timeout) as connection:
        connection.sendall(b"".join(pack_command(words) for words in commands))
        while len(replies) < len(commands):
            if (reply := reader.gets()) is not False:
                replies.append(reply)
            elif data := connection.recv(65536):
                reader.feed(data)
            else:
                raise ConnectionError("the server closed the connection")
    return replies


Talk = Callable[[socket.socket], object]


@dataclass
class Port:
    """A port where `talk` is called with every connection, in a thread of its own; it is closed when that returns.

    dialled: when connections came in, by `time.monotonic`
    """

    talk: Talk
    dialled: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reservation = reserve_port()
        self.port = self._reservation.port
        self._listener = socket.create_server((HOST, self.port), reuse_port=False)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.dialled.append(time.monotonic())
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            self._open.add(connection)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.talk(connection)
        self._open.discard(connection)

    def close(self) -> None:
        """Ends the port and everything that talks there."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._reservation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# Talks


def says_nothing(connection: socket.socket) -> None:
    """Reads and never answers."""
    while connection.recv(65536):
        pass


def hangs_up(connection: socket.socket) -> None:
    """Closes at once."""


def says(text: bytes) -> Talk:
    """Answers the first bytes with this, then says nothing."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text)
        says_nothing(connection)

    return talk


def greets_with(text: bytes) -> Talk:
    """Says this before it is asked, then says nothing."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(text)
        says_nothing(connection)

    return talk


@contextlib.contextmanager
def closing(*things: Proxy | Port) -> Iterator[None]:
    """Closes all of them at the end, whatever happens."""
    with contextlib.ExitStack() as stack:
        for thing in things:
            stack.callback(thing.close)
        yield
