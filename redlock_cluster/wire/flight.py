"""Volleys: rounds that leave together on all connections of a lane, and the counting of their votes.

Mostly every server does what every round asks. While that is so, replies are not even parsed: what a server sends is
compared, as it comes, with what it is expected to send. And votes are not counted one by one: how many rounds of the
volley a server has answered is one number, and the rounds that a quorum of servers has passed are won (as Raft finds
its commit index). The first answer of any other kind takes its round out of the common count; from then on that round
hears each vote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redlock_cluster.core.dialect import MEANINGS

if TYPE_CHECKING:
    from redlock_cluster.engine.round import Round
    from redlock_cluster.wire.connection import Connection
    from redlock_cluster.wire.pipeline import Lane

__all__ = ["Volley"]

_LINE: Final = b"\n"
_LAST: Final = _LINE[0]
"""What an expected reply ends with, and has nowhere else."""


class Volley:
    """Rounds in the order in which every server of a lane executes their commands.

    started: engine time before the first byte; patience: seconds that its rounds wait for votes once it is closed
    unasked: mask of the servers that it does not go to; why: why those can't be asked, by place
    size: how many rounds have joined it, once it is closed
    outstanding: mask of those that have not answered all of it
    apart: the rounds, by their offset, that hear each vote
    """

    __slots__ = (
        "_heard",
        "_lane",
        "_read",
        "_replies",
        "_split",
        "_texts",
        "_whole",
        "_won",
        "apart",
        "outstanding",
        "patience",
        "rounds",
        "size",
        "started",
        "unasked",
        "why",
    )

    def __init__(self, lane: Lane, patience: float) -> None:
        self._lane, self.patience = lane, patience
        self.started = lane.clock()
        self.outstanding = lane.usable
        self.unasked, self.why = lane.unusable, lane.why
        self.rounds: list[Round[Any]] = []
        self.apart: set[int] = set()
        self._heard = [0] * len(lane.links)
        self._read = [0] * len(lane.links)
        self._replies: dict[int, list[bytes]] = {}
        self._texts: dict[int, bytes] = {}
        self.size = self._whole = self._won = 0
        self._split = False

    def close(self) -> None:
        """No round joins any more."""
        self.size = len(self.rounds)

    def part_with(self, offset: int) -> None:
        """From now on this round hears each vote."""
        self.apart.add(offset)

    def passed(self, offset: int) -> int:
        """Mask of the servers that have answered a round, by its offset."""
        return sum(1 << index for index, heard in enumerate(self._heard) if heard > offset)

    def expect(self, places: tuple[int, ...], replies: list[bytes]) -> None:
        """These servers, by place, are asked for all of it; replies: how each round is answered if all is well."""
        text = b"".join(replies)
        for index in places:
            self._replies[index], self._texts[index] = replies, text

    def take(self, connection: Connection, data: bytes, start: int) -> int:
        """Takes what a server sent, from `start` on, if that is the expected replies: returns how many bytes they have.

        0 where something differs or is not whole, or some rounds hear each vote: it is to be parsed then, see `sort`.
        """
        index, size = connection.index, self.size
        text, begin = self._texts[index], self._read[index]
        end = begin + len(data) - start
        if end >= len(text):
            usual, end = data.startswith(text[begin:], start), len(text)
        else:
            usual = text.startswith(data[start:], begin) and text[end - 1] == _LAST
        if not usual or self.apart:
            return 0
        rounds, taken, self._read[index] = self.rounds, end - begin, end
        if taken < len(text):
            size = self._heard[index] + data.count(_LINE, start, start + taken)
        self._advance(connection, size)
        if self._split:
            self._count(rounds)
        elif self._whole == self._lane.quorum:
            self._win(rounds, size)
        return taken

    def sort(self, connection: Connection, replies: list[object], start: int) -> int:
        """A connection's next replies, from `start` on: takes its own one by one, and returns how many these are.

        Some of them say something else than expected, or some rounds hear each vote.
        """
        index, heard, rounds, expected = connection.index, self._heard, self.rounds, self._replies[connection.index]
        place, end = start, min(len(replies), start + self.size - heard[index])
        while place < end and connection.alive:
            reply, offset = replies[place], heard[index]
            place += 1
            here, text = rounds[offset], expected[offset]
            wanted = MEANINGS[text]
            usual = reply is wanted or (reply == wanted and type(reply) is type(wanted))
            if not usual and offset not in self.apart:
                here.detach()
            self._read[index] += len(text)
            self._advance(connection, offset + 1)
            if offset in self.apart:
                here.reply(connection, reply)
        self._count(rounds)
        return place - start

    def _advance(self, connection: Connection, end: int) -> None:
        """A server has answered so many rounds."""
        index = connection.index
        connection.unanswered -= end - self._heard[index]
        self._heard[index] = end
        if end < self.size:
            self._split = True
            return
        connection.pending.popleft()
        self._whole += 1
        self._done(index)

    def _count(self, rounds: list[Round[Any]]) -> None:
        """Tells the rounds that a quorum has passed since the last time."""
        won, mark = self._won, sorted(self._heard)[-self._lane.quorum]
        if mark > won:
            if self.apart:
                rounds = [here for here in rounds[won:mark] if here.offset not in self.apart]
            else:
                rounds = rounds[won:mark]
            self._win(rounds, mark)

    def _win(self, rounds: list[Round[Any]], mark: int) -> None:
        """A quorum has passed these rounds, the last of which are those before the mark."""
        self._won = mark
        for here in rounds:
            here.carry()
            here.tell()

    def lost(self, connection: Connection) -> None:
        """A connection broke before it had answered everything."""
        index, rounds = connection.index, self.rounds
        self._done(index)
        for here in rounds[self._heard[index] :]:
            here.detach()
            here.lost(connection)

    def expire(self) -> None:
        """The deadline has passed: who has not voted is ABSENT, and if it had the full time, silent."""
        rounds, heard, outstanding = self.rounds, self._heard, self.outstanding
        late = [link for link in self._lane.links if outstanding >> link.index & 1]
        for link in late:
            link.overdue(self.patience)
        for offset, here in enumerate(rounds):
            missing = [link.index for link in late if heard[link.index] <= offset]
            if missing:
                here.detach()
                here.missed(missing)

    def _done(self, index: int) -> None:
        """This server has said its last. After the last server leases, which know their volley, must keep no others."""
        self.outstanding &= ~(1 << index)
        if not self.outstanding:
            self.rounds, self._replies, self._texts = [], {}, {}
