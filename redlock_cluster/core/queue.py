"""The queue of those who wait for a lock: what a client says of itself there, and what a server answers.

Each server of a group keeps such a queue beside the lock, under keys of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "CHANNEL",
    "FREE",
    "HELD",
    "META",
    "NOBODY",
    "SEMAPHORE",
    "SIDE_KEYS",
    "SIZE",
    "Member",
    "Position",
    "fence_key",
    "forced_key",
    "name_of",
    "semaphore_in",
    "side_keys",
]

_QUEUE: Final = b":redlock:queue"
_EXPIRY: Final = b":redlock:expiry"
_READERS: Final = b":redlock:readerqueue"
_FORCED: Final = b":redlock:forced"
_FENCE: Final = b":redlock:fence"
SEMAPHORE: Final = b":redlock:semaphore"
SIZE: Final = b":redlock:size"
HELD: Final = b":held"
_PERMIT_TAIL: Final = len(b":00" + HELD)

META: Final = b":redlock:meta"
"""How the key ends where a server remembers itself; what comes before every resource stands before it."""

SIDE_KEYS: Final = (_QUEUE, _EXPIRY, _READERS, _FORCED, _FENCE, SEMAPHORE, SIZE, META)
"""How the keys end that are no lock's. Resources may not."""

CHANNEL: Final = b"redlock:"
"""What comes before a client's name in the channel on which it is told; the scripts publish there."""


FREE: Final = -2
"""What `PTTL` replies for a key that is not there."""


def side_keys(key: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """A lock's key; who waits to hold it alone; until when those who wait count; the readers that wait.

    Those who wait for a permit stand beside the semaphore.
    """
    at = semaphore_in(key)
    return key, at + _QUEUE, at + _EXPIRY, at + _READERS


def forced_key(key: bytes) -> bytes:
    """Where a lock's tokens stand that were taken from it by force: none of them is to be taken again."""
    return key + _FORCED


def fence_key(key: bytes) -> bytes:
    """Where the number of a lock's last fenced acquisition stands."""
    return key + _FENCE


def semaphore_in(key: bytes) -> bytes:
    """The semaphore's key of a permit's; any other key as it is."""
    if key.endswith(HELD) and key[-_PERMIT_TAIL - len(SEMAPHORE) : -_PERMIT_TAIL] == SEMAPHORE:
        return key[:-_PERMIT_TAIL]
    return key


def name_of(client: bytes, told: bool, reads: bool = False) -> bytes:
    """A client's name as a member of a queue.

    told: whether the server tells it when the lock is free; else it polls
    reads: in the readers' queue
    """
    return ((b"r" if told else b"q") if reads else (b"t" if told else b"p")) + client


@dataclass(frozen=True, slots=True)
class Member:
    """A client in a queue.

    client: its name; empty for one that stands in no queue
    order: microseconds; who has the smallest goes first
    exact: servers have agreed on that; else each takes it for one of its last 20 ms
    life_ms: milliseconds that it counts unless it comes again
    """

    client: bytes
    order: int
    exact: bool
    life_ms: int


NOBODY: Final = Member(b"", 0, False, 0)
"""In no queue, and lets everybody there go first."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a server says that a client stands.

    expires_ms: milliseconds until the lock's key expires; FREE if there is none; -1 if it does not, or others are first
    rank: how many stand before the client; -1 in no queue
    order: microseconds, None in no queue
    time: of the server's clock, microseconds, None in no queue
    shared: somebody holds the lock who is not named: readers
    """

    expires_ms: int
    rank: int
    order: int | None
    time: int | None
    shared: bool = False

    @property
    def free(self) -> bool:
        """Whether nobody holds the lock: others go first."""
        return self.expires_ms == FREE
