"""One pipelined connection to one server, and when what is queued on connections is written.

Replies come in the order of the commands, so who waits for them stands in a queue. There are two kinds: a `Sink` waits
for one reply; a `Series` (in practice a `Flight`) for those to many commands that were written together, and reads
them as a whole. Each hears exactly once of every reply, or that the connection was lost.

    made --connection_made--> alive --connection_lost, abort, finish--> over

    silent     a full server timeout has passed since something was asked, and nothing has come
    full       MAX_UNANSWERED commands wait for replies
    impaired   silent or full, as its pipeline knows it: nothing new is sent here

Only this module writes a connection's fields.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from hiredis import ProtocolError, PushNotification, Reader, pack_command

from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.wire.ports import ConnectionFailed

__all__ = ["HEAD_START", "MAX_UNANSWERED", "Connection", "Flusher", "Series", "Sink", "Upstream"]

MAX_UNANSWERED = 1 << 18
"""Commands that may wait for one connection's replies; beyond that it is full."""

MAX_REPLY = 1 << 20
"""Bytes that a server may send without ending a reply; one that sends more is given up."""

HEAD_START: Final = 100
"""Messages of a turn after which servers get something to do; fewer would cost more in writes than it is worth."""

_MISSING: Final = object()

_UNASKED: Final = "the server sent a reply that nobody had asked for"

_WITH_ELEMENTS: Final = (b"*", b"%", b"~", b">", b"|")
"""What replies begin with that consist of others."""


class Sink(Protocol):
    """Who waits for the reply to one command."""

    def reply(self, connection: Connection, value: object) -> None:
        """The server replied; an error is an `ErrorReply`. Must not raise."""

    def lost(self, connection: Connection) -> None:
        """The connection broke before the reply: the command may have run, may still run, or never will."""


class Series(ABC):
    """Who waits for the replies to commands that were written in one piece. Its methods must not raise."""

    @abstractmethod
    def match(self, connection: Connection, data: bytes, start: int) -> int:
        """Take what came, from `start` on, if it is just what is foreseen. Returns how many bytes that are, or 0."""

    @abstractmethod
    def parsed(self, connection: Connection, replies: list[object], start: int) -> int:
        """Take its own among parsed replies, from `start` on. Returns how many these are, at least 1."""

    @abstractmethod
    def lost(self, connection: Connection) -> None:
        """The connection broke before every reply had come."""

    @abstractmethod
    def part(self) -> None:
        """From now on each reply is heard by the one who asked for it."""


class Upstream(ABC):
    """Who sends on several connections at once (a `Pipeline`), as a connection knows it."""

    @abstractmethod
    def queue_open(self) -> None:
        """Queue what is gathered for all connections: it goes before what is now sent on one of them."""

    @abstractmethod
    def refresh(self) -> None:
        """Look again which connections can be used."""


