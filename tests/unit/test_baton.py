"""The baton: who is awake wakes the next, the last has the loop go on, and nobody is left asleep."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from operator import methodcaller
from typing import Any, cast

import pytest

from redlock_cluster import baton as module
from redlock_cluster.baton import Baton
from redlock_cluster.calls import Begun
from redlock_cluster.portal import Portal


class Loop:
    """Its timers, which a test lets fire."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def call_later(self, delay: float, do: Callable[[], None]) -> None:
        assert 0 < delay < 0.1
        self.timers.append(do)

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for do in timers:
            do()


class Crossing(deque[Any]):
    """Something happens to it as somebody has seen, for the first time, whether it is empty."""

    def __init__(self, ready: list[_thread.LockType], cross: Callable[[deque[Any]], None]) -> None:
        super().__init__(ready)
        self.cross: Callable[[deque[Any]], None] | None = cross

    def __len__(self) -> int:
        length = super().__len__()
        cross, self.cross = self.cross, None
        if cross is not None:
            cross(self)
        return length


class Line:
    """A baton, those who sleep, and how often the loop was told to go on."""

    def __init__(self) -> None:
        self.loop, self.resumed = Loop(), 0
        self.baton = Baton(cast(asyncio.AbstractEventLoop, self.loop), self.resume)
        self.sleepers: list[_thread.LockType] = []

    def resume(self) -> None:
        self.resumed += 1

    def give(self, count: int) -> None:
        for _ in range(count):
            ready = _thread.allocate_lock()
            ready.acquire()
            self.sleepers.append(ready)
            self.baton.give(ready)

    def cross(self, ready: list[_thread.LockType], cross: Callable[[deque[Any]], None]) -> None:
        self.baton._line = Crossing(ready, cross)
        self.baton._wakes = map(methodcaller("release"), iter(self.baton._line.popleft, None))

    @property
    def awake(self) -> list[bool]:
        return [not ready.locked() for ready in self.sleepers]


def test_each_wakes_the_next_and_the_last_the_loop() -> None:
    line = Line()
    line.give(3)
    assert line.awake == [True, False, False]
    line.baton.go_on()
    assert line.awake == [True, True, False]
    line.baton.go_on()
    assert line.awake == [True, True, True]
    assert (line.baton.passing, line.resumed) == (True, 0)
    line.baton.go_on()
    assert (line.baton.passing, line.resumed) == (False, 1)
    line.give(1)
    assert line.awake == [True] * 4


def test_who_comes_last_joins_a_line_that_is_under_way() -> None:
    line = Line()
    line.give(1)
    line.give(1)
    assert line.awake == [True, False]
    line.baton.go_on()
    assert line.awake == [True, True]


def test_when_the_line_stands_still_the_loop_wakes_all() -> None:
    line = Line()
    line.give(4)
    line.loop.fire()  # the second is first in line now, which was not so before
    assert line.awake == [True, False, False, False]
    line.loop.fire()
    assert line.awake == [True] * 4
    assert not line.baton.passing
    assert line.resumed == 2
    assert line.loop.timers == []
    line.baton.go_on()  # who had the baton comes at last
    line.give(2)
    assert line.awake == [True] * 5 + [False]


def test_when_the_last_stands_still_the_loop_goes_on() -> None:
    line = Line()
    line.give(1)
    line.loop.fire()
    assert (line.baton.passing, line.resumed, line.loop.timers) == (False, 1, [])


def test_a_line_that_moves_is_left_alone() -> None:
    line = Line()
    line.give(6)
    for woken in range(2, 6):
        line.baton.go_on()
        line.loop.fire()
        assert sum(line.awake) == woken
    assert len(line.loop.timers) == 1


def test_nothing_is_watched_while_nobody_sleeps() -> None:
    line = Line()
    line.give(2)
    line.loop.fire()
    line.baton.go_on()
    line.baton.go_on()
    line.loop.fire()
    line.loop.fire()
    assert line.loop.timers == []


def test_who_joins_as_the_last_leaves_is_woken() -> None:
    line = Line()
    line.give(1)
    line.cross([], lambda _: line.give(1))
    line.baton.go_on()
    assert line.awake == [True, True]
    assert line.resumed == 0
    line.baton.go_on()
    assert line.resumed == 1


def test_who_finds_that_another_was_faster_is_the_last() -> None:
    line = Line()
    line.give(1)
    line.cross([_thread.allocate_lock()], deque.clear)
    line.baton.go_on()
    assert (line.baton.passing, line.resumed) == (False, 1)


@pytest.fixture
def hurry() -> Iterator[None]:
    """The interpreter goes from thread to thread all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Interrupted(Exception):
    """Comes at any moment, as KeyboardInterrupt does."""


class Nothing(Begun[None]):
    """A call that ends as it begins."""

    operation = None

    def conclude(self) -> None:
        pass


def race(portal: Portal, interrupts: int) -> list[int]:
    """How often each of eight threads called, while exceptions are thrown into them."""
    calls, over = [0] * 8, threading.Event()

    def work(number: int) -> None:
        while calls[number] < 3000 and not over.is_set():
            with contextlib.suppress(Interrupted):
                portal.call(Nothing)
                calls[number] += 1

    def outlast(number: int) -> None:
        while calls[number] < 3000 and not over.is_set():  # it may come between two calls, too
            with contextlib.suppress(Interrupted):
                work(number)

    threads = [threading.Thread(target=outlast, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    rng = random.Random(interrupts)
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    for _ in range(interrupts):
        threads[0].join(rng.uniform(0, 0.002))
        throw(ctypes.c_ulong(cast(int, rng.choice(threads).ident)), ctypes.py_object(Interrupted))
    for thread in threads:
        thread.join(30)
    over.set()
    return calls


def test_nobody_is_left_asleep_even_without_the_watch(monkeypatch: pytest.MonkeyPatch, hurry: None) -> None:
    monkeypatch.setattr(module, "_OVERDUE", 3600.0)
    portal = Portal()
    assert race(portal, 0) == [3000] * 8
    portal.close()


def test_exceptions_at_any_moment_leave_nobody_asleep(hurry: None) -> None:
    portal = Portal()
    assert race(portal, 300) == [3000] * 8
    portal.close()
