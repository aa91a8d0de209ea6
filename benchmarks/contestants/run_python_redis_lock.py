"""python-redis-lock, on the first server alone. A list (BLPOP) wakes those who wait; they do not ask again.

They block for a ttl at a time, so the client gets no socket time-out: after its default of 5 s it would raise.
"""

from __future__ import annotations

from typing import Any

import redis_lock
from harness import HOST, TTL, Groups, Library, serve
from redis import Redis


class Locks:
    """`redis_lock.Lock` without renewal."""

    def __init__(self, groups: Groups) -> None:
        self._client = Redis(host=HOST, port=groups[0][0], socket_timeout=None)
        self.close = self._client.close

    def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        lock = redis_lock.Lock(self._client, resource, expire=TTL)
        return lock if lock.acquire(blocking=False) else None

    def wait(self, resource: str) -> Any:
        """Its lock, at last."""
        lock = redis_lock.Lock(self._client, resource, expire=TTL)
        lock.acquire()
        return lock

    def unlock(self, resource: str, held: Any) -> bool:
        """True; raises NotAcquired."""
        held.release()
        return True


if __name__ == "__main__":
    serve(Library(("python-redis-lock", "redis", "hiredis"), sync=Locks))
