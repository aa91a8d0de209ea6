"""Chunks of batches: operations that begin together, in one turn of the loop, and are waited for together.

No coroutines here, so that it can be compiled: all that is done for each operation of a batch is done here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from redlock_cluster.core.decision import Decision, Settled
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.timing import Terms
from redlock_cluster.engine.acquire import Attempt, last_attempt
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.extend import Extension
from redlock_cluster.engine.release import Release, begin_release
from redlock_cluster.errors import LockNotAcquired, RedlockError

__all__ = ["Attempts", "Chunk", "Extensions", "Releases"]

T = TypeVar("T")


class Chunk(Decision, Generic[T]):
    """Some operations. Decided when all of them are; an `Operation` whose result is theirs, in order."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        Decision.__init__(self)
        self._left = 0

    @abstractmethod
    def begin(self) -> Chunk[T]:
        """Begin all of them."""

    def _wait_for(self, operations: Sequence[Decision]) -> None:
        """These have begun."""
        for operation in operations:
            if not operation.decided:
                self._left += 1
                operation.add_waiter(self)
        self.decided = not self._left

    def hear(self) -> None:
        """One more of them is decided."""
        self._left -= 1
        if not self._left:
            self.decided = True
            self.notify()

    @abstractmethod
    def abandon(self) -> None:
        """Nobody wants the results any more."""

    @abstractmethod
    def result(self) -> list[T]:
        """What they came to. Only once they are decided."""


class Attempts(Chunk[LeaseRecord | LockNotAcquired]):
    """One attempt for each of some resources, by what `engine.acquire` does for the last one of an acquisition.

    resources: as the caller named them
    names: the same as bytes
    mode: which kind of lock
    """

    __slots__ = ("_attempts", "_engine", "_mode", "_names", "_resources", "_terms")

    def __init__(
        self, engine: Engine, resources: Sequence[Resource], names: Sequence[bytes], terms: Terms, mode: LockMode
    ) -> None:
        Chunk.__init__(self)
        self._engine, self._resources, self._names, self._terms = engine, resources, names, terms
        self._mode = mode
        self._attempts: list[Attempt] = []

    def begin(self) -> Attempts:
        """Make them."""
        engine, ttl_ms, patience, attempts = self._engine, self._terms.ttl_ms, self._terms.patience, self._attempts
        for name in self._names:
            attempt = last_attempt(engine.group_for(name), engine.key(name), self._mode, ttl_ms, patience)
            attempts.append(attempt)
            attempt.begin()
        self._wait_for(attempts)
        return self

    def abandon(self) -> None:
        """Give back what was or may still be granted."""
        self.decided = True
        for attempt in self._attempts:
            attempt.give_up()
            attempt.group.note_released(attempt.key, attempt.mode)

    def late(self, now: float) -> bool:
        """Whether the first of the leases, if it is one, ends before this moment, engine time."""
        return now >= self._attempts[0].started + self._terms.validity

    def result(self) -> list[LeaseRecord | LockNotAcquired]:
        """The leases, or why there is none. Once more if their caller comes `late`: what is right by then."""
        now, validity, outcomes = self._engine.clock(), self._terms.validity, list[LeaseRecord | LockNotAcquired]()
        for attempt, resource in zip(self._attempts, self._resources, strict=True):
            outcomes.append(attempt.outcome(resource, validity, now))
        return outcomes


class Releases(Chunk[RedlockError | None]):
    """Releases of some leases of an engine. Nobody can stop them."""

    __slots__ = ("_begun", "_engine", "_records")

    def __init__(self, engine: Engine, records: Sequence[LeaseRecord]) -> None:
        Chunk.__init__(self)
        self._engine, self._records = engine, records
        self._begun: list[Release | Settled[RedlockError | None]] = []

    def begin(self) -> Releases:
        """Send them."""
        engine, now = self._engine, self._engine.clock()
        for record in self._records:
            self._begun.append(begin_release(engine.group_of(record), record.resource, record, now))
        self._wait_for(self._begun)
        return self

    def abandon(self) -> None:
        """They go on."""

    def result(self) -> list[RedlockError | None]:
        """For each None, or why it can't be said that it was released."""
        return [release.result() for release in self._begun]


class Extensions(Chunk[LeaseRecord | RedlockError]):
    """Extensions of some leases of an engine.

    ttl_ms: milliseconds, checked; None: of each lease what it has
    """

    __slots__ = ("_begun", "_engine", "_records", "_ttl_ms")

    def __init__(self, engine: Engine, records: Sequence[LeaseRecord], ttl_ms: int | None) -> None:
        Chunk.__init__(self)
        self._engine, self._records, self._ttl_ms = engine, records, ttl_ms
        self._begun: list[Extension] = []

    def begin(self) -> Extensions:
        """Begin them."""
        for record in self._records:
            self._begun.append(self._engine.extend_by(record, self._ttl_ms or record.kept_ms()))
        self._wait_for(self._begun)
        return self

    def abandon(self) -> None:
        """Those that have not been sent never are."""
        for extension in self._begun:
            extension.abandon()

    def result(self) -> list[LeaseRecord | RedlockError]:
        """For each the lease, or why it was not extended."""
        return [extension.result() for extension in self._begun]
