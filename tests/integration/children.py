"""What child processes of the portal tests do; a module of its own, so that spawned ones can import it."""

from __future__ import annotations

from pathlib import Path

from redlock_cluster import Err, Lease, Ok, Supervisor


def count_up(options: str, path: str, times: int) -> None:
    """Adds to the number in a file, under a lock."""
    with Supervisor(options) as redlock:
        for _ in range(times):
            with redlock.mutex("count", ttl=30, wait=20):
                number = int(Path(path).read_text())
                Path(path).write_text(str(number + 1))


def enter(options: str, resource: str) -> None:
    """Raises what entering a mutex raises."""
    with Supervisor(options) as redlock, redlock.mutex(resource, ttl=30, wait=0):
        pass


def refused(options: str, resource: str) -> Ok[str] | Err[str]:
    """What a lock that is refused says; an acquired one is given back."""
    with Supervisor(options) as redlock:
        outcome = redlock.lock(resource, 30, wait=0)
        if isinstance(outcome, Ok):
            lease: Lease = outcome.value
            lease.release()
            return Ok("released")
        return Err(outcome.reason, error=outcome.error)
