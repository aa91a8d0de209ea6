"""redlock-py. Its `unlock` returns nothing, so the bench looks for keys that stayed on a quorum of servers."""

from __future__ import annotations

from typing import Any

from harness import HOST, TTL, Groups, Library, serve
from redlock import Redlock


class Locks:
    """`Redlock` with its defaults."""

    def __init__(self, groups: Groups) -> None:
        self._redlock = Redlock([{"host": HOST, "port": port} for port in groups[0]])

    def lock(self, resource: str) -> Any:
        """Its lock, or None."""
        return self._redlock.lock(resource, TTL * 1000) or None

    def wait(self, resource: str) -> Any:
        """Its lock, at last; one call makes three attempts."""
        while not (lock := self._redlock.lock(resource, TTL * 1000)):
            pass
        return lock

    def unlock(self, resource: str, held: Any) -> bool:
        """True."""
        self._redlock.unlock(held)
        return True

    def close(self) -> None:
        """Closes the connections."""
        for server in self._redlock.servers:
            server.close()


if __name__ == "__main__":
    serve(Library(("redlock-py", "redis", "hiredis"), sync=Locks))
