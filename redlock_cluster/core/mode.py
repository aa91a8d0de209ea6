"""Kinds of locks.

A `LockMode` says everything that is particular to one kind: what is sent to a server to take, keep, give back and look
at a lock, and how the server's reply counts as a vote. Whoever sends, counts, tries again or gives back asks the mode
of the lock at hand and knows no command itself. So a new kind is one file beside `exclusive.py`, with its scripts in
`lua/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.replies import ErrorReply, describe
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import Vote

__all__ = ["ABSENT", "AGAINST", "FOR", "Answer", "Command", "LockMode", "no_vote"]

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
    """

    vote: Vote
    holder: bytes | None = None
    why: str = ""
    ran: bool = True
    possible: bool = True


def no_vote(reply: object) -> Answer:
    """A reply that is neither a grant nor a refusal."""
    if isinstance(reply, ErrorReply):
        return Answer(ABSENT, why=reply.text, ran=not reply.refused)
    return Answer(ABSENT, why=f"unexpected reply {describe(reply)}", possible=False)


BY_SCRIPT: Final = frozenset({"NOSCRIPT"})
"""Codes of errors that are answered with the script in full."""

EXTENDED_BY_SCRIPT: Final = BY_SCRIPT | {"OOM"}
"""The same of an extension: a new ttl needs no memory, though a `SET` does."""


class LockMode(Protocol):
    """One kind of lock. Stateless: one object serves all locks of its kind.

    Arguments of the commands:
        dialect: what the server understands; `SCRIPTED` for scripts alone
        key: the lock's key, at most 64 KiB and the prefix
        token: whose lock it is
        ttl_ms: milliseconds, at least 1
        in_full: send scripts by their source; the server has just answered with an error of `BY_SCRIPT`, or of
            `EXTENDED_BY_SCRIPT`
    """

    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        """Takes the lock if it is free for this kind. A refusal must not write at the key."""

    def acquired(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: taken; AGAINST: others hold it."""

    def extend(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        """Resets the ttl if the token holds the lock."""

    def extended(self, reply: object) -> Answer:
        """FOR: the ttl counts from now; AGAINST: the token does not hold it."""

    def release(self, dialect: Dialect, key: bytes, token: Token, in_full: bool) -> Command:
        """Takes the token away if it holds the lock; sent again, it does no harm."""

    def released(self, reply: object) -> Answer:
        """FOR: taken away; AGAINST: the token did not hold it."""

    def inspect(self, dialect: Dialect, key: bytes, in_full: bool) -> Command:
        """Asks whether somebody holds the key."""

    def inspected(self, reply: object) -> Answer:
        """FOR: nobody; AGAINST: somebody."""
