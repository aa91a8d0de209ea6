"""The `Lock` of the `redis` package, on the first server alone: what most programs use, and no quorum.

A client has a limit of 100 connections by default and raises beyond it, so 200 tasks get more.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from harness import HOST, TTL, Groups, Library, serve


class SyncFace:
    """`redis.Redis.lock`."""

    def __init__(self, groups: Groups) -> None:
        self._client = redis.Redis(host=HOST, port=groups[0][0])
        self.close = self._client.close

    def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        lock = self._client.lock(resource, timeout=TTL)
        return lock if lock.acquire(blocking=False) else None

    def wait(self, resource: str) -> Any:
        """Its lock, at last."""
        lock = self._client.lock(resource, timeout=TTL)
        lock.acquire(blocking=True)
        return lock

    def unlock(self, resource: str, held: Any) -> bool:
        """True; raises LockError."""
        held.release()
        return True


class AioFace:
    """`redis.asyncio.Redis.lock`."""

    def __init__(self, groups: Groups) -> None:
        self._client = redis.asyncio.Redis(host=HOST, port=groups[0][0], max_connections=1000)
        self.close = self._client.aclose

    async def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        lock = self._client.lock(resource, timeout=TTL)
        return lock if await lock.acquire(blocking=False) else None

    async def wait(self, resource: str) -> Any:
        """Its lock, at last."""
        lock = self._client.lock(resource, timeout=TTL)
        await lock.acquire(blocking=True)
        return lock

    async def unlock(self, resource: str, held: Any) -> bool:
        """True; raises LockError."""
        await held.release()
        return True


async def connect(groups: Groups) -> AioFace:
    """A client in the running loop."""
    return AioFace(groups)


if __name__ == "__main__":
    serve(Library(("redis", "hiredis"), sync=SyncFace, aio=connect))
