"""One script for both faces: what an actor does is a generator that yields calls, and a face carries them out."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from redlock_cluster import AsyncLease, AsyncSupervisor, Lease, Supervisor

__all__ = ["AsyncFace", "Face", "Script", "SyncFace"]

Script = Generator[Callable[[], Any], Any, None]
"""Yields calls; is sent what they return, or (asyncio) what that comes to when awaited."""


class SyncFace:
    """Calls block the actor's thread."""

    def __init__(self, redlock: Supervisor) -> None:
        self.redlock = redlock

    def drive(self, script: Script) -> None:
        """Carries a script out."""
        try:
            call = next(script)
            while True:
                try:
                    value = call()
                except Exception as error:
                    call = script.throw(error)
                else:
                    call = script.send(value)
        except StopIteration:
            return

    def sleep(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)

    def mutex(
        self, resource: str, ttl: float, wait: Any, cancel_id: str, inside: Callable[[Lease], Script], **terms: Any
    ) -> None:
        """A script inside `with`; terms: how the lease is to be kept."""
        with self.redlock.mutex(resource, ttl, wait=wait, cancel_id=cancel_id, **terms) as lease:
            self.drive(inside(lease))

    def transaction(
        self, resource: str, ttl: float, wait: Any, cancel_id: str, inside: Callable[[], Script], **terms: Any
    ) -> object:
        """A script inside a transaction; what the transaction returns."""
        return self.redlock.transaction(
            resource, ttl, lambda: self.drive(inside()), wait=wait, cancel_id=cancel_id, **terms
        )


class AsyncFace:
    """Calls are awaited in the actor's task."""

    def __init__(self, redlock: AsyncSupervisor) -> None:
        self.redlock = redlock

    async def drive(self, script: Script) -> None:
        """Carries a script out."""
        try:
            call = next(script)
            while True:
                try:
                    value = call()
                    if inspect.isawaitable(value):
                        value = await value
                except Exception as error:
                    call = script.throw(error)
                else:
                    call = script.send(value)
        except StopIteration:
            return

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Sleeps."""
        return asyncio.sleep(seconds)

    async def mutex(
        self, resource: str, ttl: float, wait: Any, cancel_id: str, inside: Callable[[AsyncLease], Script], **terms: Any
    ) -> None:
        """A script inside `async with`, which the loss of a lease that extends itself cancels."""
        async with self.redlock.mutex(resource, ttl, wait=wait, cancel_id=cancel_id, **terms) as lease:
            await self.drive(inside(lease))

    async def transaction(
        self, resource: str, ttl: float, wait: Any, cancel_id: str, inside: Callable[[], Script], **terms: Any
    ) -> object:
        """A script inside a transaction; what the transaction returns."""
        return await self.redlock.transaction(
            resource, ttl, lambda: self.drive(inside()), wait=wait, cancel_id=cancel_id, **terms
        )

    async def lock_within(self, seconds: float, resource: str, ttl: float, wait: Any) -> object:
        """What `lock` returns, or None: then it was cancelled after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await self.redlock.lock(resource, ttl, wait=wait)
        except TimeoutError:
            return None


Face = SyncFace | AsyncFace
