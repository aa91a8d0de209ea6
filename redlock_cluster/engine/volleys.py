"""Volleys: rounds that leave together on all connections of a lane, and the counting of their votes.

Mostly every server does what every round asks. While that is so, votes are not counted one by one: how many rounds of
the volley a server has answered is one number, and the rounds that a quorum of servers has passed are won (as Raft
finds its commit index). The first answer of any other kind takes its round out of the common count; from then on that
round hears each vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redlock_cluster.engine.connection import Connection
    from redlock_cluster.engine.lanes import Lane
    from redlock_cluster.engine.rounds import Round

__all__ = ["Volley"]


class Volley:
    """Rounds in the order in which every server of a lane executes their commands.

    started: engine time before the first byte; patience: seconds that its rounds wait for votes once it is closed
    asked: mask of the servers it goes to; unasked: of the others; why: why those can't be asked, by place
    size: how many rounds have joined it, once it is closed
    outstanding: mask of those that have not answered all of it
    expected: by place, what each round is answered with by a server that does as it was asked
    apart: the rounds, by their offset, that hear each vote
    """

    __slots__ = (
        "_heard",
        "_lane",
        "_split",
        "_whole",
        "_won",
        "apart",
        "asked",
        "expected",
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
        self.asked = self.outstanding = lane.usable
        self.unasked, self.why = lane.unusable, lane.why
        self.rounds: list[Round[Any]] = []
        self.expected: dict[int, list[object]] = {}
        self.apart: set[int] = set()
        self._heard = [0] * len(lane.links)
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

    def take_all(self, connection: Connection, replies: list[object]) -> bool:
        """The usual: a server answers everything at once, and as expected. False if it is not so: see `take`."""
        index, size = connection.index, self.size
        if len(replies) != size or self._split or self.apart or not all(map(is_, replies, self.expected[index])):
            return False
        rounds = self.rounds
        self._advance(connection, size)
        if self._whole == self._lane.quorum:
            self._win(rounds, size)
        return True

    def take(self, connection: Connection, replies: list[object], start: int) -> int:
        """A connection's next replies, from `start` on: takes its own, and returns how many these are."""
        index, size = connection.index, self.size
        begin, expected, rounds = self._heard[index], self.expected[index], self.rounds
        end = begin + len(replies) - start
        if start or end > size:
            end = min(end, size)
            replies = replies[start : start + end - begin]
        if begin or end < size:
            expected = expected[begin:end]
        if self.apart or not all(map(is_, replies, expected)):
            return self._sort(connection, replies, expected)
        self._advance(connection, end)
        self._count(rounds)
        return end - begin

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

    def _sort(self, connection: Connection, replies: Sequence[object], expected: Sequence[object]) -> int:
        """The same reply by reply, where some say something else or some rounds hear each vote."""
        index, heard, rounds, taken = connection.index, self._heard, self.rounds, 0
        for reply, wanted in zip(replies, expected, strict=False):
            if not connection.alive:
                break
            taken += 1
            offset = heard[index]
            here = rounds[offset]
            usual = reply is wanted or (reply == wanted and type(reply) is type(wanted))
            if not usual and offset not in self.apart:
                here.detach()
            self._advance(connection, offset + 1)
            if offset in self.apart:
                here.reply(connection, reply)
        self._count(rounds)
        return taken

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
            self.rounds, self.expected = [], {}
