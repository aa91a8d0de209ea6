"""How an acquisition gets its fence: a number that is greater than those of all acquisitions before it.

Each server of the quorum numbers the acquisition: by the least number that the attempt names, the time of the middle
one of the servers' clocks, or by the number after its last one if that is greater. The fence is the greatest of these.
Mostly all are the same. Else it is not the attempt's yet: first those with smaller numbers are asked to remember it,
until a quorum does. The next quorum shares a server with this one, so the next fence is greater. (The greatest of plain
counters of each server is not enough: 5, 1, 1 give 6 by the first two, and then 3 by the others.)

An acquisition to read takes the greatest number that its servers remember, of who last held the lock alone, and has
them remember it likewise.

Source: Mike Burrows, "The Chubby lock service for loosely-coupled distributed systems", 2006, on sequencers.
"""

from __future__ import annotations

from typing import Final, Protocol

from redlock_cluster.core.mode import FOR, Answer, compared
from redlock_cluster.core.queue import fence_key
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.token import Token
from redlock_cluster.engine.group import Group
from redlock_cluster.lua import RAISE
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.pipeline import Pipeline

__all__ = ["Numbered", "Numbers"]

_LEAST_PATIENCE: Final = 0.05  # seconds that a quorum has to agree, however late its votes came


class Numbered(Protocol):
    """An attempt whose acquisition is numbered; `engine.acquire` has it."""

    group: Group
    key: bytes
    token: Token
    pipeline: Pipeline
    patience: float
    started: float
    decided: bool

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""

    def numbered(self, done: bool) -> None:
        """A quorum remembers the fence; or can't any more."""


class Numbers:
    """The numbers that servers gave one attempt, and how a quorum comes to remember the greatest.

    attempt: whose they are
    least: the number of servers that said nothing else

    fence: the greatest, once the attempt has a quorum of votes; 0 if there is none
    outstanding: mask of the servers that were asked to remember it and have not answered
    """

    __slots__ = ("_attempt", "_given", "_in_full", "_least", "_quorum", "_remember", "fence", "outstanding")

    def __init__(self, attempt: Numbered, least: int) -> None:
        self._attempt: Numbered | None = attempt  # until a quorum has agreed, or can't any more
        self._least, self._quorum = least, attempt.group.quorum
        self._given: dict[int, int] = {}
        self._in_full = self._remember = 0
        self.fence = self.outstanding = 0

    def note(self, index: int, number: int) -> None:
        """A server has given the acquisition this number."""
        self._given[index] = number

    def agree(self, granted: int) -> bool:
        """Whether a quorum remembers the greatest; if not, it is asked to, and `numbered` follows.

        granted: mask of the servers that numbered it, a quorum
        """
        attempt = self._attempt
        assert attempt is not None
        group = attempt.group
        numbers = {i: self._given.get(i, self._least) for i in range(group.size) if granted >> i & 1}
        self.fence = max(numbers.values())
        smaller = [index for index, number in numbers.items() if number < self.fence]
        self._remember = granted & ~sum([1 << index for index in smaller])
        if self.agreed:
            self._attempt = None
            return True
        self.outstanding = granted & ~self._remember
        group.deadlines.add(max(attempt.started + attempt.patience, group.clock() + _LEAST_PATIENCE), self)
        for index in smaller:
            self._ask(attempt.pipeline.keepers[index].connection, index)
        return False

    @property
    def agreed(self) -> bool:
        """Whether a quorum remembers the fence."""
        return self._remember.bit_count() >= self._quorum

    def voted(self, connection: Connection, answer: Answer) -> None:
        """Another server has voted while the quorum agrees."""
        bit = 1 << connection.index
        if answer.vote is FOR:
            if (self._least if answer.fence is None else answer.fence) >= self.fence:
                self._remembers(bit)
                return
            self.outstanding |= bit
            self._ask(connection, connection.index)
        self.weigh()

    def _ask(self, connection: Connection | None, index: int) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        if connection is None or connection.full:
            self._missed(1 << index)
            return
        keys, in_full = (attempt.key, fence_key(attempt.key)), bool(self._in_full >> index & 1)
        connection.send(RAISE.call(in_full, keys, attempt.token, self.fence), self)

    def reply(self, connection: Connection, value: object) -> None:
        """It remembers the fence, or does not have the token any more. NOSCRIPT: the script in full."""
        bit = 1 << connection.index
        if isinstance(value, ErrorReply) and value.code == "NOSCRIPT" and not self._in_full & bit:
            self._in_full |= bit
            self._ask(connection, connection.index)
        elif compared(value).vote is not FOR:
            self._missed(bit)
        elif self.outstanding & bit:
            self._remembers(bit)

    def _remembers(self, bit: int) -> None:
        self.outstanding &= ~bit
        self._remember |= bit
        if self.agreed:
            self._end(True)

    def lost(self, connection: Connection) -> None:
        """The connection broke."""
        self._missed(1 << connection.index)

    def expire(self) -> None:
        """The rest has taken too long."""
        self._end(False)

    def _missed(self, mask: int) -> None:
        """These do not remember it."""
        self.outstanding &= ~mask
        self.weigh()

    def weigh(self) -> None:
        """Give up if a quorum can't agree any more, whoever still votes."""
        attempt = self._attempt
        if attempt is not None:
            may = self._remember | self.outstanding | attempt.outstanding
            if may.bit_count() < self._quorum:
                self._end(False)

    def _end(self, done: bool) -> None:
        attempt, self._attempt, self.outstanding = self._attempt, None, 0
        if attempt is not None and not attempt.decided:
            attempt.numbered(done)
