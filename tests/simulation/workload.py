"""What simulated users do: every operation of a supervisor, cancelled at any point, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from redlock_cluster import (
    RETRY,
    ClosedError,
    Contended,
    Err,
    LeaseLost,
    NotHeld,
    Ok,
    QuorumUnavailable,
    WaitCancelled,
)
from redlock_cluster.aio import AsyncLease
from redlock_cluster.core.kinds import Mode
from redlock_cluster.core.retry import Wait
from redlock_cluster.testing.simulation import SimulatedClient, stream

from .invariants import MANY, Belief, Claim, Section
from .plan import DRIFT, GRAIN, TTLS

if TYPE_CHECKING:
    from .scene import Scene

T = TypeVar("T")
CANCELLED = object()
CANCELLATIONS = 0.25
BY_TOKEN = 0.15
READS = 0.5
TRIES = 3


class Actor:
    """A user's hands: a task of a client that calls the supervisor, cancels some calls, and tells what came of them.

    acquiring: whether it waits for a lock now
    """

    def __init__(self, scene: Scene, client: SimulatedClient, number: int) -> None:
        self._scene, self._client = scene, client
        self._world, self._history = scene.world, scene.history
        self._random = stream(scene.plan.seed, f"user {client.name} {number}")
        self._name = client.name if number == 0 else f"{client.name}/{number}"
        self._redlock = client.supervisor
        self.acquiring = False

    def _by_token(self) -> bool:
        return self._random.random() < BY_TOKEN

    def _let_go(self, claim: Claim) -> None:
        self._note(f"unlock {claim} on {claim.resource}")
        if not claim.let_go:
            self._scene.invariants.letting_go(claim)

    def _claim(self, resource: str, lease: AsyncLease, by: Belief | None = None, most: int = 1) -> Claim:
        self._note(f"got {resource}: …{lease.token.partition('@')[0][-4:]} for {lease.remaining * 1000:.3f} ms")
        return Claim(self._client, resource, lease, self._world.loop.time(), by, most)

    def _got(self, resource: str, lease: AsyncLease, by: Belief | None = None, most: int = 1) -> Claim:
        claim = self._claim(resource, lease, by, most)
        self._scene.invariants.acquired(claim, resource)
        return claim

    def _end(self, claim: Claim, ttl: float) -> float:
        """Simulated time up to which a lease stays valid if an extension that begins now fails."""
        validity = min(claim.lease.remaining, ttl * (1 - DRIFT) - GRAIN)
        return self._world.loop.time() + validity / claim.client.clock.rate

    def _begin(self, what: str, ttl: float, wait: Wait) -> float:
        self._note(f"{what} for {ttl} s, wait {wait}")
        self.acquiring = True
        return self._world.loop.time()

    def _note(self, what: str) -> None:
        self._history.note(self._name, what)

    def _wait(self) -> Wait:
        return self._random.choice((0, 0, 0.1, 0.4, RETRY, None))

    async def _hold(self) -> None:
        longest = (0.0, 0.2, 1.0, 3.0) if self._scene.plan.forgets else (0.0, 0.005, 0.05, 0.2)
        await asyncio.sleep(self._random.choice(longest) * self._random.random())

    async def _cancellable(self, what: str, operation: Coroutine[Any, Any, T], resource: str = "") -> T | object:
        """Awaits an operation, and sometimes cancels it at some point; CANCELLED if that hit."""
        task = asyncio.get_running_loop().create_task(operation)
        if self._random.random() < CANCELLATIONS:
            delay = self._random.choice((0.002, 0.002, 0.01, 0.1)) * self._random.random()
            asyncio.get_running_loop().call_later(delay, self._cancel, what, task, resource)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not task.cancelled() or (current is not None and current.cancelling()):
                raise
            return CANCELLED

    def _cancel(self, what: str, task: asyncio.Task[object], resource: str) -> None:
        if task.done():
            return
        self._note(f"cancels {what}")
        self._history.count("operations cancelled")
        if resource and self._scene.ledger.undecided(self._client.name, resource, self._scene.plan.size):
            self._history.count("cancelled between votes")
        task.cancel()

    async def _lock(self, resource: str, ttl: float, wait: Wait, mode: Mode = "write") -> Claim | None:
        begun = self._begin(f"lock {resource}{' to read' if mode == 'read' else ''}", ttl, wait)
        outcome = await self._cancellable(f"lock {resource}", self._locked(resource, ttl, wait, mode), resource)
        self.acquiring = False
        if isinstance(outcome, Claim):
            return outcome
        if isinstance(outcome, Err):
            self._note(f"lock {resource}: {outcome.reason}")
            self._scene.refused(self._client, resource, outcome, begun, wait)
        return None

    async def _locked(self, resource: str, ttl: float, wait: Wait, mode: Mode = "write") -> Claim | Err[Any]:
        outcome = await self._redlock.lock(resource, ttl, wait=wait, mode=mode)
        most = MANY if mode == "read" else 1
        return self._got(resource, outcome.value, most=most) if isinstance(outcome, Ok) else outcome

    async def _unlock(self, claim: Claim) -> None:
        for _ in range(TRIES):
            outcome = await self._cancellable("unlock", self._unlocked(claim, self._by_token()))
            if outcome is not CANCELLED and (not isinstance(outcome, Err) or outcome.reason == "not_held"):
                return
            await asyncio.sleep(self._random.random() * 0.05)

    async def _unlocked(self, claim: Claim, by_token: bool) -> Ok[None] | Err[str]:
        before = claim.lease.state
        first = not claim.let_go
        self._let_go(claim)
        how = claim.lease.token if by_token else claim.lease
        try:
            outcome = await self._redlock.unlock(claim.resource, how)
        except ClosedError:
            claim.let_go = not first
            raise
        self._note(f"unlock {claim}: {outcome.reason if isinstance(outcome, Err) else 'Ok'}")
        self._scene.invariants.released(claim, outcome, before)
        return outcome

    async def _until_closed(self, action: Awaitable[None]) -> None:
        try:
            await action
        except ClosedError:
            self._history.count("calls on a closed supervisor")
            await asyncio.sleep(0.02)

    async def _close_and_start(self) -> None:
        self._note("close")
        self._scene.closing(self._client)
        await self._cancellable("close", self._redlock.close())
        await asyncio.sleep(self._random.random() * 0.02)
        while await self._cancellable("start", self._started()) is not True:
            await asyncio.sleep(0.001)
        self._note("started again")
        self._scene.invariants.began[self._client.name] = self._world.loop.time()
        self._history.count("supervisors closed and started again")

    async def _started(self) -> bool:
        """False when another user closed the supervisor meanwhile."""
        try:
            await self._redlock.start()
        except ClosedError:
            return False
        return True


class User(Actor):
    """A task of a client that locks and unlocks."""

    def __init__(self, scene: Scene, client: SimulatedClient, number: int) -> None:
        super().__init__(scene, client, number)
        self._actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (10, self._lock_and_unlock),
            (2, self._use_mutex),
            (2, self._use_transaction),
            (2, self._use_batch),
            (2, self._look),
            (1, self._drop),
            (1, self._perhaps_close),
        ]

    async def live(self) -> None:
        """Does a number of random things, one after the other."""
        await self._redlock.start()
        for _ in range(self._scene.plan.operations):
            await self._do_something()

    async def _do_something(self) -> None:
        weights = [weight for weight, _ in self._actions]
        await asyncio.sleep(self._random.random() * (0.2 if self._scene.plan.forgets else 0.03))
        (_, action) = self._random.choices(self._actions, weights)[0]
        await self._until_closed(action())

    # --- operations ------------------------------------------------------------------------------------------------

    async def _lock_and_unlock(self) -> None:
        resource, ttl = self._scene.resource(self._random), self._random.choice(TTLS)
        reads = self._scene.plan.forgets and self._random.random() < READS
        claim = await self._lock(resource, ttl, self._wait(), "read" if reads else "write")
        if claim is None:
            return
        for _ in range(self._random.choice((0, 1, 1, 2))):
            await self._hold()
            await self._extend(claim)
        await self._hold()
        await self._unlock(claim)

    async def _drop(self) -> None:
        """Locks and never unlocks: the lease runs out."""
        await self._lock(self._scene.resource(self._random), self._random.choice(TTLS), 0.3)

    async def _use_mutex(self) -> None:
        resource, ttl, wait = self._scene.resource(self._random), self._random.choice(TTLS), self._wait()
        await self._cancellable(f"mutex {resource}", self._mutex(resource, ttl, wait))

    async def _mutex(self, resource: str, ttl: float, wait: Wait) -> None:
        claim = None
        try:
            self._begin(f"mutex {resource}", ttl, wait)
            async with self._redlock.mutex(resource, ttl, wait=wait) as lease:
                claim = self._claim(resource, lease)
                self.acquiring = False
                self._scene.invariants.acquired(claim, resource)
                await self._hold()
                self._scene.invariants.letting_go(claim)
        except (Contended, QuorumUnavailable, WaitCancelled, LeaseLost, NotHeld) as error:
            self._note(f"mutex {resource}: {type(error).__name__}")
            self._scene.explain(error)
        finally:
            self.acquiring = False
            if claim is not None:
                claim.let_go = True

    async def _use_transaction(self) -> None:
        resource, ttl = self._scene.resource(self._random), self._random.choice(TTLS)
        validity = (ttl * (1 - DRIFT) - GRAIN) / self._client.clock.rate
        section = Section(self._client.name, self._world.loop.time() + validity, self._world)

        async def body() -> str:
            self.acquiring = False
            self._scene.invariants.acquired(section, resource)
            try:
                await self._hold()
            finally:
                section.over = True
            return "done"

        begun = self._begin(f"transaction on {resource}", ttl, 0)
        outcome = await self._cancellable("transaction", self._redlock.transaction(resource, ttl, body, wait=0))
        self.acquiring = False
        self._note(f"transaction on {resource}: {outcome if outcome is not CANCELLED else 'cancelled'}")
        if isinstance(outcome, Err):
            self._scene.refused(self._client, resource, outcome, begun, 0)

    async def _use_batch(self) -> None:
        resources = list(self._scene.resources)
        ttl = self._random.choice(TTLS)
        begun = self._begin(f"lock_many {resources}", ttl, 0)
        outcomes = await self._cancellable("lock_many", self._locked_many(resources, ttl))
        self.acquiring = False
        if not isinstance(outcomes, list):
            return
        claims = []
        for resource, outcome in zip(resources, outcomes, strict=True):
            if isinstance(outcome, Claim):
                claims.append(outcome)
            else:
                self._scene.refused(self._client, resource, outcome, begun, 0)
        if claims and self._random.random() < 0.5:
            await self._hold()
            await self._cancellable("extend_many", self._extended_many(claims, ttl))
        await self._hold()
        await self._cancellable("unlock_many", self._unlocked_many(claims))

    async def _locked_many(self, resources: list[str], ttl: float) -> list[Claim | Err[Any]]:
        outcomes = await self._redlock.lock_many(resources, ttl)
        found: list[Claim | Err[Any]] = []
        for resource, outcome in zip(resources, outcomes, strict=True):
            found.append(self._got(resource, outcome.value) if isinstance(outcome, Ok) else outcome)
        self._note(f"lock_many: {[str(o) if isinstance(o, Claim) else o.reason for o in found]}")
        return found

    async def _extended_many(self, claims: list[Claim], ttl: float) -> None:
        ends = [self._end(claim, ttl) for claim in claims]
        with suppress(ValueError):  # as in _unlocked_many
            outcomes = await self._redlock.extend_many([claim.lease for claim in claims], ttl)
            for claim, outcome, end in zip(claims, outcomes, ends, strict=True):
                self._scene.invariants.extended(claim, outcome, end)

    async def _unlocked_many(self, claims: list[Claim]) -> None:
        before = [claim.lease.state for claim in claims]
        for claim in claims:
            self._let_go(claim)
        try:
            outcomes = await self._redlock.unlock_many([claim.lease for claim in claims])
        except ValueError:  # another user has closed and started the supervisor: batches take its own leases only
            for claim in claims:
                await self._unlocked(claim, by_token=True)
            return
        self._note(f"unlock_many: {[outcome.reason if isinstance(outcome, Err) else 'Ok' for outcome in outcomes]}")
        for claim, outcome, state in zip(claims, outcomes, before, strict=True):
            self._scene.invariants.released(claim, outcome, state)

    async def _look(self) -> None:
        resource, begun = self._scene.resource(self._random), self._world.loop.time()
        try:
            answer = await self._cancellable("is_locked", self._redlock.is_locked(resource))
        except QuorumUnavailable:
            return
        if isinstance(answer, bool):
            self._note(f"is_locked {resource}: {answer}")
            self._scene.invariants.looked(resource, answer, begun)

    async def _perhaps_close(self) -> None:
        if self._random.random() >= 0.5:
            await self._close_and_start()

    async def _extend(self, claim: Claim) -> None:
        by_token = self._by_token()
        ttl = self._random.choice((TTLS[0], *TTLS))
        until = self._end(claim, ttl)
        held: AsyncLease | str = claim.lease.token if by_token else claim.lease
        self._note(f"extend {claim.resource} by {ttl}{', by token' if by_token else ''}")
        outcome = await self._cancellable("extend", self._redlock.extend(claim.resource, held, ttl))
        if isinstance(outcome, (Ok, Err)):
            self._note(f"extend {claim.resource}: {outcome.reason if isinstance(outcome, Err) else 'Ok'}")
            if isinstance(outcome, Ok):
                self._scene.invariants.extended(claim, outcome, until)  # what the lease hears of it, too
                claim.lease = outcome.value
            self._scene.invariants.extended(claim, outcome, until)
        if not isinstance(outcome, Ok):  # what the lease believes now must hold for as long as it believes it
            await asyncio.sleep(self._random.choice((0.0, 0.5)) * min(1.0, claim.lease.remaining))
