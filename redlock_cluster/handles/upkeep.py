"""What is done for a lease while it is held: it is extended, its loss is told, the body that relies on it is ended."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import ref

from redlock_cluster.core.lease_record import LossReason
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.engine import Engine
from redlock_cluster.handles.lease import Holding

__all__ = ["BodyGuard", "Held", "OnLost", "Upkeep", "terms_of"]

Held = TypeVar("Held", bound=Holding)

OnLost = Callable[[Held, LossReason], object]
"""What is called when a lease is lost: with the lease, and why."""


class Upkeep(Generic[Held]):
    """How a lease is to be kept that is about to be acquired or adopted, or several together.

    ttl, auto_extend, max_hold, on_lost: as for `AsyncSupervisor.lock`
    soon: has `on_lost` called, not by whoever notices the loss

    extends: whether the lease extends itself; known once it is begun

    Raises TypeError for an `on_lost` that can't be called, or that is a coroutine function.
    """

    __slots__ = ("_auto_extend", "_longest", "_max_hold", "_on_lost", "_soon", "_ttl", "extends")

    def __init__(
        self,
        ttl: Seconds | None,
        auto_extend: bool | None,
        max_hold: Seconds | None,
        on_lost: OnLost[Held] | None,
        soon: Callable[..., object],
    ) -> None:
        if on_lost is not None and (not callable(on_lost) or inspect.iscoroutinefunction(on_lost)):
            raise TypeError("on_lost is a plain function of the lease and the reason")
        self._ttl, self._auto_extend, self._max_hold = ttl, auto_extend, max_hold
        self._on_lost, self._soon = on_lost, soon
        self.extends = False
        self._longest: float | None = None

    def wanted(self, engine: Engine) -> Seconds:
        """The ttl, still to be checked. Raises as `begin`."""
        return engine.keeping.of(self._ttl, self._auto_extend, self._max_hold).ttl

    def begin(self, engine: Engine) -> Seconds:
        """In the engine's loop, before the acquisition. Returns the ttl, still to be checked.

        Raises TypeError or ValueError for arguments that can't be, or not together.
        """
        keeping = engine.keeping.of(self._ttl, self._auto_extend, self._max_hold)
        self.extends, self._longest = keeping.extends, keeping.max_hold
        return keeping.ttl

    def granted(self, held: Held) -> Held:
        """In the engine's loop: there is the lease. Returns it."""
        engine, on_lost = held._engine, self._on_lost
        caller = None if on_lost is None else _Caller(held, on_lost, self._soon, self.extends)
        for lease in held._parts:
            if self.extends:
                engine.keep(lease._record, lease, self._longest)
            if caller is not None:
                engine.listen(lease._record, caller)
        return held


def terms_of(
    ttl: Seconds | None,
    auto_extend: bool | None,
    max_hold: Seconds | None,
    on_lost: OnLost[Held] | None,
    soon: Callable[..., object],
) -> Seconds | Upkeep[Held]:
    """What a handle acquires with: the ttl, if nothing else is named, or how the lease is to be kept. As `Upkeep`."""
    if ttl is None or auto_extend is not None or max_hold is not None or on_lost is not None:
        return Upkeep(ttl, auto_extend, max_hold, on_lost, soon)
    return ttl


class _Hearer:
    """Hears of a loss, and of nothing before."""

    __slots__ = ()

    def doubtful(self) -> None:
        """Not yet."""

    def held(self) -> None:
        """Still."""


class _Caller(_Hearer, Generic[Held]):
    """Has `on_lost` called: once, when the first lease is lost of those that are held together.

    extends: whether the lease extends itself: such a one is over when its user drops it, so it is not kept alive here
    """

    __slots__ = ("_called", "_held", "_on_lost", "_soon")

    def __init__(self, held: Held, on_lost: OnLost[Held], soon: Callable[..., object], extends: bool) -> None:
        self._held: Callable[[], Held | None] = ref(held) if extends else lambda: held
        self._on_lost, self._soon = on_lost, soon
        self._called = False

    def lost(self, reason: LossReason) -> None:
        """It is over."""
        held = self._held()
        if held is not None and not self._called:
            self._called = True
            self._soon(self._on_lost, held, reason)


class BodyGuard(_Hearer):
    """Cancels a task when a lease is lost, until its body has ended; as `asyncio.timeout` does.

        guarding --the lease is lost--> cancelled --the body ends--> left, with LeaseLost unless others cancelled it too
        guarding --the body ends--> left

    held: the lease without which the body must not go on, or several, none of which may be missing
    task: the running one

    raised: it has made LeaseLost of the cancellation
    """

    __slots__ = ("_before", "_cancelled", "_held", "_left", "_loop", "_task", "raised")

    def __init__(self, held: Holding, task: asyncio.Task[object] | None) -> None:
        assert task is not None, "only tasks can be cancelled"
        self._held, self._loop = ref(held), held._engine.loop
        self._task, self._before = ref(task), task.cancelling()  # the engine has this, and is to keep neither alive
        self._cancelled = self._left = self.raised = False
        for lease in held._parts:
            held._engine.listen(lease._record, self)

    def lost(self, reason: LossReason) -> None:
        """It is over. The task may be running now: a cancellation would hit whatever it waits for next, body or not."""
        self._loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        task = self._task()
        if not self._left and not self._cancelled and task is not None:
            self._cancelled = True
            task.cancel()

    def __enter__(self) -> None:
        """The body begins."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The body has ended. Raises LeaseLost if it was cancelled for the loss alone."""
        self._left = True
        task, held = self._task(), self._held()
        if not self._cancelled or task is None or held is None:
            return
        if task.uncancel() <= self._before and (error is None or isinstance(error, asyncio.CancelledError)):
            self.raised = True
            raise held.loss() from error