class Flusher:
    """Collects those who have something to write, and has them write it at the end of the loop's turn.

    So everything that is asked for in one turn leaves in one write. A caller that is alone gains nothing from that and
    would wait a turn: after a turn in which one message was queued, the next turn's first message is written at once,
    and only what joins it in that turn is collected. And in a turn with many messages servers would wait for the last
    of them: there the first HEAD_START (for each pipeline) are written at once, and then whenever their number has
    doubled.
    """

    __slots__ = ("_due", "_loop", "_queued", "_scheduled", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Callable[[], None]] = []
        self._queued, self._due, self._scheduled = 0, HEAD_START, False

    def add(self, flush: Callable[[], None]) -> None:
        """Somebody has something to write; `flush` writes it."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)
        self._waiting.append(flush)

    def queued(self) -> None:
        """All commands of one message have been queued."""
        self._queued += 1
        due = self._due
        if self._queued >= due and (due == 1 or self._queued >= due * len(self._waiting)):
            self._due = max(2 * due, HEAD_START)
            self.flush()

    def _end_turn(self) -> None:
        self._due = 1 if self._queued == 1 else HEAD_START
        self._scheduled, self._queued = False, 0
        if self._waiting:
            self.flush()

    def flush(self) -> None:
        """Write everything now: servers begin with it while more is made."""
        waiting, self._waiting = self._waiting, []
        for flush in waiting:
            flush()


class Connection(asyncio.Protocol):
    """A transport, a parser, and the queue of those who wait for replies.

    flusher: when what is queued is written
    index: the server's, in its group's order
    on_lost: called once when the connection is gone, before those in the queue hear of it
    on_push: called with whatever the server sends of its own accord. Must not raise

    dialect: what the server understands, SCRIPTED until it serves
    upstream: who sends on it besides; None until it serves
    unanswered: how many commands wait for replies
    waiting: who waits for these, in order
    heard: how many times replies have arrived; pushes and parts of replies don't count
    reason: why it is over
    """

    __slots__ = (
        "_buffer",
        "_flusher",
        "_on_lost",
        "_on_push",
        "_partial",
        "_reader",
        "_transport",
        "_unfinished",
        "alive",
        "dialect",
        "heard",
        "impaired",
        "index",
        "reason",
        "silent",
        "unanswered",
        "upstream",
        "waiting",
    )

    def __init__(
        self,
        flusher: Flusher,
        index: int,
        on_lost: Callable[[Connection], None],
        on_push: Callable[[Connection, list[object]], None],
    ) -> None:
        self._flusher, self._on_lost, self._on_push = flusher, on_lost, on_push
        self._transport: asyncio.Transport | None = None
        self._buffer: list[bytes] = []
        self._reader = Reader(notEnoughData=_MISSING, replyError=ErrorReply)
        self.index = index
        self.waiting: deque[Sink | Series] = deque()
        self.dialect: Dialect = SCRIPTED
        self.upstream: Upstream | None = None
        self.alive = self.silent = self.impaired = self._partial = False
        self.heard = self.unanswered = self._unfinished = 0
        self.reason = "the server closed the connection"

    # --- whether it can be used ------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether too many commands wait for replies to add another."""
        return self.unanswered >= MAX_UNANSWERED

    def serve(self, upstream: Upstream | None) -> None:
        """From now on `upstream` sends on it, too."""
        self.upstream = upstream

    def speak(self, dialect: Dialect) -> None:
        """The server turned out to understand this."""
        self.dialect = dialect

    def fall_silent(self) -> None:
        """A full server timeout has passed without an answer."""
        self.silent = True

    def judge(self) -> bool:
        """Whether it is impaired now. The upstream refreshes when that is not what it was before."""
        self.impaired = self.silent or self.full
        return self.impaired

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, command: bytes, sink: Sink) -> None:
        """Queue one packed command for this connection alone. Only on one that is alive."""
        if self.upstream is not None:
            self.upstream.queue_open()
        if not self._buffer:
            self._flusher.add(self.flush)
        self._buffer.append(command)
        self.waiting.append(sink)
        self.unanswered += 1

    def queue_series(self, data: bytes, series: Series, size: int) -> None:
        """Queue the packed commands of a series; size: how many."""
        if not self._buffer:
            self._flusher.add(self.flush)
        self._buffer.append(data)
        self._expect(series, size)

    def write_series(self, data: bytes, series: Series, size: int) -> None:
        """Write the packed commands of a series, after what is queued; size: how many."""
        if self._buffer:
            self._buffer.append(data)
        elif self.alive and self._transport is not None:
            self._transport.write(data)
        self._expect(series, size)

    def _expect(self, series: Series, size: int) -> None:
        self.waiting.append(series)
        self.unanswered += size
        if self.full and not self.impaired and self.upstream is not None:
            self.upstream.refresh()

    def request(self, *words: str | bytes | int) -> asyncio.Future[object]:
        """Queue a command off the hot path. The future holds its reply or raises ConnectionFailed."""
        answer = _Answer(asyncio.get_running_loop().create_future())
        if self.alive:
            self.send(pack_command(words), answer)
        else:
            answer.lost(self)
        return answer.future

    def flush(self) -> None:
        """Write what is queued."""
        if self._buffer:
            if self.alive and self._transport is not None:
                self._transport.write(b"".join(self._buffer))
            self._buffer.clear()

    def part_series(self) -> None:
        """From now on each reply that is awaited is heard by the one who asked for it."""
        for who in self.waiting:
            if isinstance(who, Series):
                who.part()

    # --- its end ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End the connection in good order: what is queued is still sent, replies are no longer awaited."""
        if self.alive and self._transport is not None:
            if self.upstream is not None:
                self.upstream.queue_open()
            self.flush()
            self._transport.close()
            self.reason = "closed"
            self._end()

    @property
    def gone(self) -> bool:
        """Whether the transport is closed too, which takes TLS some turns of the loop more."""
        return self._transport is None

    def abort(self, reason: str) -> None:
        """Break the connection at once; what was not answered is lost."""
        if self.alive:
            self.reason = reason
            self.drop()
            self._end()

    def drop(self) -> None:
        """Close the transport without ceremony."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self.alive = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop: the connection is gone; everyone in the queue hears of it."""
        self._transport = None
        if exc is not None and self.alive:
            self.reason = f"connection broken: {exc}"
        self._end()

    def _end(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._buffer.clear()
        self._on_lost(self)
        waiting, self.waiting, self.unanswered = self.waiting, deque(), 0
        for who in waiting:
            who.lost(self)

    # --- receiving -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hand each whole reply to the first in the queue.

        What is just as foreseen is not even parsed. The parser sees the rest, and everything as long as it keeps part
        of a reply.
        """
        taken = 0 if self._partial else self._match(data)
        if taken < len(data):
            self._parse(data[taken:])

    def _match(self, data: bytes) -> int:
        """Hand out what is just as foreseen. Returns how many bytes that are."""
        taken, waiting = 0, self.waiting
        while taken < len(data) and waiting and self.alive:
            first = waiting[0]
            if not isinstance(first, Series):
                break
            size = first.match(self, data, taken)
            if not size:
                break
            taken += size
        if taken and self.alive:
            self._answered()
        return taken

    def _parse(self, data: bytes) -> None:
        self._reader.feed(data)
        replies: list[object] = []
        try:
            replies.extend(iter(self._reader.gets, _MISSING))  # keeps what came before an error
        except (ProtocolError, TypeError, ValueError, MemoryError):  # TypeError: a list as the key of a map
            self._distribute(replies)
            self.abort("what answers there does not speak the Redis protocol")
        else:
            self._partial = not replies or self._may_go_on(data)
            if not replies:
                self._wait(len(data))
                return
            self._unfinished = 0
            self._distribute(replies)

    def _may_go_on(self, data: bytes) -> bool:
        """Whether a reply may have begun in data that has not ended there.

        The parser says whether it keeps something; of a reply with elements it keeps nothing, nor of others the first
        byte.
        """
        return self._reader.has_data() or not data.endswith(b"\n") or any(head in data for head in _WITH_ELEMENTS)

    def _distribute(self, received: list[object]) -> None:
        """In the order in which they came: a push before a reply was caused by an earlier command."""
        start = 0
        for position, push in enumerate(received):
            if _is_push(push):
                self._hand_out(received[start:position])
                start = position + 1
                if self.alive:
                    self._on_push(self, cast("list[object]", push))
        self._hand_out(received[start:] if start else received)

    def _hand_out(self, replies: list[object]) -> None:
        waiting, heard, position, end = self.waiting, False, 0, len(replies)
        while position < end and self.alive:
            if not waiting:
                self.abort(_UNASKED if heard or self.heard else _greeting(replies[position]))
                return
            heard, first = True, waiting[0]
            if isinstance(first, Series):
                position += first.parsed(self, replies, position)
            else:
                self.answered(1, True)
                first.reply(self, replies[position])
                position += 1
        if heard and self.alive:
            self._answered()

    def answered(self, count: int, last: bool) -> None:
        """The first in the queue has taken so many replies; last: it waits for no more."""
        self.unanswered -= count
        if last:
            self.waiting.popleft()

    def _answered(self) -> None:
        self.heard += 1
        if self.impaired and self.upstream is not None:
            self.silent = False
            self.upstream.refresh()

    def _wait(self, size: int) -> None:
        self._unfinished += size
        if self._unfinished > MAX_REPLY:
            self.abort("the server sent a reply without an end")


def _is_push(reply: object) -> bool:
    """Whether nobody asked for it. What confirms a subscription is a push that stands where the reply would."""
    return reply.__class__ is PushNotification and cast("list[object]", reply)[:1] != [b"subscribe"]


def _greeting(reply: object) -> str:
    """Why a connection is over on which the server spoke first.

    One that takes no more clients, or is in protected mode, says so at once and hangs up. Once it was told something,
    an error may repeat that, a password among it, and is not shown.
    """
    return reply.text if isinstance(reply, ErrorReply) else _UNASKED


class _Answer:
    """A sink that is a future."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[object]) -> None:
        self.future = future

    def reply(self, connection: Connection, value: object) -> None:
        if not self.future.done():
            self.future.set_result(value)

    def lost(self, connection: Connection) -> None:
        if not self.future.done():
            self.future.set_exception(ConnectionFailed(connection.reason))
            self.future.exception()  # several may be in the queue, and whoever asked awaits only the first to fail
