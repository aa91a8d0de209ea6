"""Who holds a lock and who waits for it, as each server of a group says; and what that comes to.

Each server is asked by a few commands that only read. They leave together, and a server executes what it gets from one
connection in one piece, so what it says belongs together. Servers are not asked at one moment: between two of them the
lock may go from hand to hand.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.mode import ABSENT, AGAINST, FOR, Answer, no_vote
from redlock_cluster.core.queue import side_keys
from redlock_cluster.core.tally import InspectionTally, Standing
from redlock_cluster.core.token import label_of, maker_of
from redlock_cluster.core.votes import ServerVote

__all__ = [
    "ForcedRelease",
    "Holding",
    "ListedLock",
    "LockOnServer",
    "LockReader",
    "LockSnapshot",
    "WaitingClient",
    "conclusion",
    "doubted",
    "questions",
    "said",
]

MOST_WAITING: Final = 1000
"""Clients of a queue that are shown: a reply with all of them might be longer than a connection takes."""

MOST_READERS: Final = 1000
"""Readers that are shown."""

Words = tuple[str | bytes | int, ...]


class Holding(enum.Enum):
    """HELD: a quorum names one holder. FREE: nobody holds it on a quorum. SPLIT: several share the servers and none has
    a quorum. UNKNOWN: too few servers said."""

    HELD = "held"
    FREE = "free"
    SPLIT = "split"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class WaitingClient:
    """A client in a server's queue.

    client: its name, with which the tokens of its locks begin
    told: whether the server tells it when the lock is free; else it polls
    waited: seconds since the longest of its calls that wait began, by the server's clock
    reads: whether it waits for a read lock
    """

    client: str
    told: bool
    waited: float
    reads: bool = False


@dataclass(frozen=True, slots=True)
class LockReader:
    """Who holds a read lock on a server.

    owner, client, ttl: as in `LockOnServer`
    """

    owner: str
    client: str
    ttl: float


@dataclass(frozen=True, slots=True)
class LockOnServer:
    """A lock, as one server says.

    server: its name (`host:port` or `unix:path`)
    error: why it did not say, "" if it did
    kind: which kind of lock it is; "other": none of this library's; None: nobody holds it, or the server did not say
    owner: the holder's label, "" for another library's and for readers
    client: the name of the holder's client, "" for another library's and for readers
    ttl: seconds until the server forgets the holder, the last of the readers; None: never, or there is none
    waiting: who stands in the queue, in order, the first thousand; None: it did not say
    readers: who holds read locks, those that end first, a thousand at most
    """

    server: str
    error: str = ""
    kind: Literal["exclusive", "read", "permit", "other"] | None = None
    owner: str = ""
    client: str = ""
    ttl: float | None = None
    waiting: tuple[WaitingClient, ...] | None = None
    readers: tuple[LockReader, ...] = ()


@dataclass(frozen=True, slots=True)
class LockSnapshot:
    """What `inspect` gives.

    resource, group: what was looked at, and who votes on it
    holding: what the servers' answers come to
    owner: if it is held, the holder's label, "" if that has none
    servers: what each of them says, in voting order
    """

    resource: str
    group: str
    holding: Holding
    owner: str
    servers: tuple[LockOnServer, ...]


@dataclass(frozen=True, slots=True)
class ListedLock:
    """What `locks` gives.

    resource, group: what is locked, and who votes on it
    permit: its number if it is a semaphore's, else None
    servers: on how many servers of the group
    ttl: the least number of seconds after which one of them forgets it; None: none of them ever does
    """

    resource: str
    group: str
    servers: int
    ttl: float | None
    permit: int | None = None


@dataclass(frozen=True, slots=True)
class ForcedRelease:
    """What `force_release` gives.

    resource, group: what was released, and who votes on it
    held: whether anybody held it, on any server
    owner: the label of who held it on a quorum, "" if nobody did or that has none; of readers all, with commas
    votes: FOR: the lock is gone from that server
    """

    resource: str
    group: str
    held: bool
    owner: str
    votes: tuple[ServerVote, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What one server said.

    shown: for users
    answer: as a vote: FOR if nobody holds the lock
    ttl_ms: as `PTTL` says it
    tokens: of those who hold it
    """

    shown: LockOnServer
    answer: Answer
    ttl_ms: int
    tokens: tuple[bytes, ...] = ()


def questions(key: bytes) -> tuple[Words, ...]:
    """What a server is asked of a lock."""
    lock, queue, expiry, reader_queue = side_keys(key)
    return (
        ("GET", lock),
        ("PTTL", lock),
        ("ZRANGE", lock, 0, MOST_READERS - 1, "WITHSCORES"),
        ("ZRANGE", queue, 0, MOST_WAITING - 1, "WITHSCORES"),
        ("ZRANGE", reader_queue, 0, MOST_WAITING - 1, "WITHSCORES"),
        ("ZRANGE", expiry, 0, 2 * MOST_WAITING - 1, "WITHSCORES"),
        ("TIME",),
    )


