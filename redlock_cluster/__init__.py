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
    from redlock_cluster.core.lease_record import LeaseState, LossReason
    from redlock_cluster.core.retry import RETRY, Policy
    from redlock_cluster.core.votes import ServerVote, Vote
    from redlock_cluster.default import AsyncDefaultSupervisor, AsyncRedlock, DefaultSupervisor, Redlock
    from redlock_cluster.engine.status import ClusterStatus, GroupStatus, ServerStatus, Status
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
    from redlock_cluster.handles.lease import AsyncLease, Lease
    from redlock_cluster.handles.mutex import AsyncMutex, Mutex
    from redlock_cluster.results import Err, Ok
    from redlock_cluster.sync import Supervisor
    from redlock_cluster.wire.pool import ServerState

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
    "LossReason",
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

_NAMES = {
    "aio": ("AsyncSupervisor",),
    "core.lease_record": ("LeaseState", "LossReason"),
    "core.retry": ("RETRY", "Policy"),
    "core.votes": ("ServerVote", "Vote"),
    "default": ("AsyncDefaultSupervisor", "AsyncRedlock", "DefaultSupervisor", "Redlock"),
    "engine.status": ("ClusterStatus", "GroupStatus", "ServerStatus", "Status"),
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
    "handles.lease": ("AsyncLease", "Lease"),
    "handles.mutex": ("AsyncMutex", "Mutex"),
    "results": ("Err", "Ok"),
    "sync": ("Supervisor",),
    "wire.pool": ("ServerState",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
