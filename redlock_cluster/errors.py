"""The exceptions of redlock_cluster; every one of them is a `RedlockError`.

RedlockError
├── OptionsError            the options file or mapping is wrong (also a ValueError)
├── LockNotAcquired         a quorum was not won (or, for extend and release, not reached)
│   ├── Contended           somebody else holds the resource, or contenders split the vote
│   │   ├── TooManyWaiting  so many calls wait already as `max_waiting` allows
│   │   └── WouldDeadlock   the caller is inside a `with` for the same lock, and would wait for itself
│   ├── WaitCancelled       `cancel_waiting` ended the wait
│   └── QuorumUnavailable   too many servers did not vote, or the quorum came too late
├── LeaseLost               the lease ran out or its keys are gone from a quorum
├── NotHeld                 nothing is held here: never acquired, released, or from before a fork
├── StaleFence              a protected store refused a write: it has seen a later holder's fence
└── ClosedError             the supervisor was closed
"""

from __future__ import annotations

from redlock_cluster.core.lease_record import LossReason
from redlock_cluster.core.text import cut, quoted
from redlock_cluster.core.votes import ServerVote

__all__ = [
    "ClosedError",
    "Contended",
    "LeaseLost",
    "LockNotAcquired",
    "NotHeld",
    "OptionsError",
    "PermitsDiffer",
    "QuorumUnavailable",
    "RedlockError",
    "StaleFence",
    "TooManyWaiting",
    "WaitCancelled",
    "WouldDeadlock",
]


class RedlockError(Exception):
    """The root of every exception this package raises on purpose."""


class OptionsError(RedlockError, ValueError):
    """The options are wrong; lists every problem found, each with its path.

    problems: `(path, what is wrong and how to mend it)` in file order; path is dotted, `""` for the file itself
    source: the file the options came from, or None for a mapping

    Never contains a password: values of options are not repeated.
    """

    def __init__(self, problems: list[tuple[str, str]], source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = [f"{path}: {text}" if path else text for path, text in problems]
        where = f"{source}: " if source else ""
        super().__init__(
            f"{where}{lines[0]}" if len(lines) == 1 else "\n  ".join([f"{where}{len(lines)} problems", *lines])
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (list(self.problems), self.source), vars(self)


class _QuorumError(RedlockError):
    """An error that knows how each server of the group voted.

    message: what happened
    resource: the caller's name of what was to be locked
    group: the group that the ring chose
    votes: one `ServerVote` per server, in the group's order
    elapsed: seconds from before the first byte until the verdict
    """

    def __init__(
        self,
        message: str,
        resource: str = "",
        group: str = "",
        votes: tuple[ServerVote, ...] = (),
        elapsed: float = 0.0,
    ) -> None:
        self.message, self.resource, self.group = message, resource, group
        self.votes, self.elapsed = votes, elapsed
        super().__init__(message)

    def __str__(self) -> str:
        if not self.votes:
            return self.message
        votes = "; ".join(map(str, self.votes))
        return f"{self.message} [group {cut(self.group)}, {self.elapsed * 1000:.1f} ms: {votes}]"


class LockNotAcquired(_QuorumError):
    """A quorum of the group's servers did not agree."""


class Contended(LockNotAcquired):
    """Somebody else holds the resource (held), or contenders split the vote (split); trying later may succeed."""


class TooManyWaiting(Contended):
    """Somebody else holds the resource, and so many calls wait already as the option `max_waiting` allows."""


class WouldDeadlock(Contended):
    """The task or thread is inside the body of another handle for the same lock, and would wait for itself.

    No server was asked. Pass the lease on that the other handle gave, or make this one with `reentrant=True`.
    """


class WaitCancelled(LockNotAcquired):
    """`cancel_waiting` ended the wait; the time that it took is in `elapsed`."""


class QuorumUnavailable(LockNotAcquired):
    """Too many servers of the group did not vote in time, or their quorum came after the validity had run out."""


class PermitsDiffer(_QuorumError):
    """Others have or want permits of a semaphore of that name with another number of permits."""


class LeaseLost(_QuorumError):
    """The lease is over although nobody released it.

    reason: why; the message says the rest
    """

    def __init__(
        self,
        message: str,
        resource: str = "",
        group: str = "",
        votes: tuple[ServerVote, ...] = (),
        elapsed: float = 0.0,
        reason: LossReason = LossReason.GONE,
    ) -> None:
        super().__init__(message, resource, group, votes, elapsed)
        self.reason = reason


class NotHeld(_QuorumError):
    """Nothing is held here: never acquired, already released, or inherited from before a fork."""


class StaleFence(RedlockError):
    """A protected store refused a write, because it has seen a later holder of the lock. Nothing was written.

    resource: the name by which the store knows what was to be written
    fence: the writer's
    seen: the greatest fence that the store has seen, greater than `fence`
    """

    def __init__(self, resource: str, fence: int, seen: int) -> None:
        self.resource, self.fence, self.seen = resource, fence, seen
        super().__init__(
            f"{quoted(resource)} was not written: fence {fence} is over, a later holder has come with fence {seen}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.resource, self.fence, self.seen), vars(self)


class ClosedError(RedlockError):
    """The supervisor was closed (or not started where it can't start itself)."""
