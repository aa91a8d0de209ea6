"""One contender: locks, works inside, extends and releases, and writes down what it believes at each step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from redlock_cluster import RETRY, Contended, Err, LeaseLost, Ok, QuorumUnavailable, WaitCancelled

from .contender import CROWDED, LONGEST_WORK, TIMING, Held, validity_of, why_of
from .event_log import clock
from .faces import AsyncFace, Script
from .keeping import KEPT, Keeping
from .schedule import MAX_TTL

__all__ = ["QUICK", "RESOURCES", "Actor"]

QUICK: Final = ("quick-1", "quick-2", "quick-3")
_SLOW: Final = ("slow-1", "slow-2")
_ONCE: Final = QUICK + _SLOW + CROWDED
RESOURCES: Final = _ONCE + KEPT
"""Quick ones are held for milliseconds; slow ones up to the end of a short ttl and beyond, or extended. Many wait for
crowded ones, as long as it takes. Kept ones are held for several ttls, by leases that extend themselves."""

_QUICK_TTLS: Final = (1.0, MAX_TTL)
_SLOW_TTLS: Final = (0.4, 0.4, 1.0)
_EXTENSIONS: Final = (0.4, 1.0, MAX_TTL)
_WAITS: Final = (None, None, None, None, 8.0, 2.0, 0.3, RETRY)


class Actor(Keeping):
    """A thread or task of a worker. `turn` is one thing it does, as a script for its face."""

    def turn(self) -> Script:
        """One operation, chosen at random, and a pause."""
        ways: list[tuple[Callable[[], Script], float]] = [
            (self._lock, 6),
            (self._mutex, 5),
            (self._transaction, 2),
            (self._many, 2),
            (self._end_waits, 0.3),
            *self._ways_to_keep(),
        ]
        if isinstance(self.face, AsyncFace):
            ways.append((partial(self._cancelled, self.face), 1))
        (way,) = self.chance.choices([way for way, _ in ways], [weight for _, weight in ways])
        yield from way()
        yield partial(self.face.sleep, self.chance.uniform(0.002, 0.03))

    # --- ways to acquire -------------------------------------------------------------------------------------------

    def _lock(self) -> Script:
        resource, ttl, wait = self._choice()
        asked = self._asks(resource, wait)
        outcome = yield partial(self._redlock.lock, resource, ttl, wait=wait, cancel_id=self._cancel_id())
        yield from self._after_lock(resource, ttl, asked, outcome)

    def _cancelled(self, face: AsyncFace) -> Script:
        resource, ttl, wait = self._choice()
        within = self.chance.uniform(0, 1.0 if resource in CROWDED else 0.05)
        asked = self._asks(resource, wait)
        outcome = yield partial(face.lock_within, within, resource, ttl, wait)
        if outcome is None:
            self._write("refused", resource=resource, asked=asked, why="cancelled")
        else:
            yield from self._after_lock(resource, ttl, asked, outcome)

    def _after_lock(self, resource: str, ttl: float, asked: float, outcome: object) -> Script:
        if not isinstance(outcome, Ok):
            self._refused(resource, asked, outcome)
            return
        held = self._acquired(resource, asked, outcome.value)
        yield from self._work([held])
        if self.chance.random() < (0.02 if ttl > _SLOW_TTLS[0] else 0.4):
            return  # as if forgotten: it lapses
        yield from self._release(held, by_token=self.chance.random() < 0.1)

    def _many(self) -> Script:
        resources, asked = self.chance.sample(_ONCE, self.chance.choice((2, 3))), clock()
        outcomes = yield partial(self._redlock.lock_many, resources, self.chance.choice(_QUICK_TTLS))
        batch = []
        for resource, outcome in zip(resources, outcomes, strict=True):
            if isinstance(outcome, Ok):
                batch.append(self._acquired(resource, asked, outcome.value))
            else:
                self._refused(resource, asked, outcome)
        if not batch:
            return
        yield from self._work(batch)
        begun = [self._write("releasing", lease=held.name, by="lease") for held in batch]
        outcomes = yield partial(self._redlock.unlock_many, [held.lease for held in batch])
        for held, asked, outcome in zip(batch, begun, outcomes, strict=True):
            self._write("released", lease=held.name, asked=asked, why=why_of(outcome))

    def _mutex(self) -> Script:
        resource, ttl, wait = self._choice()
        asked, inside = self._asks(resource, wait), list[Held]()
        releasing = 0.0

        def body(lease: Any) -> Script:
            nonlocal releasing
            inside.append(self._acquired(resource, asked, lease))
            yield from self._work(inside)
            releasing = self._write("releasing", lease=inside[0].name, by="lease")

        try:
            yield partial(self.face.mutex, resource, ttl, wait, self._cancel_id(), body)
        except (Contended, QuorumUnavailable, WaitCancelled) as error:
            self._refused(resource, asked, Err("", error=error))
        except LeaseLost:
            self._write("released", lease=inside[0].name, asked=releasing, why="not_held")
        else:
            known = inside[0].lease.state.value == "released"
            self._write("released", lease=inside[0].name, asked=releasing, why="" if known else "unavailable")

    def _transaction(self) -> Script:
        resource, ttl, wait = self._choice()
        wait = wait if resource in CROWDED else self.chance.choice((0, 0.1))
        asked = self._asks(resource, wait)
        until = asked + TIMING.terms(ttl).validity

        def body() -> Script:
            name = self._next()
            most = clock() + TIMING.terms(ttl).validity
            self._write("acquired", lease=name, resource=resource, asked=asked, until=until, most=most, token="hidden")
            yield from self._work([Held(name, resource, ttl, lambda: clock() < until)])
            self._write("releasing", lease=name, by="transaction")

        outcome = yield partial(self.face.transaction, resource, ttl, wait, self._cancel_id(), body)
        if isinstance(outcome, Err):
            self._refused(resource, asked, outcome)

    def _end_waits(self) -> Script:
        """Ends waits of others in this process, for one resource or with one id."""
        if self.chance.random() < 0.5:
            ending = partial(self._redlock.cancel_waiting, self.chance.choice(CROWDED))
        else:
            ending = partial(self._redlock.cancel_waiting, cancel_id=self._cancel_id())
        with contextlib.suppress(QuorumUnavailable):  # the library's thread had no time, as after a pause
            count = yield ending
            self._write("ended", count=count)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _work(self, batch: list[Held]) -> Script:
        """The critical section of leases that are held together."""
        entered = [held for held in batch if held.valid()]
        for held in entered:
            self._enter(held)
        slow = batch[0].resource in _SLOW
        what = self.chance.random()
        if slow and what < 0.3 and batch[0].lease is not None:
            for _ in range(self.chance.randint(1, 4)):
                yield partial(self.face.sleep, min(0.4, batch[0].lease.remaining * self.chance.uniform(0.1, 0.7)))
                yield from self._extend(batch)
        elif slow and what < 0.65 and batch[0].ttl <= _SLOW_TTLS[0]:
            yield partial(self.face.sleep, batch[0].ttl * 1.1)
        elif batch[0].resource in CROWDED and what < 0.25:
            yield partial(self.face.sleep, self.chance.uniform(0.05, LONGEST_WORK))
        elif what < 0.9:
            yield partial(self.face.sleep, self.chance.uniform(0, 0.02))
        if self.chance.random() < 0.03:
            yield from self._look(batch[0])
        for held in entered:
            self._leave(held)

    def _extend(self, batch: list[Held]) -> Script:
        ttl = self.chance.choice(_EXTENSIONS)
        begun = [self._write("extending", lease=held.name, ttl=ttl) for held in batch]
        if len(batch) == 1:
            outcome = yield partial(self._redlock.extend, batch[0].resource, batch[0].lease, ttl)
            outcomes = [outcome]
        else:
            outcomes = yield partial(self._redlock.extend_many, [held.lease for held in batch], ttl)
        for held, asked, outcome in zip(batch, begun, outcomes, strict=True):
            until, most = validity_of(held.lease)
            self._write("extended", lease=held.name, asked=asked, why=why_of(outcome), until=until, most=most)

    def _look(self, held: Held) -> Script:
        try:
            locked = yield partial(self._redlock.is_locked, held.resource)
        except QuorumUnavailable:
            return
        self._write("looked", lease=held.name, locked=locked, valid=held.valid())

    def _choice(self) -> tuple[str, float, Any]:
        if self.chance.random() < 0.5:
            return self.chance.choice(CROWDED), self.chance.choice(_QUICK_TTLS), self.chance.choice(_WAITS)
        resource = self.chance.choice(QUICK if self.chance.random() < 0.8 else _SLOW)
        if resource in QUICK:
            return resource, self.chance.choice(_QUICK_TTLS), self.chance.choice((RETRY, RETRY, 0, 0.3))
        return resource, self.chance.choice(_SLOW_TTLS), self.chance.choice((RETRY, 0.5))
