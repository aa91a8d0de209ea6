"""Rounds: what one operation asks of the servers of a group, and their votes.

A round belongs to the engine, not to the task that waits for it: when the waiter is cancelled, what was granted is
still given back. Every command for one key travels on the same connection of a server, so a release can't overtake what
it undoes, and what can't be sent now stays pending (`engine.pending`).

A round that leaves together with others has no tally of its own: its flight counts for all of them. It gets one, and
begins with what the flight has counted, as soon as a server says anything else than foreseen, or is missed or lost.
"""

from __future__ import annotations

from abc import abstractmethod
from binascii import crc32
from statistics import median_low
from typing import ClassVar, Final, Generic, TypeVar

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.mode import ABSENT, BY_SCRIPT, FOR, Answer, Command
from redlock_cluster.core.queue import semaphore_in
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.tally import Tally
from redlock_cluster.core.votes import ServerVote
from redlock_cluster.engine.group import Group
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.flight import Flight, Message
from redlock_cluster.wire.pipeline import Pipeline

__all__ = ["Context", "Round", "pipeline_of", "servers_time"]

T = TypeVar("T", bound=Tally)

_LOST_REPLY: Final = "the connection broke before the reply"


def pipeline_of(group: Group, key: bytes) -> Pipeline:
    """The connections that carry a key's commands; by crc32, so that all processes behave alike.

    Those of a semaphore's permits are its own.
    """
    pipelines = group.pipelines
    return pipelines[crc32(semaphore_in(key)) % len(pipelines)] if len(pipelines) > 1 else pipelines[0]


def servers_time(pipeline: Pipeline, at: float) -> int | None:
    """An engine time in microseconds by the middle one of the servers' clocks; None if no server has told its time.

    So fewer than a quorum of servers have clocks that are slower, and would put newcomers before older members.
    """
    offsets = [keeper.offset for keeper in pipeline.keepers if keeper.offset is not None]
    return max(0, round((at + median_low(offsets)) * 1e6)) if offsets else None


Context = tuple[str, str, tuple[ServerVote, ...], float]
"""What an error says besides its message: resource, group, votes, seconds since the round began."""


class Round(Message, Generic[T]):
    """A round in flight.

    asks: the kind of command, of which servers are remembered that refuse it; "" where nobody minds
    by_script: codes of errors after which a server may do what it is asked by the script in full

    group: the servers that vote
    key: what it is about
    patience: seconds that votes are waited for

    pipeline: the connections that carry its key
    """

    __slots__ = ("_in_full", "_tally", "group", "key", "pipeline")

    asks: ClassVar[str] = ""
    by_script: ClassVar[frozenset[str]] = BY_SCRIPT

    def __init__(self, group: Group, key: bytes, patience: float) -> None:
        Message.__init__(self, patience)
        self.group, self.key = group, key
        self.pipeline: Pipeline = pipeline_of(group, key)
        self._tally: T | None = None
        self._in_full = 0  # mask of the servers that were sent a script by its source

    # --- for each kind of round ------------------------------------------------------------------------------------

    def command(self, dialect: Dialect) -> Command:
        """The packed command for a server, and the reply foreseen if it does as it is asked."""
        return self._words(dialect, False)

    @abstractmethod
    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        """The same; in_full: send scripts by their source."""

    @abstractmethod
    def _counted(self, flight: Flight | None) -> T:
        """A tally that begins with what the flight has counted."""

    @abstractmethod
    def _count(self, connection: Connection, value: object) -> None:
        """Count a server's reply."""

    @abstractmethod
    def _miss(self, indices: list[int], why: str) -> None:
        """Count these servers as ABSENT, all of them before anything is concluded from it."""

    def _matters(self) -> bool:
        """Whether the command is still to be executed."""
        return not self.decided

    def _wants_script(self, error: ErrorReply) -> bool:
        """Whether an error is to be answered with the script in full."""
        return error.code in self.by_script

    # --- sending it ------------------------------------------------------------------------------------------------

    def _begin_alone(self, tally: T) -> T:
        """Is sent to servers one by one, or to none: it counts alone from the start."""
        self._tally = tally
        self.started = self.group.clock()
        return tally

    def _wait_alone(self) -> None:
        """Have `expire` called when its patience is over: it waits for something that its flight does not know."""
        self.group.deadlines.add(self.started + self.patience, self)

    # --- its votes -------------------------------------------------------------------------------------------------

    @property
    def tally(self) -> T:
        """Its votes so far."""
        return self._counted(self.flight) if self._tally is None else self._tally

    def count_alone(self) -> T:
        """Its votes so far; from now on it hears each answer and counts it itself."""
        if self._tally is None:
            self._tally = self._counted(self.flight)
            if self.flight is not None:
                self.flight.leave_alone(self.offset)
        return self._tally

    @property
    def granted(self) -> int:
        """Mask of the servers that voted FOR."""
        return self.tally.granted

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""
        return self.tally.outstanding

    def votes(self, names: tuple[str, ...]) -> tuple[ServerVote, ...]:
        """Every server's vote; names: the servers', in the group's order."""
        return self.tally.votes(names)

    def context(self, resource: Resource) -> Context:
        """What an error about this round says besides its message."""
        group = self.group
        return resource_text(resource), group.name, self.votes(group.names), group.clock() - self.started

    def reply(self, connection: Connection, value: object) -> None:
        """Count a vote. An error of `by_script` is answered with the script in full, once, while that matters."""
        bit = 1 << connection.index
        refused = isinstance(value, ErrorReply) and self._wants_script(value)
        if refused and self._matters() and not self._in_full & bit:
            if not self._in_full and self.flight is not None:
                self._wait_alone()
            self._in_full |= bit
            connection.send(self._words(connection.dialect, True)[0], self)
            return
        if self.asks and (self.pipeline.refused or isinstance(value, ErrorReply)):
            self.pipeline.keepers[connection.index].note_reply(connection, self.asks, value)
        self._count(connection, value)

    def believed(self, connection: Connection, answer: Answer) -> Answer:
        """A server's answer as it counts: from one that may have forgotten who holds the lock, nothing FOR does."""
        doubt = self.pipeline.keepers[connection.index].doubt if answer.vote is FOR else ""
        return Answer(ABSENT, why=doubt, others=answer.others, fence=answer.fence) if doubt else answer

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT."""
        self._miss([connection.index], _LOST_REPLY)

    def missed(self, indices: list[int]) -> None:
        """Servers did not answer in time: ABSENT."""
        self._miss(indices, "no answer in time")

    def expire(self) -> None:
        """The deadline of a round that waits alone has passed: who has not voted is ABSENT, and perhaps silent."""
        outstanding = self.outstanding
        late = [keeper for keeper in self.pipeline.keepers if outstanding >> keeper.index & 1]
        for keeper in late:
            keeper.overdue(self.patience)
        self.missed([keeper.index for keeper in late])
