"""Permits of a semaphore: each is an exclusive lock of its own; those who wait for any of them stand in one queue.

    <key>:redlock:semaphore                  nothing; by this name the queue is known
    <key>:redlock:semaphore:redlock:queue    ... and its other side keys
    <key>:redlock:semaphore:redlock:size     how many permits there are
    <key>:redlock:semaphore:<NN>:held        permit NN, a string: the holder's token

Votes are for one permit. Were they for the semaphore, as a number that a server counts, three holders could each have
two of three servers with two permits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.exclusive import EXCLUSIVE, Exclusive
from redlock_cluster.core.mode import Command
from redlock_cluster.core.queue import HELD, NOBODY, SEMAPHORE, SIZE, Member, name_of, semaphore_in, side_keys
from redlock_cluster.core.replies import ONE, UNFORESEEN
from redlock_cluster.core.token import Token
from redlock_cluster.lua import PERMIT, RELEASE

__all__ = [
    "MOST_PERMITS",
    "PERMITS",
    "Permit",
    "Semaphore",
    "lock_mode",
    "permit_key",
    "permit_of",
    "resource_key",
    "semaphore_key",
    "semaphore_of",
]

MOST_PERMITS: Final = 64


def semaphore_key(key: bytes) -> bytes:
    """The semaphore of a resource; key: the resource's."""
    return key + SEMAPHORE


def resource_key(at: bytes) -> bytes:
    """The key of the resource; at: its semaphore's, or the same."""
    return at.removesuffix(SEMAPHORE)


def permit_key(semaphore: bytes, number: int) -> bytes:
    """One of its permits, from 0 on."""
    return b"%b:%02d%b" % (semaphore, number, HELD)


def permit_of(key: bytes) -> tuple[bytes, int] | None:
    """The semaphore and the number of a permit; None for a key that is none."""
    semaphore = semaphore_in(key)
    if semaphore is key:
        return None
    number = key[len(semaphore) + 1 : -len(HELD)]
    return (semaphore, int(number)) if number.isdigit() else None


class Permit(Exclusive):
    """A permit that somebody holds: an exclusive lock whose release tells those who wait for any permit.

    number: from 0 on
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    @property
    def name(self) -> str:
        """As `LockMode.name`."""
        return f"permit{self._number}"

    def place(self, key: bytes) -> bytes:
        """Beside the resource's key."""
        return permit_key(semaphore_key(key), self._number)

    def waits_at(self, key: bytes) -> bytes:
        """As the semaphore."""
        return semaphore_in(key)

    def release(self, dialect: Dialect, key: bytes, token: Token, tells: bool, in_full: bool) -> Command:
        """By script, as others may wait; as an exclusive lock where we may not run it."""
        if not dialect.queues:
            return Exclusive.release(self, dialect, key, token, False, in_full)
        return RELEASE.call(in_full, side_keys(key), token, b"", 1), ONE


PERMITS: Final = tuple(Permit(number) for number in range(MOST_PERMITS))


def lock_mode(permit: object) -> Exclusive:
    """How a permit is held, by its number; None: how a mutex is. Raises TypeError or ValueError for another number."""
    if permit is None:
        return EXCLUSIVE
    if not isinstance(permit, int) or isinstance(permit, bool):
        raise TypeError(f"the number of a permit is an int, not {type(permit).__name__}")
    if not 0 <= permit < MOST_PERMITS:
        raise ValueError(f"permits have the numbers 0 to {MOST_PERMITS - 1}, not {permit}")
    return PERMITS[permit]


class Semaphore(Exclusive):
    """How a permit is acquired. The key is the semaphore's.

    permits: how many there are
    """

    __slots__ = ("permits",)

    def __init__(self, permits: int) -> None:
        self.permits = permits

    @property
    def name(self) -> str:
        """As `LockMode.name`."""
        return "semaphore"

    def take_one(
        self, dialect: Dialect, key: bytes, number: int, token: Token, ttl_ms: int, member: Member, in_full: bool
    ) -> Command:
        """Takes one permit if it is free and nobody before us would have it.

        number: of the permit
        """
        order: bytes | int = b"" if member is NOBODY else member.order
        exact, name = 1 if member.exact else 0, b""
        if not dialect.queues:
            order, exact = 0, 1  # as whoever takes an exclusive lock there: passes those who wait
        elif member.client:
            name = name_of(member.client, dialect.wakes)
        keys = (*side_keys(key), key + SIZE, *_permits(key, self.permits))
        return PERMIT.call(in_full, keys, token, ttl_ms, name, order, exact, member.life_ms, number + 1), UNFORESEEN


@lru_cache(maxsize=64)
def _permits(semaphore: bytes, permits: int) -> tuple[bytes, ...]:
    return tuple(permit_key(semaphore, number) for number in range(permits))


_SEMAPHORES: Final = tuple(Semaphore(permits) for permits in range(1, MOST_PERMITS + 1))


def semaphore_of(permits: object) -> Semaphore:
    """The one with so many permits. Raises TypeError or ValueError for what can't be such a number."""
    if not isinstance(permits, int) or isinstance(permits, bool):
        raise TypeError(f"a number of permits is an int, not {type(permits).__name__}")
    if not 1 <= permits <= MOST_PERMITS:
        raise ValueError(f"a semaphore has 1 to {MOST_PERMITS} permits, not {permits}")
    return _SEMAPHORES[permits - 1]
