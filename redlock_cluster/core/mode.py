"""Kinds of locks.

A `LockMode` says everything that is particular to one kind: what is sent to a server to take, keep, give back and look
at a lock, and how the server's reply counts as a vote. Whoever sends, counts, tries again or gives back asks the mode
of the lock at hand and knows no command itself. So a new kind is one file beside `exclusive.py`, with its scripts in
`lua/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.queue import FREE, Member, Position, fence_key, forced_key
from redlock_cluster.core.replies import ErrorReply, describe, is_number
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import Vote
from redlock_cluster.lua import HEAL

__all__ = [
    "ABSENT",
    "AGAINST",
    "FOR",
    "NO",
    "YES",
    "YES_BUT_OTHERS_WAIT",
    "Answer",
    "Command",
    "LockMode",
    "compared",
    "heal",
    "no_vote",
    "of_another_type",
    "taken",
]

Command = tuple[bytes, bytes]
"""A packed command, and the reply by which the server grants it, as it comes over the wire: one of
`replies.FORESEEN`, which costs least, or `replies.UNFORESEEN`."""

FOR: Final = Vote.FOR
AGAINST: Final = Vote.AGAINST
ABSENT: Final = Vote.ABSENT


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's reply as a vote.

    vote: what it counts as
    holder: AGAINST an acquisition: the token that the server named, None where it named none
    why: ABSENT: what it said instead, fit to be shown
    ran: ABSENT: False when the reply proves that the server did not run the command
    possible: False when no server replies so to this command: the connection is out of step
    others: FOR: others wait for the lock; only scripts say so
    fence: FOR: the number that it gave out, None for the least that was asked for, or none
    position: AGAINST an attempt of the queue: where the client stands
    free: AGAINST a question whether a token holds a lock: nobody does who excludes it
    shared: FOR the extension of a lock of unknown kind: others may hold it at the same time
    """

    vote: Vote
    holder: bytes | None = None
    why: str = ""
    ran: bool = True
    possible: bool = True
    others: bool = False
    fence: int | None = None
    position: Position | None = None
    free: bool = False
    shared: bool = False


YES: Final = Answer(FOR)
YES_BUT_OTHERS_WAIT: Final = Answer(FOR, others=True)
NO: Final = Answer(AGAINST)

_CLOCK: Final = b"CLOCK "
_WRONG_CLOCK: Final = "its clock is over a minute away from the others' or from ours, and a fence is about the time"
_MOST_DIGITS: Final = 20  # of microseconds since 1970, whatever a clock says


def no_vote(reply: object) -> Answer:
    """A reply that is neither a grant nor a refusal."""
    if isinstance(reply, ErrorReply):
        return Answer(ABSENT, why=reply.text, ran=not reply.refused)
    return Answer(ABSENT, why=f"unexpected reply {describe(reply)}", possible=False)


def of_another_type(reply: object) -> bool:
    """Whether a server says that the key holds something of another type."""
    return isinstance(reply, ErrorReply) and reply.wrong_type


def compared(reply: object) -> Answer:
    """What a comparison came to: 1, 2 or OK did it, 0 or nil found another value or none."""
    if is_number(reply, 2):
        return YES_BUT_OTHERS_WAIT
    if is_number(reply, 1) or (isinstance(reply, bytes) and reply == b"OK"):
        return YES
    if reply is None or is_number(reply, 0) or of_another_type(reply):
        return NO
    return no_vote(reply)


def taken(reply: object) -> Answer:
    """What take.lua and read.lua reply."""
    if is_number(reply, 1):
        return YES
    if is_number(reply, 2):
        return YES_BUT_OTHERS_WAIT
    match reply:
        case [bytes(holder), int(expires), int(rank), bytes(order), bytes(time)]:
            if all(not text or (text.isdigit() and len(text) <= _MOST_DIGITS) for text in (order, time)):
                at, now = int(order) if order else None, int(time) if time else None
                position = Position(expires, rank, at, now, shared=not holder and expires != FREE)
                return Answer(AGAINST, holder or None, position=position)
        case [bytes(number), int(others)] if number.isdigit() and len(number) <= _MOST_DIGITS:
            return Answer(FOR, others=others != 0, fence=int(number))
        case bytes(text) if text.startswith(_CLOCK):
            return Answer(ABSENT, why=_WRONG_CLOCK, ran=False)
    return no_vote(reply)


