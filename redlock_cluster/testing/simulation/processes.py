"""Simulated processes: what tasks and call-backs belong together, so that they can stand still or die together.

A process is a context variable: whatever is scheduled from inside it belongs to it, tasks of tasks and timers too.
While it stands still its timers come late and what arrives for it waits unread, as for a process that was stopped
(SIGSTOP), starved or swapped out. A dead process never runs again, not even its `finally`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from redlock_cluster.testing.simulation.loop import VirtualLoop

__all__ = ["OWNER", "Process"]

T = TypeVar("T")

OWNER: ContextVar[Process | None] = ContextVar("OWNER", default=None)
"""The process that the running code belongs to; None outside of all."""


class Process:
    """One simulated process of a loop.

    name: for messages; running: neither paused nor dead; context: what runs in it belongs to it
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.running = True
        self.dead = False
        self.context: Context = copy_context()
        self.context.run(OWNER.set, self)
        self._loop = loop
        self._postponed: list[asyncio.Handle] = []

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Runs a coroutine as a task of this process."""
        context = self.context.run(copy_context)
        return self._loop.create_task(coroutine, name=name, context=context)

    def postpone(self, call: asyncio.Handle) -> None:
        """Keeps a call until the process runs again; for the loop."""
        self._postponed.append(call)

    def pause(self) -> None:
        """Stands still from now on."""
        self.running = False

    def resume(self, timers_first: bool = False) -> None:
        """Runs again.

        timers_first: timers that are due run before what has arrived is read, as when it was stopped just there; else
        what has arrived is read first
        """
        if not self.dead:
            self._run(timers_first)

    def _run(self, timers_first: bool) -> None:
        self.running = True
        calls, self._postponed = self._postponed, []
        timers: list[asyncio.Handle] = [call for call in calls if isinstance(call, asyncio.TimerHandle)]
        others = [call for call in calls if not isinstance(call, asyncio.TimerHandle)]
        self._loop.resume(timers + others if timers_first else others + timers)

    def kill(self) -> None:
        """Ends: nothing of it ever runs again. Its connections are the network's business."""
        self.running, self.dead = False, True

    def bury(self) -> None:
        """Lets what is left of it run to its end, once the simulation is over and nobody looks."""
        self._run(timers_first=False)
