"""aioredlock, on aioredis 1.3.1: the newest that it allows, and one that runs on Python 3.11 as it is."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from harness import HOST, TTL, Groups, Library, serve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from aioredlock import Aioredlock, LockError


class Locks:
    """`Aioredlock` with its defaults: up to 100 connections a server."""

    def __init__(self, groups: Groups) -> None:
        self._redlock = Aioredlock([(HOST, port) for port in groups[0]])

    async def lock(self, resource: str) -> Any:
        """Its lock; raises LockError."""
        return await self._redlock.lock(resource, lock_timeout=TTL)

    async def wait(self, resource: str) -> Any:
        """Its lock, at last; one call makes three attempts."""
        while True:
            with contextlib.suppress(LockError):
                return await self._redlock.lock(resource, lock_timeout=TTL)

    async def unlock(self, resource: str, held: Any) -> bool:
        """True; raises LockError."""
        await self._redlock.unlock(held)
        return True

    async def close(self) -> None:
        """Closes the connections."""
        await self._redlock.destroy()


async def connect(groups: Groups) -> Locks:
    """A client in the running loop."""
    return Locks(groups)


if __name__ == "__main__":
    serve(Library(("aioredlock", "aioredis", "hiredis"), aio=connect))
