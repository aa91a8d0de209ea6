"""pottery: `Redlock`, which asks the servers in a pool of threads made for each call, and `AIORedlock`.

A client of `redis` has a limit of 100 connections by default and raises beyond it, so 200 tasks get more.
"""

from __future__ import annotations

from typing import Any

from harness import HOST, TTL, Groups, Library, serve
from pottery import AIORedlock, Redlock
from redis import Redis
from redis.asyncio import Redis as AIORedis


class SyncFace:
    """`Redlock`."""

    def __init__(self, groups: Groups) -> None:
        self._masters = {Redis(host=HOST, port=port) for port in groups[0]}

    def _made(self, resource: str) -> Any:
        return Redlock(key=resource, masters=self._masters, auto_release_time=TTL)

    def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        lock = self._made(resource)
        return lock if lock.acquire(blocking=False) else None

    def wait(self, resource: str) -> Any:
        """Its lock, at last."""
        lock = self._made(resource)
        lock.acquire()
        return lock

    def unlock(self, resource: str, held: Any) -> bool:
        """True; raises ReleaseUnlockedLock."""
        held.release()
        return True

    def close(self) -> None:
        """Closes the connections."""
        for master in self._masters:
            master.close()


class AioFace:
    """`AIORedlock`."""

    def __init__(self, groups: Groups) -> None:
        self._masters = {AIORedis(host=HOST, port=port, max_connections=1000) for port in groups[0]}

    def _made(self, resource: str) -> Any:
        return AIORedlock(key=resource, masters=self._masters, auto_release_time=TTL)

    async def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        lock = self._made(resource)
        return lock if await lock.acquire(blocking=False) else None

    async def wait(self, resource: str) -> Any:
        """Its lock, at last."""
        lock = self._made(resource)
        await lock.acquire()
        return lock

    async def unlock(self, resource: str, held: Any) -> bool:
        """True; raises ReleaseUnlockedLock."""
        await held.release()
        return True

    async def close(self) -> None:
        """Closes the connections."""
        for master in self._masters:
            await master.aclose()


async def connect(groups: Groups) -> AioFace:
    """A client in the running loop."""
    return AioFace(groups)


if __name__ == "__main__":
    serve(Library(("pottery", "redis", "hiredis"), sync=SyncFace, aio=connect))