def said(server: str, replies: Sequence[object] | str, permit: bool = False) -> Said:
    """What a server said.

    replies: to `questions`; or why there are none
    permit: it was asked of a semaphore's permit
    """
    if isinstance(replies, str):
        return Said(LockOnServer(server, replies), Answer(ABSENT, why=replies), 0)
    value, left, members, *about_queue = replies
    answer = EXCLUSIVE.inspected(value)
    if answer.vote is ABSENT:
        return Said(LockOnServer(server, answer.why), answer, 0)
    waiting = _waiting(about_queue)
    if answer.vote is not AGAINST:
        return Said(LockOnServer(server, waiting=waiting), answer, 0)
    if not isinstance(left, int):
        unclear = no_vote(left)
        return Said(LockOnServer(server, unclear.why), unclear, 0)
    read = _readers(members, about_queue[-1])
    if read is not None:
        tokens, readers = read
        last = None if left < 0 else left / 1000
        return Said(LockOnServer(server, kind="read", ttl=last, waiting=waiting, readers=readers), answer, left, tokens)
    token = answer.holder or b""
    shown = LockOnServer(
        server,
        kind="other" if answer.holder is None else "permit" if permit else "exclusive",
        owner=label_of(token) or "",
        client=maker_of(token) or "",
        ttl=None if left < 0 else left / 1000,
        waiting=waiting,
    )
    return Said(shown, answer, left, (token,) if token else ())


def doubted(each: Said, doubt: str) -> Said:
    """What a server said that may have forgotten who holds the lock: that nobody does says nothing.

    doubt: why it may, "" if it can't have
    """
    if not doubt or each.answer.vote is not FOR:
        return each
    return Said(replace(each.shown, error=f"nobody, but {doubt}"), Answer(ABSENT, why=doubt), 0)


def _readers(members: object, time: object) -> tuple[tuple[bytes, ...], tuple[LockReader, ...]] | None:
    """The tokens of all readers, and those whose time is not over; None where the key holds something else."""
    now = _microseconds(time)
    if now is None or not isinstance(members, list):
        return None
    scored = [(token, end - now / 1000) for token, end in _scored(members)]
    if not scored or any(label_of(token) is None for token, _ in scored):
        return None
    readers = tuple(
        LockReader(label_of(token) or "", maker_of(token) or "", left / 1000) for token, left in scored if left > 0
    )
    return tuple(token for token, _ in scored), readers


def _waiting(replies: Sequence[object]) -> tuple[WaitingClient, ...] | None:
    """Those in the queues who count, in order; None where we may not look."""
    queue, reader_queue, expiry, time = replies
    now = _microseconds(time)
    if now is None or not (isinstance(queue, list) and isinstance(reader_queue, list) and isinstance(expiry, list)):
        return None
    silent = {member for member, until in _scored(expiry) if until <= now}
    both = sorted([*_scored(queue), *_scored(reader_queue)], key=lambda each: each[1])
    return tuple(
        WaitingClient(
            member[1:].decode("ascii", "replace"),
            member[:1] in (b"t", b"r"),
            max(0.0, now - order) / 1e6,
            member[:1] in (b"r", b"q"),
        )
        for member, order in both[:MOST_WAITING]
        if member not in silent
    )


def _scored(reply: list[object]) -> Iterator[tuple[bytes, float]]:
    """Members and scores: pairs in RESP3, one after the other in RESP2."""
    pairs: Iterable[object] = reply
    if reply and not isinstance(reply[0], list):
        pairs = zip(reply[::2], reply[1::2], strict=False)
    for pair in pairs:
        match pair:
            case (bytes(member), float(score)) | [bytes(member), float(score)]:
                yield member, score
            case (bytes(member), bytes(text)) if text.replace(b".", b"", 1).isdigit():
                yield member, float(text)


def _microseconds(reply: object) -> float | None:
    match reply:
        case [bytes(seconds), bytes(microseconds)] if seconds.isdigit() and microseconds.isdigit():
            return int(seconds) * 1e6 + int(microseconds)
    return None


def conclusion(all_said: Sequence[Said]) -> tuple[Holding, bytes | None]:
    """What the servers' answers come to, and the holder's token if it is held by one that was named.

    all_said: by every server of the group
    """
    tally = InspectionTally(len(all_said))
    for index, each in enumerate(all_said):
        tally.count(index, each.answer)
    if tally.standing is Standing.WON:
        return Holding.FREE, None
    if tally.standing is Standing.HELD:
        named = [each.answer.holder for each in all_said if each.answer.vote is AGAINST]
        token = max(named, key=named.count)
        return Holding.HELD, token
    if tally.standing is Standing.SPLIT and not tally.may_be_held():
        return Holding.SPLIT, None
    return Holding.UNKNOWN, None
