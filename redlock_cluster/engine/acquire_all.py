"""How many locks are acquired together: all of them or none, over any groups, whoever else wants some of them.

1. Try all that are missing at once, one attempt each.
2. If some are refused, the first of those by the bytes of their keys is the one to wait for. Give back every lock whose
   key comes after it: who waits holds only locks that come before. So no two can wait for each other, in whatever order
   callers name their resources; and who waits stands in one line alone.
3. Wait for that one, as any acquisition does, in order with all others. Meanwhile what is held is extended whenever a
   third of the ttl has passed. Then begin again with what is missing.
4. What is lost meanwhile is missing again.
5. When nothing is missing, what was held while others were waited for is extended once more, so that the whole is valid
   about as long as its ttl.

When the time is over, or the supervisor is closed, everything is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource, resource_bytes
from redlock_cluster.core.retry import NEVER, Wait
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine import bulk
from redlock_cluster.engine.acquire import Acquisition
from redlock_cluster.engine.engine import Engine, require_choice
from redlock_cluster.engine.release import give_back
from redlock_cluster.errors import LockNotAcquired, QuorumUnavailable

__all__ = ["acquire_all"]

_EXTENDED: Final = 3  # times in a ttl


async def acquire_all(
    engine: Engine,
    resources: Sequence[Resource],
    ttl: Seconds,
    wait: Wait,
    cancel_id: str | None = None,
    mode: LockMode = EXCLUSIVE,
) -> list[LeaseRecord] | LockNotAcquired:
    """Acquire all of these locks or none. Cancelling it gives everything back.

    resources: what to lock, each once, at least one
    ttl: seconds
    wait, cancel_id: as for `AsyncSupervisor.lock`; `wait` is for all of them together
    mode: which kind of lock

    Returns the leases in the order given, or why the first that is missing could not be had. Raises ValueError for
    duplicates and for none, TypeError, ClosedError.
    """
    whole = _Whole(engine, resources, ttl, wait, cancel_id, mode)
    engine.on_close.add(whole.give_back)
    try:
        missing = await whole.acquire()
    except BaseException:
        whole.give_back()
        raise
    finally:
        engine.on_close.discard(whole.give_back)
    if missing is None:
        return whole.leases()
    whole.give_back()
    return missing


class _Whole:
    """The locks that are to be held together; arguments as for `acquire_all`."""

    def __init__(
        self,
        engine: Engine,
        resources: Sequence[Resource],
        ttl: Seconds,
        wait: Wait,
        cancel_id: str | None,
        mode: LockMode,
    ) -> None:
        if not resources:
            raise ValueError("name at least one resource")
        if cancel_id is not None:
            require_choice(None, cancel_id)
        self._engine, self._cancel_id, self._mode = engine, cancel_id, mode
        self._ttl = engine.terms(ttl).ttl_ms / 1000
        self._until = engine.until(wait)
        self._keys = [engine.key(resource_bytes(resource)) for resource in resources]
        self._resources = dict(sorted(zip(self._keys, resources, strict=True), key=itemgetter(0)))
        if len(self._resources) < len(resources):
            bulk.require_distinct(self._keys, resources)
        self._held: dict[bytes, LeaseRecord] = {}
        self._waited = False

    async def acquire(self) -> LockNotAcquired | None:
        """Returns None when all are held, else why the first that is missing could not be had."""
        while True:
            refused = await self._try_missing()
            if refused is None:
                outage = await self._renew() if self._waited else None
                if outage is not None or len(self._held) == len(self._keys):
                    return outage
                continue
            key, why = refused
            left = self._until - self._engine.clock()
            if left <= 0:
                return why
            self._give_back_after(key)
            outcome = await self._wait_for(self._resources[key], left)
            if isinstance(outcome, LockNotAcquired):
                return outcome
            self._held[key], self._waited = outcome, True
            self._drop_lost()

    async def _try_missing(self) -> tuple[bytes, LockNotAcquired] | None:
        """Make one attempt for each that is missing. Returns the first by key that was refused, and why."""
        missing = [(key, resource) for key, resource in self._resources.items() if key not in self._held]
        outcomes = await bulk.acquire_many(
            self._engine, [each[1] for each in missing], self._ttl, lambda outcome: outcome, self._mode
        )
        refused = None
        for (key, _), outcome in zip(missing, outcomes, strict=True):
            if isinstance(outcome, LeaseRecord):
                self._held[key] = outcome
            elif refused is None:
                refused = key, outcome
        return refused

    async def _wait_for(self, resource: Resource, left: float) -> LeaseRecord | LockNotAcquired:
        """Wait until one is acquired; extend meanwhile what is held."""
        engine, wait = self._engine, None if left == NEVER else left
        acquisition = engine.acquire(resource, self._ttl, wait, self._mode, self._cancel_id)
        try:
            while True:
                await self._decided(acquisition)
                outcome = acquisition.result()
                if acquisition.decided:
                    return outcome
        except BaseException:
            acquisition.abandon()
            raise

    async def _decided(self, acquisition: Acquisition) -> None:
        decided = acquisition.future(self._engine.loop)
        while True:
            await asyncio.wait([decided], timeout=self._ttl / _EXTENDED)
            if decided.done():
                return
            await self._renew()

    async def _renew(self) -> LockNotAcquired | None:
        """Extend what is held; what turns out to be lost is missing from then on. Returns why that is not known."""
        records = [*self._held.values()]
        outcomes = await bulk.extend_many(self._engine, records, self._ttl) if records else []
        self._drop_lost()
        return next((each for each in outcomes if isinstance(each, QuorumUnavailable)), None)

    def _drop_lost(self) -> None:
        now = self._engine.clock()
        for key, record in [*self._held.items()]:
            if record.remaining(now) <= 0:
                self._abandon(self._held.pop(key))

    def _give_back_after(self, key: bytes) -> None:
        for later in [each for each in self._held if each > key]:
            self._abandon(self._held.pop(later))

    def give_back(self) -> None:
        """Give back all that is held."""
        held, self._held = self._held, {}
        for record in held.values():
            self._abandon(record)

    def _abandon(self, record: LeaseRecord) -> None:
        if not self._engine.forked:  # also when it is closed: what was won meanwhile is nobody's
            give_back(self._engine.group_of(record), record)

    def leases(self) -> list[LeaseRecord]:
        """What is held, in the order in which it was named."""
        return [self._held[key] for key in self._keys]
