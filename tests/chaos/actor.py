"""One contender: locks, works inside, extends and releases, and writes down what it believes at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

from redlock_cluster import RETRY, Contended, Err, LeaseLost, NotHeld, Ok, QuorumUnavailable
from redlock_cluster.core.timing import Timing

from .event_log import History, clock, end_of
from .faces import AsyncFace, Face, Script
from .schedule import MAX_TTL
from .sections import Sections

__all__ = ["QUICK", "RESOURCES", "TIMING", "Actor"]

QUICK: Final = ("quick-1", "quick-2", "quick-3")
_SLOW: Final = ("slow-1", "slow-2")
RESOURCES: Final = QUICK + _SLOW
"""Quick ones are held for milliseconds; slow ones up to the end of a short ttl and beyond, or extended."""

TIMING: Final = Timing(drift_factor=0.01, server_timeout=0.25)
_QUICK_TTLS: Final = (1.0, MAX_TTL)
_SLOW_TTLS: Final = (0.4, 0.4, 1.0)
_EXTENSIONS: Final = (0.4, 1.0, MAX_TTL)


@dataclass
class _Held:
    """A lease as its actor sees it; a transaction's has no handle, so its validity is counted from the call."""

    name: str
    resource: str
    ttl: float
    valid: Callable[[], bool]
    lease: Any = None


