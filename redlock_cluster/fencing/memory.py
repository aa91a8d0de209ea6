"""Fences in memory, for a store that is one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

from redlock_cluster.errors import StaleFence
from redlock_cluster.fencing.fence import check_fence, check_resource

__all__ = ["MemoryFences"]


class _Entry:
    """What is known of one resource.

    lock: held by whoever writes
    writer: the thread that writes, if one does
    seen: the greatest fence, 0 before the first
    """

    __slots__ = ("lock", "seen", "writer")

    def __init__(self) -> None:
        self.lock = Lock()
        self.writer: int | None = None
        self.seen = 0


class MemoryFences:
    """The greatest fence of each resource, in the memory of this process. Threads may share it.

    It keeps one number for each resource, and forgets all of them when the process ends. So it protects what ends with
    the process, too.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    @contextmanager
    def write(self, resource: str, fence: int) -> Iterator[None]:
        """`with fences.write(resource, fence):` has the body write. Other writes of the resource wait until it ends.

        The fence counts as seen even if the body raises. In asyncio the body must not await: it holds up threads.

        resource: what the body writes, a non-empty str
        fence: of the writer's lease, an int with 1 <= fence < 2**53

        Raises StaleFence, before the body, when a greater fence was seen; RuntimeError inside the body of another write
        of the same resource; TypeError and ValueError for arguments of other kinds.
        """
        check_resource(resource)
        check_fence(fence)
        entry = self._entries.get(resource) or self._entries.setdefault(resource, _Entry())
        if entry.writer == get_ident():
            raise RuntimeError("this thread is inside of a write of the same resource, and would wait for itself")
        with entry.lock:
            if fence < entry.seen:
                raise StaleFence(resource, fence, entry.seen)
            entry.seen = fence
            entry.writer = get_ident()
            try:
                yield
            finally:
                entry.writer = None

    def seen(self, resource: str) -> int | None:
        """The greatest fence that was seen, None if there was none.

        resource: a non-empty str

        Raises TypeError and ValueError for a resource of another kind.
        """
        check_resource(resource)
        entry = self._entries.get(resource)
        return (entry.seen or None) if entry else None
