"""What the leases and mutexes of both faces share, and how outcomes become results."""

from __future__ import annotations

import logging
from typing import Generic, Literal, TypeVar

from redlock_cluster.core.leases import LeaseRecord, LeaseState
from redlock_cluster.core.names import Resource, resource_text
from redlock_cluster.core.timing import Seconds
from redlock_cluster.core.votes import ServerVote, Token, Vote
from redlock_cluster.engine.supervisor import Engine
from redlock_cluster.engine.waiting import Wait, wait_seconds
from redlock_cluster.errors import Contended, LeaseLost, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.results import Err, Ok

__all__ = [
    "HeldLease",
    "LockHandle",
    "Lost",
    "Refused",
    "complain",
    "known",
    "lost",
    "mutex_wait",
    "raise_refusal",
    "refused",
]

Refused = Err[Literal["lock_failure", "unavailable"]]
Lost = Err[Literal["not_held", "unavailable"]]

V = TypeVar("V")

_log = logging.getLogger(__name__)


class HeldLease:
    """A lock that was acquired.

    It is `valid` until its time has run out by this machine's clock, or it was released or found to be lost.
    """

    __slots__ = ("_engine", "_record")

    def __init__(self, engine: Engine, record: LeaseRecord) -> None:
        self._engine, self._record = engine, record

    @property
    def resource(self) -> str:
        """What is locked; bytes that are not UTF-8 appear as surrogates."""
        return resource_text(self._record.resource)

    @property
    def token(self) -> str:
        """The owner value on the servers. Whoever has it can extend and release: keep it secret."""
        return self._record.token.decode()

    @property
    def ttl(self) -> float:
        """Seconds that servers keep the lock, counted from the last acquisition or extension."""
        return self._record.ttl_ms / 1000

    @property
    def state(self) -> LeaseState:
        """HELD, UNKNOWN (the last extension or release reached no quorum), LOST or RELEASED."""
        return LeaseState.LOST if self._engine.forked else self._record.state(self._engine.clock())

    @property
    def valid(self) -> bool:
        """Whether the lock may still be relied on."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds for which the lock may still be relied on; 0 when it is over."""
        return 0.0 if self._engine.forked else self._record.remaining(self._engine.clock())

    @property
    def held_on(self) -> frozenset[str]:
        """Names of the servers known to hold the lock."""
        return frozenset(vote.server for vote in self.votes if vote.vote is Vote.FOR)

    @property
    def votes(self) -> tuple[ServerVote, ...]:
        """Each server's vote in the acquisition or the last successful extension, in the group's order."""
        return self._engine.votes(self._record)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.resource!r} {self.state.value}, {self.remaining:.3f} s left>"


Held = TypeVar("Held", bound=HeldLease)


class LockHandle(Generic[Held]):
    """A lock to be, or the one that was acquired with it: one handle for each use.

    lease: what the last acquisition gave, None before
    """

    def __init__(self, resource: Resource, ttl: Seconds, wait: Wait) -> None:
        self._resource, self._ttl, self._wait = resource, ttl, wait
        self._acquiring = False
        self.lease: Held | None = None

    def locked(self) -> bool:
        """Whether this handle holds a valid lease; asks no server."""
        return self.lease is not None and self.lease.valid

    def _begin(self) -> None:
        if self._acquiring or self.locked():
            raise RuntimeError("this handle holds or is acquiring already: one handle for each use")
        self._acquiring = True

    def _held(self) -> Held:
        if self.lease is None:
            raise NotHeld("this handle has not acquired anything")
        return self.lease


def mutex_wait(wait: Wait, blocking: bool, timeout: float | None) -> Wait:
    """The wait that a mutex's `acquire(blocking, timeout)` stands for. Raises ValueError as `threading.Lock`."""
    if not blocking:
        if timeout is not None and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return 0
    if timeout is None:
        return wait
    return None if timeout == -1 else wait_seconds(timeout)


def complain(problem: RedlockError, body: BaseException | None) -> None:
    """What leaving a `with` does about a failed release: raises a lost lease unless the body raised; logs the rest."""
    if body is None and not isinstance(problem, QuorumUnavailable):
        raise problem
    _log.warning("%s", problem)


def known(engine: Engine, lease: HeldLease | str) -> LeaseRecord | Token:
    """What an engine knows a lease by; one of another engine counts as its token."""
    if isinstance(lease, HeldLease):
        return lease._record if lease._engine is engine else Token(lease._record.token)
    if isinstance(lease, str):
        return Token(lease.encode())
    raise TypeError(f"a lease or its token, a str, not {type(lease).__name__}")


def raise_refusal(outcome: Ok[V] | Lost) -> None:
    """Raises what a result of `unlock` or `extend` tells, if it is a refusal."""
    if isinstance(outcome, Err) and outcome.error is not None:
        raise outcome.error


def refused(error: RedlockError) -> Refused:
    """The result that tells of a failed acquisition."""
    return Err("lock_failure" if isinstance(error, Contended) else "unavailable", error=error)


def lost(error: RedlockError) -> Lost:
    """The result that tells of a failed release or extension."""
    return Err("not_held" if isinstance(error, (LeaseLost, NotHeld)) else "unavailable", error=error)
