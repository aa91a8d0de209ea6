"""Who is inside which `with` body: so that nobody waits for a lock that they hold themselves.

The owner of a body is the running task, else the thread. What an owner is inside of is found by way of the context
(`contextvars`): so a thread of a pool, in which one call entered a body that another thread goes on with, is not taken
for the owner when it serves the next call. Child tasks and threads inherit the context, but are other owners.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

__all__ = ["Bodies", "bodies_of", "inside_none", "running_task"]

if TYPE_CHECKING:
    from collections.abc import Callable

Bodies = dict[str, list["ref[Any]"]]
"""The handles whose bodies one owner is inside of, by their resource as text, the outermost first."""


class _Scope:
    """What one owner is inside of.

    task: gives the owner, which is not kept alive
    thread: its number, if the owner is no task
    """

    __slots__ = ("bodies", "task", "thread")

    def __init__(self, task: Callable[[], asyncio.Task[Any] | None], thread: int) -> None:
        self.task, self.thread = task, thread
        self.bodies: Bodies = {}


_scope: Final[ContextVar[_Scope | None]] = ContextVar("redlock_cluster.bodies", default=None)


def inside_none() -> bool:
    """Whether nobody is inside of anything who could be the caller; so it is most of the time, and cheap to know."""
    scope = _scope.get()
    return scope is None or not scope.bodies


def bodies_of(task: asyncio.Task[Any] | None) -> Bodies:
    """What the caller is inside of.

    task: the running one; None: the owner is this thread
    """
    scope = _scope.get()
    if task is not None:
        if scope is None or scope.task() is not task:
            scope = _Scope(ref(task), 0)
            _scope.set(scope)
        return scope.bodies
    thread = threading.get_ident()
    if scope is None or scope.thread != thread:
        scope = _Scope(_none, thread)
        _scope.set(scope)
    return scope.bodies


def running_task() -> asyncio.Task[Any] | None:
    """The running task, None where none runs."""
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)


def _none() -> None:
    return None