class Actor:
    """A thread or task of a worker. `turn` is one thing it does, as a script for its face."""

    def __init__(self, who: str, face: Face, history: History, sections: Sections, chance: Random) -> None:
        self.who, self.face, self.chance = who, face, chance
        self._redlock: Any = face.redlock
        self._history, self._sections = history, sections
        self._leases = 0

    def turn(self) -> Script:
        """One operation, chosen at random, and a pause."""
        ways: list[tuple[Callable[[], Script], int]] = [
            (self._lock, 6),
            (self._mutex, 5),
            (self._transaction, 2),
            (self._many, 2),
        ]
        if isinstance(self.face, AsyncFace):
            ways.append((partial(self._cancelled, self.face), 1))
        (way,) = self.chance.choices([way for way, _ in ways], [weight for _, weight in ways])
        yield from way()
        yield partial(self.face.sleep, self.chance.uniform(0.002, 0.03))

    # --- ways to acquire -------------------------------------------------------------------------------------------

    def _lock(self) -> Script:
        resource, ttl, wait = self._choice()
        asked = clock()
        outcome = yield partial(self._redlock.lock, resource, ttl, wait=wait)
        yield from self._after_lock(resource, ttl, asked, outcome)

    def _cancelled(self, face: AsyncFace) -> Script:
        resource, ttl, wait = self._choice()
        asked = clock()
        outcome = yield partial(face.lock_within, self.chance.uniform(0, 0.05), resource, ttl, wait)
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
        if self.chance.random() < 0.1:
            yield from self._release(held, "token", partial(self._redlock.unlock, resource, held.lease.token))
        else:
            yield from self._release(held, "lease", partial(self._redlock.unlock, resource, held.lease))

    def _many(self) -> Script:
        resources, asked = self.chance.sample(RESOURCES, self.chance.choice((2, 3))), clock()
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
            self._write("released", lease=held.name, asked=asked, why=_why(outcome))

    def _mutex(self) -> Script:
        resource, ttl, wait = self._choice()
        asked, inside = clock(), list[_Held]()
        releasing = 0.0

        def body(lease: Any) -> Script:
            nonlocal releasing
            inside.append(self._acquired(resource, asked, lease))
            yield from self._work(inside)
            releasing = self._write("releasing", lease=inside[0].name, by="lease")

        try:
            yield partial(self.face.mutex, resource, ttl, wait, body)
        except (Contended, QuorumUnavailable) as error:
            self._refused(resource, asked, Err("", error=error))
        except LeaseLost:
            self._write("released", lease=inside[0].name, asked=releasing, why="not_held")
        else:
            known = inside[0].lease.state.value == "released"
            self._write("released", lease=inside[0].name, asked=releasing, why="" if known else "unavailable")

    def _transaction(self) -> Script:
        resource, ttl, _ = self._choice()
        asked = clock()
        until = asked + TIMING.terms(ttl).validity

        def body() -> Script:
            name = self._next()
            most = clock() + TIMING.terms(ttl).validity
            self._write("acquired", lease=name, resource=resource, asked=asked, until=until, most=most, token="hidden")
            yield from self._work([_Held(name, resource, ttl, lambda: clock() < until)])
            self._write("releasing", lease=name, by="transaction")

        outcome = yield partial(self.face.transaction, resource, ttl, self.chance.choice((0, 0.1)), body)
        if isinstance(outcome, Err):
            self._refused(resource, asked, outcome)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _work(self, batch: list[_Held]) -> Script:
        """The critical section of leases that are held together."""
        entered = [held for held in batch if held.valid()]
        for held in entered:
            other = self._sections.enter(held.resource, held.name)
            if other is not None:
                self._write("met", lease=held.name, other=other, valid=held.valid())
        slow = batch[0].resource not in QUICK
        what = self.chance.random()
        if slow and what < 0.3 and batch[0].lease is not None:
            for _ in range(self.chance.randint(1, 4)):
                yield partial(self.face.sleep, min(0.4, batch[0].lease.remaining * self.chance.uniform(0.1, 0.7)))
                yield from self._extend(batch)
        elif slow and what < 0.65 and batch[0].ttl <= _SLOW_TTLS[0]:
            yield partial(self.face.sleep, batch[0].ttl * 1.1)
        elif what < 0.9:
            yield partial(self.face.sleep, self.chance.uniform(0, 0.02))
        if self.chance.random() < 0.03:
            yield from self._look(batch[0])
        for held in entered:
            self._sections.leave(held.resource, held.name)
            self._write("left", lease=held.name, valid=held.valid())

    def _extend(self, batch: list[_Held]) -> Script:
        ttl = self.chance.choice(_EXTENSIONS)
        begun = [self._write("extending", lease=held.name, ttl=ttl) for held in batch]
        if len(batch) == 1:
            outcome = yield partial(self._redlock.extend, batch[0].resource, batch[0].lease, ttl)
            outcomes = [outcome]
        else:
            outcomes = yield partial(self._redlock.extend_many, [held.lease for held in batch], ttl)
        for held, asked, outcome in zip(batch, begun, outcomes, strict=True):
            until, most = _validity(held.lease)
            self._write("extended", lease=held.name, asked=asked, why=_why(outcome), until=until, most=most)

    def _look(self, held: _Held) -> Script:
        try:
            locked = yield partial(self._redlock.is_locked, held.resource)
        except QuorumUnavailable:
            return
        self._write("looked", lease=held.name, locked=locked, valid=held.valid())

    # --- what is written down --------------------------------------------------------------------------------------

    def _write(self, do: str, t: float | None = None, **about: object) -> float:
        return self._history.write(self.who, do, t, **about)

    def _next(self) -> str:
        self._leases += 1
        return f"{self.who}#{self._leases}"

    def _choice(self) -> tuple[str, float, Any]:
        resource = self.chance.choice(QUICK if self.chance.random() < 0.8 else _SLOW)
        if resource in QUICK:
            return resource, self.chance.choice(_QUICK_TTLS), self.chance.choice((RETRY, RETRY, 0, 0.3))
        return resource, self.chance.choice(_SLOW_TTLS), self.chance.choice((RETRY, 0.5))

    def _acquired(self, resource: str, asked: float, lease: Any) -> _Held:
        t = clock()
        until, most = _validity(lease)
        name, token = self._next(), end_of(lease.token)
        self._write("acquired", t, lease=name, resource=resource, asked=asked, until=until, most=most, token=token)
        return _Held(name, resource, lease.ttl, lambda: lease.valid, lease)

    def _refused(self, resource: str, asked: float, outcome: Any) -> None:
        error = outcome.error
        why = "unavailable" if isinstance(error, QuorumUnavailable) else "split" if "split" in str(error) else "held"
        self._write("refused", resource=resource, asked=asked, why=why)

    def _release(self, held: _Held, by: str, call: Callable[[], object]) -> Script:
        asked = self._write("releasing", lease=held.name, by=by)
        outcome = yield call
        self._write("released", lease=held.name, asked=asked, why=_why(outcome))


def _why(outcome: Any) -> str:
    """Empty for success, else the reason; a lease that is over is `not_held` for whatever cause."""
    if isinstance(outcome, Ok):
        return ""
    return "again" if isinstance(outcome.error, NotHeld) else str(outcome.reason)


def _validity(lease: Any) -> tuple[float, float]:
    """The least and the most that `valid_until` can be: the process may be held up between two readings.

    The least of a lease that is over, which does not tell since when, is 0.
    """
    before, left, after = clock(), lease.remaining, clock()
    return before + left if left else 0.0, after + left
