"""Something that is decided once, and those who wait for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Decision", "FutureMaker", "Settled", "Waiter"]

T = TypeVar("T")
F = TypeVar("F", bound="Waiter")
F_co = TypeVar("F_co", bound="Waiter", covariant=True)


class Waiter(Protocol):
    """Who waits for a decision; the names are those of a future, which is one."""

    def done(self) -> bool:
        """Whether it waits no more."""

    def set_result(self, result: None, /) -> None:
        """Hears that the decision has come. Must not raise."""


class FutureMaker(Protocol[F_co]):
    """An event loop, as far as a decision needs one."""

    def create_future(self) -> F_co:
        """A future that is not done."""

    def call_soon(self, callback: Callable[[Any], object], waiter: Any, /) -> object:
        """Have it called in the next turn."""


class Decision:
    """Is open at first and decided in the end. It may itself wait for another one.

    decided: whether it is
    """

    __slots__ = ("_waiter", "decided")

    def __init__(self) -> None:
        self.decided = False
        self._waiter: Waiter | Decision | None = None

    def add_waiter(self, waiter: Waiter | Decision) -> None:
        """Notify `waiter` once decided. Only while it is not."""
        if self._waiter is None:
            self._waiter = waiter
        elif isinstance(self._waiter, _Several):
            self._waiter.waiters.append(waiter)
        else:
            self._waiter = _Several(self._waiter, waiter)

    def future(self, loop: FutureMaker[F]) -> F:
        """A future of this loop that is done once decided; cancelling it changes nothing here.

        What is decided already is so in the next turn: who asks again and again must not keep others from going on.
        """
        future = loop.create_future()
        if self.decided:
            loop.call_soon(_notify, future)
        else:
            self.add_waiter(future)
        return future

    def notify(self) -> None:
        """Notify all who wait, once; whoever decides calls this afterwards."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            _notify(waiter)

    def hear(self) -> None:
        """The decision that this one waits for has come."""


def _notify(waiter: Waiter | Decision) -> None:
    if isinstance(waiter, Decision):
        if not waiter.decided:
            waiter.hear()
    elif not waiter.done():
        waiter.set_result(None)


class _Several(Decision):
    """Several waiters as one."""

    __slots__ = ("waiters",)

    def __init__(self, first: Waiter | Decision, second: Waiter | Decision) -> None:
        Decision.__init__(self)
        self.waiters = [first, second]

    def hear(self) -> None:
        for waiter in self.waiters:
            _notify(waiter)


class Settled(Decision, Generic[T]):
    """Decided from the start: nothing had to be asked.

    result: what was known
    """

    __slots__ = ("_result",)

    def __init__(self, result: T) -> None:
        Decision.__init__(self)
        self.decided = True
        self._result = result

    def result(self) -> T:
        """What was known."""
        return self._result

    def abandon(self) -> None:
        """Nothing is under way."""
