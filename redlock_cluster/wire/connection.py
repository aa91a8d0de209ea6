"""One pipelined connection to one server.

What is queued on any connection in one turn of the loop leaves together (see `outbox.py`), and replies are matched to
commands first in, first out. A command's `Sink` hears exactly once: its reply, or that the connection was lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from hiredis import ProtocolError, PushNotification, Reader, pack_command

from redlock_cluster.core.dialect import SCRIPTED, Dialect, ErrorReply
from redlock_cluster.wire.flight import Volley
from redlock_cluster.wire.flusher import Outbox
from redlock_cluster.wire.ports import ConnectionFailed

if TYPE_CHECKING:
    from redlock_cluster.wire.pipeline import Lane

__all__ = ["MAX_UNANSWERED", "Connection", "Sink"]

MAX_UNANSWERED = 1 << 18
"""Commands that may wait for one connection's replies; beyond that its server's vote is ABSENT at once."""

MAX_REPLY = 1 << 20
"""Bytes that a server may send without ending a reply; one that sends more is given up."""

_MISSING: Final = object()

_WITH_ELEMENTS: Final = (b"*", b"%", b"~", b">", b"|")
"""What replies begin with that consist of others."""


class Sink(Protocol):
    """Who waits for a command's reply."""

    def reply(self, connection: Connection, value: object) -> None:
        """The server answered; an error is an `ErrorReply`. Must not raise."""

    def lost(self, connection: Connection) -> None:
        """The connection broke before the reply: the command may have run, may still run, or never will."""


class Connection(asyncio.Protocol):
    """A transport, a parser, and the queue of those who wait for replies.

    index: the server's place in its group; dialect: what it understands (set by the greeting)
    on_lost: called once when the connection is gone, before those in line hear of it
    lane: where it serves, None before
    silent: a full server timeout has passed since something was asked, without an answer
    impaired: it is silent or full, and so left out of rounds
    unanswered: how many commands wait for replies; pending: who waits for these, volleys as a whole
    heard: how many times replies have arrived; pushes and parts of replies don't count
    """

    __slots__ = (
        "_buffer",
        "_on_lost",
        "_outbox",
        "_partial",
        "_reader",
        "_transport",
        "_unfinished",
        "alive",
        "dialect",
        "heard",
        "impaired",
        "index",
        "lane",
        "pending",
        "reason",
        "silent",
        "unanswered",
    )

    def __init__(self, outbox: Outbox, index: int, on_lost: Callable[[Connection], None]) -> None:
        self._outbox = outbox
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer: list[bytes] = []
        self._reader = Reader(notEnoughData=_MISSING, replyError=ErrorReply)
        self.index = index
        self.pending: deque[Sink | Volley] = deque()
        self.dialect: Dialect = SCRIPTED
        self.lane: Lane | None = None
        self.alive = self.silent = self.impaired = self._partial = False
        self.heard = self.unanswered = self._unfinished = 0
        self.reason = "the server closed the connection"

    @property
    def full(self) -> bool:
        """Too many commands wait for replies to add another."""
        return self.unanswered >= MAX_UNANSWERED

    def send(self, command: bytes, sink: Sink) -> None:
        """Queues a packed command for this connection alone. Only on one that is alive."""
        if self.lane is not None:
            self.lane.hand_over()
        if not self._buffer:
            self._outbox.add(self)
        self._buffer.append(command)
        self.pending.append(sink)
        self.unanswered += 1

    def queue(self, data: bytes, volley: Volley) -> None:
        """Queues the commands of a volley."""
        if not self._buffer:
            self._outbox.add(self)
        self._buffer.append(data)
        self._expect(volley)

    def write(self, data: bytes, volley: Volley) -> None:
        """Writes the commands of a volley, after what is queued."""
        if self._buffer:
            self._buffer.append(data)
        elif self.alive and self._transport is not None:
            self._transport.write(data)
        self._expect(volley)

    def _expect(self, volley: Volley) -> None:
        self.pending.append(volley)
        self.unanswered += volley.size
        if self.full and not self.impaired and self.lane is not None:
            self.lane.refresh()

    def request(self, *words: str | bytes | int) -> asyncio.Future[object]:
        """Queues a command off the hot path; the future holds its reply or raises ConnectionFailed."""
        answer = _Answer(asyncio.get_running_loop().create_future())
        if self.alive:
            self.send(pack_command(words), answer)
        else:
            answer.lost(self)
        return answer.future

    def flush(self) -> None:
        """Writes what is queued."""
        if self._buffer:
            if self.alive and self._transport is not None:
                self._transport.write(b"".join(self._buffer))
            self._buffer.clear()

    def finish(self) -> None:
        """Ends the connection in good order: what is queued is still sent, replies are no longer awaited."""
        if self.alive and self._transport is not None:
            if self.lane is not None:
                self.lane.hand_over()
            self.flush()
            self._transport.close()
            self.reason = "closed"
            self._end()

    @property
    def gone(self) -> bool:
        """Whether the transport is closed too, which takes TLS some turns of the loop more."""
        return self._transport is None

    def abort(self, reason: str) -> None:
        """Breaks the connection at once; what was not answered is lost."""
        if self.alive:
            self.reason = reason
            self.drop()
            self._end()

    def drop(self) -> None:
        """Closes the transport without ceremony."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self.alive = True

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hands each whole reply to the next in line."""
        taken = 0 if self._partial else self._take(data)
        if taken < len(data):
            self._parse(data[taken:])

    def _take(self, data: bytes) -> int:
        """Hands out replies that are just as expected, as they come. How many bytes these are."""
        taken, pending = 0, self.pending
        while taken < len(data) and pending and self.alive:
            first = pending[0]
            if not isinstance(first, Volley):
                break
            size = first.take(self, data, taken)
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
            self._hand_out(replies)
            self.abort("what answers there does not speak the Redis protocol")
        else:
            self._partial = not replies or self._may_go_on(data)
            if not replies:
                self._wait(len(data))
                return
            self._unfinished = 0
            self._hand_out(replies)

    def _may_go_on(self, data: bytes) -> bool:
        """Whether a reply may have begun in data that has not ended there.

        The parser tells of what it keeps; of a reply with elements it keeps none, nor the first byte of others.
        """
        return self._reader.has_data() or not data.endswith(b"\n") or any(head in data for head in _WITH_ELEMENTS)

    def _hand_out(self, replies: list[object]) -> None:
        replies = [reply for reply in replies if reply.__class__ is not PushNotification]
        pending, heard, place, end = self.pending, False, 0, len(replies)
        while place < end and self.alive:
            reply = replies[place]
            if not pending:
                self.abort("the server sent a reply that nobody had asked for")
                return
            heard, first = True, pending[0]
            if isinstance(first, Volley):
                taken = first.sort(self, replies, place)
            else:
                taken = 1
                pending.popleft()
                self.unanswered -= 1
                first.reply(self, reply)
            place += taken
        if heard and self.alive:
            self._answered()

    def _answered(self) -> None:
        self.heard += 1
        if self.impaired and self.lane is not None:
            self.silent = False
            self.lane.refresh()

    def _wait(self, size: int) -> None:
        self._unfinished += size
        if self._unfinished > MAX_REPLY:
            self.abort("the server sent a reply without an end")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop: the connection is gone; everyone in line hears of it."""
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
        pending, self.pending, self.unanswered = self.pending, deque(), 0
        for sink in pending:
            sink.lost(self)


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
            self.future.exception()  # several may be in line, and whoever asked awaits only the first to fail
