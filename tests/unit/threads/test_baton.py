"""The baton: who is awake wakes the next, the last has the loop go on, and nobody is left asleep."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from operator import methodcaller
from types import FrameType
from typing import Any, cast

import pytest

from redlock_cluster import Err, NotHeld
from redlock_cluster.core.decision import Settled
from redlock_cluster.engine.deployments import Deployments
from redlock_cluster.results import released
from redlock_cluster.threads import baton as module
from redlock_cluster.threads.baton import Baton
from redlock_cluster.threads.calls import CoroutineCall, OperationCall, Sleeper
from redlock_cluster.threads.portal import Portal


class Interrupted(Exception):
    """Comes at any moment, as KeyboardInterrupt does."""


class Loop:
    """Its timers, which a test lets fire, and what it does at the end of a turn."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, do: Callable[[], None]) -> None:
        self.soon.append(do)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for do in soon:
            do()

    def call_later(self, delay: float, do: Callable[[], None]) -> None:
        assert 0 < delay < 0.1
        self.timers.append(do)

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for do in timers:
            do()


class Crossing(deque[Any]):
    """Something happens to it just after somebody has looked, for the nth time, whether it is empty."""

    def __init__(self, line: list[Sleeper], look: int, cross: Callable[[deque[Any]], None]) -> None:
        super().__init__(line)
        self.looks, self.cross = look, cross

    def __len__(self) -> int:
        length = super().__len__()
        self.looks -= 1
        if not self.looks:
            self.cross(self)
        return length


class Dreamer:
    """A sleeper that knows whether it was woken."""

    def __init__(self) -> None:
        self.awake = False

    def release(self) -> None:
        assert not self.awake
        self.awake = True


class Line:
    """A baton, those who sleep, and how often the loop was told to go on."""

    def __init__(self) -> None:
        self.loop, self.resumed = Loop(), 0
        self.baton = Baton(cast(asyncio.AbstractEventLoop, self.loop), self.resume)
        self.sleepers: list[Dreamer] = []

    def resume(self) -> None:
        self.resumed += 1

    def give(self, count: int) -> None:
        for _ in range(count):
            self.sleepers.append(Dreamer())
            self.baton.give(self.sleepers[-1])
        self.loop.turn()

    def cross(self, line: list[Sleeper], look: int, cross: Callable[[deque[Any]], None]) -> None:
        self.baton._line = Crossing(line, look, cross)
        self.baton._wakes = map(methodcaller("release"), iter(self.baton._line.popleft, None))

    @property
    def awake(self) -> list[bool]:
        return [sleeper.awake for sleeper in self.sleepers]


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


def test_nobody_is_woken_while_the_loop_reads_on() -> None:
    line = Line()
    turn, line.loop.turn = line.loop.turn, lambda: None  # type: ignore[method-assign]
    line.give(3)
    assert line.awake == [False] * 3
    turn()
    assert line.awake == [True, False, False]


def test_who_comes_last_joins_a_line_that_is_under_way() -> None:
    line = Line()
    line.give(1)
    line.give(1)
    assert line.awake == [True, False]
    line.baton.go_on()
    assert line.awake == [True, True]


@pytest.mark.parametrize("moved", [0, 1, 5])
def test_in_a_line_that_stands_or_crawls_the_loop_wakes_all_and_lets_nobody_wait_for_a_while(moved: int) -> None:
    line = Line()
    line.give(8)
    line.loop.fire()  # notes who is the last
    for _ in range(moved):
        line.baton.go_on()
    assert sum(line.awake) == 1 + moved
    line.loop.fire()
    assert line.awake == [True] * 8
    assert line.resumed == 2
    for _ in range(3):
        line.baton.go_on()  # who had the baton comes at last
    for _ in range(39):
        assert not line.baton.passing
        line.give(2)
        assert line.awake[-2:] == [True, True]
        line.loop.fire()
    line.loop.fire()
    line.give(2)
    assert line.awake[-2:] == [True, False]


def test_when_the_last_is_held_up_the_loop_goes_on() -> None:
    line = Line()
    line.give(1)
    line.loop.fire()
    assert (line.baton.passing, line.resumed, line.loop.timers) == (False, 1, [])


def test_a_line_that_moves_is_left_alone_and_what_is_called_begins() -> None:
    line = Line()
    line.give(4)
    for rounds in range(1, 6):
        line.loop.fire()
        assert line.resumed == rounds
        line.give(3)
        for _ in range(3):
            line.baton.go_on()
        assert line.awake == [True] * (1 + 3 * rounds) + [False] * 3
    assert len(line.loop.timers) == 1


