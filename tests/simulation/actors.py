"""A simulated user's hands: it calls a supervisor, sometimes cancels the call, and tells what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from redlock_cluster import RETRY
from redlock_cluster.aio import AsyncLease
from redlock_cluster.core.retry import Wait
from redlock_cluster.testing.simulation import SimulatedClient, stream

from .invariants import Claim

if TYPE_CHECKING:
    from .scene import Scene

T = TypeVar("T")
CANCELLED = object()
CANCELLATIONS = 0.25
BY_TOKEN = 0.15
DRIFT, GRAIN = 0.01, 0.002


class Actor:
    """A task of a client. acquiring: whether it waits for a lock now"""

    def __init__(self, scene: Scene, client: SimulatedClient, number: int) -> None:
        self._scene, self._client = scene, client
        self._world, self._history = scene.world, scene.history
        self._random = stream(scene.plan.seed, f"user {client.name} {number}")
        self._name = client.name if number == 0 else f"{client.name}/{number}"
        self._redlock = client.supervisor
        self.acquiring = False

    def _by_token(self, claim: Claim) -> bool:
        return claim.adrift or self._random.random() < BY_TOKEN

    def _let_go(self, claim: Claim) -> None:
        self._note(f"unlock {claim} on {claim.resource}")
        if not claim.let_go:
            self._scene.invariants.letting_go(claim)

    def _claim(self, resource: str, lease: AsyncLease) -> Claim:
        self._note(f"got {resource}: …{lease.token.partition('@')[0][-4:]} for {lease.remaining * 1000:.3f} ms")
        return Claim(self._client, resource, lease, self._life, self._world.loop.time())

    @property
    def _life(self) -> int:
        """How many times the supervisor was closed: to the next life of it, a lease is only a token."""
        return self._scene.closings[self._client.name]

    def _got(self, resource: str, lease: AsyncLease) -> Claim:
        claim = self._claim(resource, lease)
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
        await asyncio.sleep(self._random.choice((0.0, 0.005, 0.05, 0.2)) * self._random.random())

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