def heal(key: bytes, token: Token, ttl_ms: int, reads: bool, fence: int, in_full: bool) -> bytes:
    """`LockMode.heal` by script: replies 1 or 0."""
    words = (token, ttl_ms, 1 if reads else 0)
    if fence:
        return HEAL.call(in_full, (key, forced_key(key), fence_key(key)), *words, fence)
    return HEAL.call(in_full, (key, forced_key(key)), *words)


BY_SCRIPT: Final = frozenset({"NOSCRIPT"})
"""Codes of errors that are answered with the script in full."""

EXTENDED_BY_SCRIPT: Final = BY_SCRIPT | {"OOM"}
"""The same of an extension: a new ttl needs no memory, though a `SET` does."""


class LockMode(ABC):
    """One kind of lock. Stateless: one object serves all locks of its kind.

    Arguments of the commands:
        dialect: what the server understands; `SCRIPTED` for scripts alone
        key: the lock's key, at most 64 KiB and the prefix
        token: whose lock it is
        ttl_ms: milliseconds, at least 1
        floor: of a mode that is `fenced`, the least number that a server may give the acquisition, microseconds; 0: its
            own time
        in_full: send a script, by its source; the server has just answered with an error of `BY_SCRIPT`, or of
            `EXTENDED_BY_SCRIPT`, or that a bare token's key is of another type
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in tickets and by `inspect`."""

    @property
    @abstractmethod
    def shared(self) -> bool:
        """Whether several may hold such a lock at the same time. Who comes and goes says nothing of the others."""

    @property
    @abstractmethod
    def fenced(self) -> bool:
        """Whether acquisitions are numbered."""

    @property
    @abstractmethod
    def plain(self) -> LockMode:
        """The same kind of lock without numbers: what a lease is once it has its own, and whose line it waits in."""

    @abstractmethod
    def place(self, key: bytes) -> bytes:
        """Where such a lock stands on servers; key: the resource's."""

    @abstractmethod
    def waits_at(self, key: bytes) -> bytes:
        """By which key those are known who wait for it; key: the lock's."""

    @abstractmethod
    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, in_full: bool) -> Command:
        """Takes the lock if it is free for this kind. A refusal must not write at the key."""

    @abstractmethod
    def acquired(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: taken; AGAINST: others hold it."""

    @abstractmethod
    def take(
        self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, member: Member, in_full: bool
    ) -> Command:
        """The same as `acquire`, but nobody is passed who waits longer, and who is refused joins the queue.

        member: who waits
        """

    @abstractmethod
    def taken(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: taken; AGAINST: others hold it, or go first."""

    @abstractmethod
    def extend(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        """Resets the ttl if the token holds the lock."""

    @abstractmethod
    def extended(self, reply: object) -> Answer:
        """FOR: the ttl counts from now; AGAINST: the token does not hold it."""

    @abstractmethod
    def find(self, dialect: Dialect, key: bytes, token: Token, in_full: bool) -> Command:
        """Asks whether the token holds the lock, by a command that reads the key alone."""

    @abstractmethod
    def found(self, reply: object, token: Token) -> Answer:
        """FOR: it does; AGAINST: it does not, and `free` says whether it could take it."""

    @abstractmethod
    def heal(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, fence: int, in_full: bool) -> Command:
        """Takes the lock again for a lease that lives, if it is free for this kind and was not released by force.

        fence: the lease's, which the server remembers if it has a smaller one; 0 for none
        """

    @abstractmethod
    def healed(self, reply: object) -> Answer:
        """FOR: the token holds it; AGAINST: others do, or it was released by force."""

    @abstractmethod
    def release(self, dialect: Dialect, key: bytes, token: Token, tells: bool, in_full: bool) -> Command:
        """Takes the token away if it holds the lock; sent again, it does no harm.

        tells: where we stand in queues by script, which tells who waits
        """

    @abstractmethod
    def put_back(self, dialect: Dialect, key: bytes, token: Token, member: Member) -> Command:
        """As `release`, of an attempt that has failed: it stands in the queue where it stood. Where there are queues.

        member: who waits
        """

    @abstractmethod
    def released(self, reply: object) -> Answer:
        """FOR: taken away; AGAINST: the token did not hold it. Also of `put_back`."""

    @abstractmethod
    def leave(self, dialect: Dialect, key: bytes, client: bytes, in_full: bool) -> bytes:
        """Leaves the queue, and tells who is first there then if the lock is free: the packed command.

        client: whose place it is
        """

    @abstractmethod
    def inspect(self, dialect: Dialect, key: bytes, in_full: bool) -> Command:
        """Asks whether somebody holds the key."""

    @abstractmethod
    def inspected(self, reply: object) -> Answer:
        """FOR: nobody; AGAINST: somebody."""