def test_one_timer_is_enough_and_none_when_nobody_sleeps() -> None:
    line = Line()
    for _ in range(3):
        line.give(2)
        line.baton.go_on()
        line.baton.go_on()
    assert len(line.loop.timers) == 1
    line.give(2)
    line.loop.fire()
    line.baton.go_on()
    line.baton.go_on()
    line.loop.fire()
    assert line.loop.timers == []


@pytest.mark.parametrize("look", [1, 2])
def test_who_joins_as_the_last_leaves_is_woken(look: int) -> None:
    line = Line()
    line.give(1)
    line.cross([], look, lambda _: line.give(1))
    line.baton.go_on()
    assert line.awake == [True, True]
    assert line.resumed == 1


def test_who_finds_that_another_was_faster_is_the_last() -> None:
    line = Line()
    line.give(1)
    line.cross([Dreamer()], 1, deque.clear)
    line.baton.go_on()
    assert (line.baton.passing, line.resumed) == (False, 1)


def test_an_exception_at_any_step_leaves_nobody_asleep() -> None:
    """Who was to wake the next fails at each step in turn, and goes on as one that gave up."""
    steps, seen = 0, True
    while seen:
        steps, seen = steps + 1, False
        line = Line()
        line.give(3)
        left = steps

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left, seen
            if frame.f_code.co_filename != module.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if not left:
                    seen = True
                    raise Interrupted
            return trace

        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at it when tracing begins
        sys.settrace(trace)
        try:
            with contextlib.suppress(Interrupted):
                line.baton.go_on()
        finally:
            sys.settrace(before)
        for _ in range(4):
            line.baton.go_on()
        assert line.awake == [True] * 3, steps
        assert not line.baton.passing
    assert steps > 10


@pytest.fixture
def hurry() -> Iterator[None]:
    """The interpreter goes from thread to thread all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Nowhere:
    """Deployments, and an engine, where nothing is held."""

    @property
    def engines(self) -> dict[str, Nowhere]:
        return {"": self}


def nothing() -> OperationCall[Any]:
    """A call that ends as it begins."""
    nowhere = cast(Deployments, Nowhere())
    return OperationCall(nowhere, "", lambda _: Settled(NotHeld("nothing")), lambda _, error: released(error))


NOTHING = Err("not_held")


async def work() -> None:
    """What comes to its end in the loop."""


def race(portal: Portal, interrupts: int) -> list[int]:
    """How often each of eight threads called, while exceptions are thrown into them."""
    calls, over = [0] * 8, threading.Event()

    def work(number: int) -> None:
        while calls[number] < 3000 and not over.is_set():
            with contextlib.suppress(Interrupted):
                portal.call(nothing())
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


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close()


def calling(portal: Portal) -> tuple[threading.Thread, list[object]]:
    """A thread that makes a call, and its results."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(portal.call(nothing(), budget=5)))
    thread.start()
    return thread, results


def test_what_is_called_while_the_baton_is_on_its_way_waits_for_the_last_in_line(portal: Portal) -> None:
    portal._baton.passing = True
    drained = portal._drained
    thread, results = calling(portal)
    while not portal._calls:
        thread.join(0.001)
    assert portal._drained == drained
    assert results == []
    portal._baton.go_on()
    thread.join(10)
    assert results == [NOTHING]


def test_who_calls_as_the_last_in_line_leaves_wakes_the_loop(portal: Portal) -> None:
    class Slow(deque[Any]):
        def append(self, call: object) -> None:
            portal._baton.go_on()  # the last in line finds no call
            super().append(call)

    portal._baton.passing, portal._calls = True, Slow()
    thread, results = calling(portal)
    thread.join(10)
    assert results == [NOTHING]


def test_main_thread_waits_for_nobody_in_line(portal: Portal) -> None:
    portal._baton.passing = True
    assert portal.call(nothing(), budget=5) == NOTHING
    assert portal._baton.passing
    portal._baton.go_on()


def test_call_given_up_is_taken_back_whatever_comes_next(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    undone = threading.Event()

    go_on = Baton.go_on

    def interrupted(baton: Baton) -> None:
        if asyncio._get_running_loop() is None:
            raise Interrupted
        go_on(baton)

    monkeypatch.setattr(Baton, "go_on", interrupted)
    portal._baton.passing = False
    failed: list[BaseException] = []

    def call() -> None:
        try:
            portal.call(CoroutineCall(work, undo=lambda _: undone.set()))
        except Interrupted as error:
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert failed
    assert undone.wait(10)
    monkeypatch.undo()
