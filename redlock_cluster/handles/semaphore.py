"""Semaphores, for both faces: handles of which so many may hold at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from redlock_cluster.core.permit import semaphore_of
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.retry import Wait
from redlock_cluster.core.timing import Seconds
from redlock_cluster.handles.lease import AsyncLease, Lease
from redlock_cluster.handles.mutex import AsyncHandle, AsyncLocker, Handle, Locker
from redlock_cluster.handles.upkeep import Upkeep
from redlock_cluster.results import Ok, Refused

__all__ = ["AsyncSemaphore", "Semaphore"]


class AsyncSemaphore(AsyncHandle[AsyncLease]):
    """One of so many permits to be: `async with` acquires and releases it. One handle for each use.

    Who is inside of one may acquire another one, as of any semaphore; if that is the last, nobody else helps.
    """

    _kind = AsyncLease

    def __init__(
        self,
        supervisor: AsyncLocker,
        resource: Resource,
        permits: int,
        terms: Seconds | Upkeep[AsyncLease],
        wait: Wait,
        cancel_id: str | None = None,
        cancel_on_loss: bool | None = None,
    ) -> None:
        super().__init__(supervisor, (resource,), terms, wait, cancel_id)
        self._supervisor, self._semaphore, self._cancel_on_loss = supervisor, semaphore_of(permits), cancel_on_loss

    def _lock(self, wait: Wait) -> Awaitable[Ok[AsyncLease] | Refused]:
        return self._supervisor._lock(self._resources[0], self._terms, wait, self._semaphore, self._cancel_id)

    def _outer(self) -> None:
        """Nobody waits for themselves only because they have a permit."""

    def _enter(self, task: asyncio.Task[Any] | None) -> None:
        """It is no body of a lock."""


class Semaphore(Handle[Lease]):
    """One of so many permits to be: `with` acquires and releases it. One handle for each use.

    Who is inside of one may acquire another one, as of any semaphore; if that is the last, nobody else helps.
    """

    _kind = Lease

    def __init__(
        self,
        supervisor: Locker,
        resource: Resource,
        permits: int,
        terms: Seconds | Upkeep[Lease],
        wait: Wait,
        cancel_id: str | None = None,
    ) -> None:
        super().__init__(supervisor, (resource,), terms, wait, cancel_id)
        self._supervisor, self._semaphore = supervisor, semaphore_of(permits)

    def _lock(self, wait: Wait) -> Lease:
        resource, terms = self._resources[0], self._terms
        return self._supervisor._acquire(resource, terms, wait, self._semaphore, self._cancel_id, self._receive)

    def _outer(self) -> None:
        """Nobody waits for themselves only because they have a permit."""

    def _enter(self, task: asyncio.Task[Any] | None) -> None:
        """It is no body of a lock."""
