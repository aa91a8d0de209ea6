"""What callers see of everything that takes rounds: an operation."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

from redlock_cluster.core.decision import Decision, FutureMaker, Waiter

__all__ = ["Operation", "outcome"]

F = TypeVar("F", bound=Waiter)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Operation(Protocol[T_co]):
    """An acquisition, a release, an extension or an inspection, with all its rounds and pauses. Begun by `Engine`.

    It belongs to the engine, not to who waits for it: when the waiting ends early, the operation still cleans up.

    decided: it has ended, and `result` may be called
    """

    decided: bool

    def add_waiter(self, waiter: Waiter | Decision, /) -> None:
        """Notify `waiter` once decided. Only while it is not."""

    def future(self, loop: FutureMaker[F]) -> F:
        """A future of this loop that is done once decided; cancelling it leaves the operation running.

        If it is decided already: in the next turn.
        """

    def abandon(self) -> None:
        """Nobody wants the result any more: what was or may yet be acquired is given back; the rest goes on."""

    def result(self) -> T_co:
        """What it came to. Only once it is decided.

        If it is not decided any more afterwards, the caller came too late and the operation goes on (an acquisition
        whose validity had run out): wait again, and ask again. Raises ClosedError when the supervisor was closed.
        """


async def outcome(operation: Operation[T], loop: asyncio.AbstractEventLoop) -> T:
    """Wait for an operation's result; abandon it when the waiting is cancelled.

    loop: the engine's
    """
    try:
        while True:
            await operation.future(loop)
            result = operation.result()
            if operation.decided:
                return result
    except asyncio.CancelledError:
        operation.abandon()
        raise
