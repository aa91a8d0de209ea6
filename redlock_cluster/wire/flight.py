"""Flights: messages that leave together on all connections of a pipeline, and the counting of their answers.

Mostly every server does what every message asks. While that is so, replies are not even parsed: what a server sends is
compared, as it comes, with what is foreseen. And answers are not counted one by one: how many messages of the flight a
server has answered is one number, and the messages that enough servers have passed are through (as Raft finds its
commit index). The first answer of any other kind takes its message out of the common count: from then on that message
counts alone, and hears each answer.

The invariants, for each server i that the flight goes to:

    0 <= answered[i] <= size       server i has answered exactly the first answered[i] messages
    read[i]                        is the length of the replies foreseen for these
    passed                         the messages before it are through: `needed` servers have answered them
    finished                       how many servers have answered all

For a message that counts alone, its flight never calls `on_quorum`; for one that does not, it calls nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.replies import FORESEEN
from redlock_cluster.wire.connection import Connection, Series
from redlock_cluster.wire.keeper import Keeper

__all__ = ["Flight", "Message"]

_LINE: Final = b"\n"
_LAST: Final = _LINE[0]

# What flights have that are through. Nothing is ever added to these.
_NO_MESSAGES: Final[list[Message]] = []
_NONE_ALONE: Final[set[int]] = set()
_READ: Final[list[int]] = []
_NO_REPLIES: Final[dict[int, list[bytes]]] = {}
_NO_BYTES: Final[dict[int, bytes]] = {}


class Message(Decision, ABC):
    """What is said to several servers at once, and waited for.

    patience: seconds that answers are waited for
    started: engine time before the first byte
    flight: what it left in, None while it has not, or if it is sent to servers one by one
    offset: its index there
    """

    __slots__ = ("flight", "offset", "patience", "started")

    def __init__(self, patience: float) -> None:
        Decision.__init__(self)
        self.patience = patience
        self.started = 0.0
        self.flight: Flight | None = None
        self.offset = 0

    def joined(self, flight: Flight, offset: int) -> None:
        """It leaves in this flight."""
        self.flight, self.offset, self.started = flight, offset, flight.started

    @abstractmethod
    def command(self, dialect: Dialect) -> tuple[bytes, bytes]:
        """The packed command, and the reply foreseen: a key of `replies.FORESEEN`, or UNFORESEEN."""

    @abstractmethod
    def on_quorum(self) -> None:
        """As many servers as are needed answered as foreseen: the message is decided. `notify` follows."""

    @abstractmethod
    def count_alone(self) -> object:
        """From now on it hears each answer; it starts from what its flight has counted. Once or more."""

    @abstractmethod
    def reply(self, connection: Connection, value: object) -> None:
        """A server answered. Only once it counts alone."""

    @abstractmethod
    def lost(self, connection: Connection) -> None:
        """A connection broke before its answer. Only once it counts alone."""

    @abstractmethod
    def missed(self, indices: list[int]) -> None:
        """These servers have not answered in time. Only once it counts alone."""


class Flight(Series):
    """Messages in the order in which every server executes their commands.

    keepers: one for each server of the group
    usable: mask of the servers that it goes to
    unasked: mask of the others
    why: for each of those, by index, why it can't be asked
    needed: how many servers must answer a message as foreseen
    started: engine time before the first byte
    patience: seconds that answers are waited for, from when it is closed

    messages: what has joined it
    size: how many these are, once it is closed
    outstanding: mask of the servers that have not answered all of it
    alone: offsets of the messages that count alone
    """

    __slots__ = (
        "_answered",
        "_bytes",
        "_finished",
        "_foreseen",
        "_keepers",
        "_level",
        "_needed",
        "_passed",
        "_read",
        "alone",
        "messages",
        "outstanding",
        "patience",
        "size",
        "started",
        "unasked",
        "why",
    )

    def __init__(
        self,
        keepers: tuple[Keeper, ...],
        usable: int,
        unasked: int,
        why: Mapping[int, str],
        needed: int,
        started: float,
        patience: float,
    ) -> None:
        self._keepers, self._needed = keepers, needed
        self.started, self.patience = started, patience
        self.outstanding, self.unasked, self.why = usable, unasked, why
        self.messages: list[Message] = []
        self.alone = _NONE_ALONE
        self._answered = [0] * len(keepers)
        self._read = [0] * len(keepers)
        self._foreseen: dict[int, list[bytes]] = {}
        self._bytes: dict[int, bytes] = {}
        self.size = self._finished = self._passed = 0
        self._level = True  # every server that has answered anything has answered everything

    def close(self) -> None:
        """No message joins any more."""
        self.size = len(self.messages)

    def expect(self, indices: tuple[int, ...], foreseen: list[bytes]) -> None:
        """These servers are asked for all of it, and their replies are foreseen so, message by message."""
        joined = b"".join(foreseen)
        for index in indices:
            self._foreseen[index], self._bytes[index] = foreseen, joined

    def leave_alone(self, offset: int) -> None:
        """The message at this offset counts alone from now on."""
        if self.alone is _NONE_ALONE:
            self.alone = set()
        self.alone.add(offset)

    def part(self) -> None:
        """Every message counts alone from now on."""
        for message in self.messages:
            message.count_alone()

    def passed_by(self, offset: int) -> int:
        """Mask of the servers that have answered a message, by its offset."""
        return sum(1 << index for index, answered in enumerate(self._answered) if answered > offset)

    # --- what comes ------------------------------------------------------------------------------------------------

    def match(self, connection: Connection, data: bytes, start: int) -> int:
        """Take what a server sent, from `start` on, if it is just the replies foreseen. Returns how many bytes, or 0.

        0 where something differs or is not whole, or some messages count alone: then it is to be parsed.
        """
        if self.alone:
            return 0
        index, size = connection.index, self.size
        whole, begin = self._bytes[index], self._read[index]
        end = begin + len(data) - start
        if end >= len(whole):
            usual, end = data.startswith(whole[begin:], start), len(whole)
        else:
            usual = whole.startswith(data[start:], begin) and whole[end - 1] == _LAST
        if not usual:
            return 0
        messages, taken, self._read[index] = self.messages, end - begin, end
        if taken < len(whole):
            # Every reply foreseen ends at its only newline (asserted in `core.replies`).
            size = self._answered[index] + data.count(_LINE, start, start + taken)
        self._advance(connection, size)
        if not self._level:
            self._settle(messages)
        elif self._finished == self._needed:
            self._decide(messages, size)
        return taken

    def parsed(self, connection: Connection, replies: list[object], start: int) -> int:
        """Take a server's parsed replies, from `start` on, one by one. Returns how many were for this flight.

        Some of them say something else than foreseen, or some messages count alone. Once the server has refused
        something, so does every message, so that it is noticed when it does as it is asked.
        """
        index, answered, messages = connection.index, self._answered, self.messages
        foreseen, keeper = self._foreseen[index], self._keepers[index]
        position, end = start, min(len(replies), start + self.size - answered[index])
        while position < end and connection.alive:
            reply, offset = replies[position], answered[index]
            position += 1
            message, text = messages[offset], foreseen[offset]
            if offset not in self.alone and (keeper.refusals or not _as_foreseen(reply, text)):
                message.count_alone()
            self._read[index] += len(text)
            self._advance(connection, offset + 1)
            if offset in self.alone:
                message.reply(connection, reply)
        self._settle(messages)
        return position - start

    def _advance(self, connection: Connection, end: int) -> None:
        """A server has answered the messages before `end`."""
        index = connection.index
        last = end == self.size
        connection.answered(end - self._answered[index], last)
        self._answered[index] = end
        if last:
            self._finished += 1
            self._done(index)
        else:
            self._level = False

    def _settle(self, messages: list[Message]) -> None:
        """Decide what enough servers have passed since the last time."""
        passed, mark = self._passed, sorted(self._answered)[-self._needed]
        if mark > passed:
            together = messages[passed:mark]
            if self.alone:
                together = [message for message in together if message.offset not in self.alone]
            self._decide(together, mark)

    def _decide(self, messages: list[Message], mark: int) -> None:
        """Enough servers have passed these messages, and all others before the mark."""
        self._passed = mark
        for message in messages:
            message.on_quorum()
            message.notify()

    # --- what does not come ----------------------------------------------------------------------------------------

    def lost(self, connection: Connection) -> None:
        """A connection broke before it had answered everything."""
        index, messages = connection.index, self.messages
        self._done(index)
        for message in messages[self._answered[index] :]:
            message.count_alone()
            message.lost(connection)

    def expire(self) -> None:
        """The deadline has passed: who has not answered is missed by each message, and perhaps silent."""
        messages, answered, outstanding = self.messages, self._answered, self.outstanding
        late = [keeper for keeper in self._keepers if outstanding >> keeper.index & 1]
        for keeper in late:
            keeper.overdue(self.patience)
        for offset, message in enumerate(messages):
            missing = [keeper.index for keeper in late if answered[keeper.index] <= offset]
            if missing:
                message.count_alone()
                message.missed(missing)

    def _done(self, index: int) -> None:
        """This server has said its last. After the last server no message keeps the others alive by its flight.

        Leases keep the flight that they were last extended in. What it has no use for any more is shared by all.
        """
        self.outstanding &= ~(1 << index)
        if not self.outstanding:
            self.messages, self._read, self._foreseen, self._bytes = _NO_MESSAGES, _READ, _NO_REPLIES, _NO_BYTES


def _as_foreseen(reply: object, text: bytes) -> bool:
    """Whether a parsed reply is the foreseen one: equal, and of the same type (`true` equals 1)."""
    wanted = FORESEEN[text]
    return reply is wanted or (reply == wanted and type(reply) is type(wanted))
