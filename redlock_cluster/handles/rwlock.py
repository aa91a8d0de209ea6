"""Read-write locks, for both faces: one resource, and the handles for its readers and for who writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict

from redlock_cluster.core.resource import Resource, resource_bytes
from redlock_cluster.core.retry import Wait
from redlock_cluster.core.timing import Seconds
from redlock_cluster.handles.lease import AsyncLease, Lease
from redlock_cluster.handles.mutex import AsyncMutex, Mutex
from redlock_cluster.handles.upkeep import OnLost

if TYPE_CHECKING:
    from typing import Unpack

    from redlock_cluster.core.kinds import Mode

__all__ = ["AsyncReadWriteLock", "ReadWriteLock"]


class _Arguments(TypedDict, total=False):
    wait: Wait
    cancel_id: str | None
    auto_extend: bool | None
    max_hold: Seconds | None
    reentrant: bool
    fenced: bool | None


class Arguments(_Arguments, total=False):
    """Those of `Supervisor.mutex`, besides the resource, the ttl and the mode."""

    on_lost: OnLost[Lease] | None


class AsyncArguments(_Arguments, total=False):
    """Those of `AsyncSupervisor.mutex`, besides the resource, the ttl and the mode."""

    on_lost: OnLost[AsyncLease] | None
    cancel_on_loss: bool | None


class AsyncMaker(Protocol):
    """What an asyncio read-write lock asks of its supervisor."""

    def mutex(
        self, resource: Resource, ttl: Seconds | None, *, mode: Mode, **others: Unpack[AsyncArguments]
    ) -> AsyncMutex:
        """As `AsyncSupervisor.mutex`."""


class Maker(Protocol):
    """What a synchronous read-write lock asks of its supervisor."""

    def mutex(self, resource: Resource, ttl: Seconds | None, *, mode: Mode, **others: Unpack[Arguments]) -> Mutex:
        """As `Supervisor.mutex`."""


class AsyncReadWriteLock:
    """A resource that any number may read at the same time, or one may write; makers are supervisors.

    Readers that come let those go first who wait to write, and are not passed by those who write later. A plain lock on
    the resource is the same as one to write.
    """

    def __init__(self, supervisor: AsyncMaker, resource: Resource) -> None:
        resource_bytes(resource)  # raises here what is wrong with it
        self._supervisor, self._resource = supervisor, resource

    def read(self, ttl: Seconds | None = None, **others: Unpack[AsyncArguments]) -> AsyncMutex:
        """A handle for `async with`, for one reader; arguments as for `AsyncSupervisor.mutex`."""
        return self._supervisor.mutex(self._resource, ttl, mode="read", **others)

    def write(self, ttl: Seconds | None = None, **others: Unpack[AsyncArguments]) -> AsyncMutex:
        """A handle for `async with`, for who writes; arguments as for `AsyncSupervisor.mutex`."""
        return self._supervisor.mutex(self._resource, ttl, mode="write", **others)


class ReadWriteLock:
    """A resource that any number may read at the same time, or one may write; makers are supervisors.

    Readers that come let those go first who wait to write, and are not passed by those who write later. A plain lock on
    the resource is the same as one to write.
    """

    def __init__(self, supervisor: Maker, resource: Resource) -> None:
        resource_bytes(resource)  # raises here what is wrong with it
        self._supervisor, self._resource = supervisor, resource

    def read(self, ttl: Seconds | None = None, **others: Unpack[Arguments]) -> Mutex:
        """A handle for `with`, for one reader; arguments as for `Supervisor.mutex`."""
        return self._supervisor.mutex(self._resource, ttl, mode="read", **others)

    def write(self, ttl: Seconds | None = None, **others: Unpack[Arguments]) -> Mutex:
        """A handle for `with`, for who writes; arguments as for `Supervisor.mutex`."""
        return self._supervisor.mutex(self._resource, ttl, mode="write", **others)
