"""Distributed locks over groups of independent Redis or Valkey servers: consistent hashing, Redlock quorums.

from redlock_cluster import Redlock, Ok, Err

    Redlock.start("redlock.yaml")
    with Redlock.mutex("invoice:42", wait=5) as lease:
        ...

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from redlock_cluster.aio import AsyncSupervisor
    from redlock_cluster.core.lease_record import LeaseState, LossReason
    from redlock_cluster.core.retry import RETRY, Policy
    from redlock_cluster.core.snapshot import (
        ForcedRelease,
        Holding,
        ListedLock,
        LockOnServer,
        LockReader,
        LockSnapshot,
        WaitingClient,
    )
    from redlock_cluster.core.votes import ServerVote, Vote
    from redlock_cluster.default import AsyncDefaultSupervisor, AsyncRedlock, DefaultSupervisor, Redlock
    from redlock_cluster.engine.status import ClusterStatus, GroupStatus, ServerMemory, ServerStatus, Status
    from redlock_cluster.errors import (
        ClosedError,
        Contended,
        LeaseLost,
        LockNotAcquired,
        NotHeld,
        OptionsError,
        PermitsDiffer,
        QuorumUnavailable,
        RedlockError,
        StaleFence,
        TooManyWaiting,
        WaitCancelled,
        WouldDeadlock,
    )
    from redlock_cluster.handles.election import AsyncElection, AsyncTerm, Election, Term
    from redlock_cluster.handles.events import AsyncLeaseEvent, LeaseEvent
    from redlock_cluster.handles.lease import AsyncLease, Lease
    from redlock_cluster.handles.many import AsyncLeaseGroup, AsyncMutexMany, LeaseGroup, MutexMany
    from redlock_cluster.handles.mutex import AsyncMutex, Mutex
    from redlock_cluster.handles.rwlock import AsyncReadWriteLock, ReadWriteLock
    from redlock_cluster.handles.semaphore import AsyncSemaphore, Semaphore
    from redlock_cluster.results import Err, Ok
    from redlock_cluster.sync import Supervisor
    from redlock_cluster.wire.pool import ServerState

__all__ = [
    "RETRY",
    "AsyncDefaultSupervisor",
    "AsyncElection",
    "AsyncLease",
    "AsyncLeaseEvent",
    "AsyncLeaseGroup",
    "AsyncMutex",
    "AsyncMutexMany",
    "AsyncReadWriteLock",
    "AsyncRedlock",
    "AsyncSemaphore",
    "AsyncSupervisor",
    "AsyncTerm",
    "ClosedError",
    "ClusterStatus",
    "Contended",
    "DefaultSupervisor",
    "Election",
    "Err",
    "ForcedRelease",
    "GroupStatus",
    "Holding",
    "Lease",
    "LeaseEvent",
    "LeaseGroup",
    "LeaseLost",
    "LeaseState",
    "ListedLock",
    "LockNotAcquired",
    "LockOnServer",
    "LockReader",
    "LockSnapshot",
    "LossReason",
    "Mutex",
    "MutexMany",
    "NotHeld",
    "Ok",
    "OptionsError",
    "PermitsDiffer",
    "Policy",
    "QuorumUnavailable",
    "ReadWriteLock",
    "Redlock",
    "RedlockError",
    "Semaphore",
    "ServerMemory",
    "ServerState",
    "ServerStatus",
    "ServerVote",
    "StaleFence",
    "Status",
    "Supervisor",
    "Term",
    "TooManyWaiting",
    "Vote",
    "WaitCancelled",
    "WaitingClient",
    "WouldDeadlock",
]

_NAMES = {
    "aio": ("AsyncSupervisor",),
    "core.lease_record": ("LeaseState", "LossReason"),
    "core.retry": ("RETRY", "Policy"),
    "core.snapshot": (
        "ForcedRelease",
        "Holding",
        "ListedLock",
        "LockOnServer",
        "LockReader",
        "LockSnapshot",
        "WaitingClient",
    ),
    "core.votes": ("ServerVote", "Vote"),
    "default": ("AsyncDefaultSupervisor", "AsyncRedlock", "DefaultSupervisor", "Redlock"),
    "engine.status": ("ClusterStatus", "GroupStatus", "ServerMemory", "ServerStatus", "Status"),
    "errors": (
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
    ),
    "handles.election": ("AsyncElection", "AsyncTerm", "Election", "Term"),
    "handles.events": ("AsyncLeaseEvent", "LeaseEvent"),
    "handles.lease": ("AsyncLease", "Lease"),
    "handles.many": ("AsyncLeaseGroup", "AsyncMutexMany", "LeaseGroup", "MutexMany"),
    "handles.mutex": ("AsyncMutex", "Mutex"),
    "handles.rwlock": ("AsyncReadWriteLock", "ReadWriteLock"),
    "handles.semaphore": ("AsyncSemaphore", "Semaphore"),
    "results": ("Err", "Ok"),
    "sync": ("Supervisor",),
    "wire.pool": ("ServerState",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # reads files

        return version("redlock-cluster")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
