"""redlock-ng. Its `release` returns nothing, so the bench looks for keys that stayed on a quorum of servers.

The socket time-out is set to 5 s: with 200 tasks its default of 0.1 s would make half of the locks fail.
"""

from __future__ import annotations

from typing import Any

from harness import HOST, TTL, Groups, Library, serve
from redlock import AsyncRedlock, Redlock, RedlockConfig


def config(groups: Groups) -> RedlockConfig:
    """The servers, and time to answer."""
    masters = [f"redis://{HOST}:{port}/0" for port in groups[0]]
    return RedlockConfig(masters=masters, socket_timeout=5.0, socket_connect_timeout=5.0)


class SyncFace:
    """`Redlock`."""

    def __init__(self, groups: Groups) -> None:
        self._redlock = Redlock(config(groups))

    def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        return self._redlock.acquire(resource, TTL * 1000)

    def wait(self, resource: str) -> Any:
        """Its lock, at last."""
        return self._redlock.acquire(resource, TTL * 1000, blocking=True)

    def unlock(self, resource: str, held: Any) -> bool:
        """True."""
        self._redlock.release(held)
        return True

    def close(self) -> None:
        """Closes the connections."""
        for server in self._redlock.client.instances:
            server.close()


class AioFace:
    """`AsyncRedlock`."""

    def __init__(self, groups: Groups) -> None:
        self._redlock = AsyncRedlock(config(groups))

    async def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        return await self._redlock.acquire(resource, TTL * 1000)

    async def wait(self, resource: str) -> Any:
        """Its lock, at last."""
        return await self._redlock.acquire(resource, TTL * 1000, blocking=True)

    async def unlock(self, resource: str, held: Any) -> bool:
        """True."""
        await self._redlock.release(held)
        return True

    async def close(self) -> None:
        """Closes the connections."""
        for server in self._redlock.client.instances:
            await server.aclose()


async def connect(groups: Groups) -> AioFace:
    """A client in the running loop."""
    return AioFace(groups)


if __name__ == "__main__":
    serve(Library(("redlock-ng", "redis", "hiredis"), sync=SyncFace, aio=connect))
