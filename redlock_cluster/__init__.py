"""Distributed locks over groups of independent Redis or Valkey servers: consistent hashing, Redlock quorums.

from redlock_cluster import Redlock, Ok, Err

    Redlock.start("config/redlock.yaml")
    with Redlock.mutex("invoice:42", ttl=10, wait=5) as lease:
        ...

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redlock_cluster.aio import AsyncSupervisor
    from redlock_cluster.core.leases import LeaseState
    from redlock_cluster.core.votes import ServerVote, Vote
    from redlock_cluster.default import AsyncDefaultSupervisor, AsyncRedlock, DefaultSupervisor, Redlock
    from redlock_cluster.engine.server import GroupStatus, ServerState, ServerStatus
    from redlock_cluster.engine.supervisor import ClusterStatus, Status
    from redlock_cluster.engine.waiting import RETRY, Policy
    from redlock_cluster.errors import (
        ClosedError,
        Contended,
        LeaseLost,
        LockNotAcquired,
        NotHeld,
        OptionsError,
        QuorumUnavailable,
        RedlockError,
    )
    from redlock_cluster.leases import AsyncLease, Lease
    from redlock_cluster.mutexes import AsyncMutex, Mutex
    from redlock_cluster.results import Err, Ok
    from redlock_cluster.sync import Supervisor

__all__ = [
    "RETRY",
    "AsyncDefaultSupervisor",
    "AsyncLease",
    "AsyncMutex",
    "AsyncRedlock",
    "AsyncSupervisor",
    "ClosedError",
    "ClusterStatus",
    "Contended",
    "DefaultSupervisor",
    "Err",
    "GroupStatus",
    "Lease",
    "LeaseLost",
    "LeaseState",
    "LockNotAcquired",
    "Mutex",
    "NotHeld",
    "Ok",
    "OptionsError",
    "Policy",
    "QuorumUnavailable",
    "Redlock",
    "RedlockError",
    "ServerState",
    "ServerStatus",
    "ServerVote",
    "Status",
    "Supervisor",
    "Vote",
]

_HOMES = {
    "aio": ("AsyncSupervisor",),
    "core.leases": ("LeaseState",),
    "core.votes": ("ServerVote", "Vote"),
    "default": ("AsyncDefaultSupervisor", "AsyncRedlock", "DefaultSupervisor", "Redlock"),
    "engine.group": ("GroupStatus",),
    "engine.server": ("ServerState", "ServerStatus"),
    "engine.supervisor": ("ClusterStatus", "Status"),
    "engine.waiting": ("RETRY", "Policy"),
    "errors": (
        "ClosedError",
        "Contended",
        "LeaseLost",
        "LockNotAcquired",
        "NotHeld",
        "OptionsError",
        "QuorumUnavailable",
        "RedlockError",
    ),
    "leases": ("AsyncLease", "Lease"),
    "mutexes": ("AsyncMutex", "Mutex"),
    "results": ("Err", "Ok"),
    "sync": ("Supervisor",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
