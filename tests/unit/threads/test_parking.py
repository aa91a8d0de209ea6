"""Places to sleep: each wake ends one sleep, whichever kind of lock stands behind it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

import pytest

from redlock_cluster.threads import portal as portal_module
from redlock_cluster.threads.calls import Call, Working
from redlock_cluster.threads.parking import NATIVE, LockSpace, NativeSpace, Space
from redlock_cluster.threads.portal import Portal

KINDS: list[type[Space]] = [LockSpace, NativeSpace]


@pytest.fixture(params=KINDS)
def space(request: pytest.FixtureRequest) -> Space:
    made = request.param()
    assert isinstance(made, (LockSpace, NativeSpace))
    return made


def test_this_interpreter_has_locks_of_its_own() -> None:
    assert NATIVE is (sys.implementation.name == "cpython")


@pytest.mark.parametrize("seconds", [-1, 5.0])
def test_wake_ends_a_sleep(space: Space, seconds: float) -> None:
    slept: list[bool] = []
    thread = threading.Thread(target=lambda: slept.append(space.sleep(seconds)))
    thread.start()
    thread.join(0.02)
    assert thread.is_alive()
    space.wake()
    thread.join(10)
    assert slept == [True]


@pytest.mark.parametrize("how", ["wake", "hand_over"])
def test_wake_that_comes_first_counts_once(space: Space, how: str) -> None:
    getattr(space, how)()
    assert space.sleep(5)
    assert not space.sleep(0.01)


def test_sleep_ends_after_its_time_and_can_be_repeated(space: Space) -> None:
    before = time.monotonic()
    assert not space.sleep(0.02)
    assert 0.02 <= time.monotonic() - before < 5
    assert not space.sleep(0)
    space.wake()
    assert space.sleep(-1)


def test_sleeping_takes_no_processor_time_and_lets_others_run(space: Space) -> None:
    used: list[float] = []

    def sleep() -> None:
        before = time.thread_time()
        assert space.sleep(30)
        used.append(time.thread_time() - before)

    thread = threading.Thread(target=sleep)
    thread.start()
    until, others = time.monotonic() + 0.3, 0
    while time.monotonic() < until:
        others += 1
    space.wake()
    thread.join(10)
    assert others > 1000
    assert used
    assert used[0] < 0.1


async def done() -> str:
    return "done"


def hasty() -> Call[str]:
    """Its caller is woken before it has ended."""

    async def work() -> str:
        call.space.wake()
        await asyncio.sleep(0.3)  # until the caller has noticed
        return "done"

    call = Working(work)
    return call


def called(portal: Portal, calls: list[Call[str]]) -> list[str]:
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.extend(portal.call(call, 5) for call in calls))
    thread.start()
    thread.join(10)
    return results


@pytest.mark.parametrize("native", [True, False])
def test_who_is_woken_too_early_sleeps_on(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "NATIVE", native)
    portal = Portal()
    assert called(portal, [Working(done), hasty(), Working(done)]) == ["done"] * 3
    assert {type(space) for space in portal._spaces} == {NativeSpace if native else LockSpace}
    portal.close()


def test_threads_use_a_place_again() -> None:
    portal = Portal()
    for _ in range(3):
        assert called(portal, [Working(done) for _ in range(50)]) == ["done"] * 50
    assert len(portal._spaces) == 1
    portal.close()


@pytest.mark.parametrize("native", [True, False])
def test_place_of_who_was_told_before_it_slept_is_clean_when_it_is_used_again(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(deque[Any]):
        def append(self, call: Call[str]) -> None:
            super().append(call)
            portal._wake()
            while not call.ended:
                time.sleep(0.001)

    monkeypatch.setattr(portal_module, "NATIVE", native)
    portal = Portal()
    portal._calls = Late()
    assert called(portal, [Working(done) for _ in range(5)]) == ["done"] * 5
    (space,) = portal._spaces
    assert not space.sleep(0)
    portal._calls = deque()
    portal.close()


def printed(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    "broken",
    [
        "sys.modules['ctypes'] = None",
        "ctypes.CDLL = fail(OSError)",
        "ctypes.CDLL = fail(MemoryError)",
        "del ctypes.pythonapi",
    ],
)
def test_without_a_ctypes_that_works_locks_of_the_threading_module_do(broken: str) -> None:
    code = f"""
import ctypes, sys
def fail(error):
    def failing(*_, **__):
        raise error
    return failing
{broken}
from redlock_cluster.threads.parking import NATIVE, LockSpace
from redlock_cluster.threads.portal import Portal
portal = Portal()
print(NATIVE, portal._space is LockSpace)
portal.close()
"""
    assert printed(code) == "False True\n"


@pytest.mark.parametrize("kind", KINDS)
def test_signals_interrupt_a_sleep_or_leave_it_as_long_as_it_was(kind: type[Space]) -> None:
    """Where `threading` was first imported by another thread, Python 3.11 takes that one for the main thread."""
    code = f"""
import signal, time
from redlock_cluster.threads.parking import {kind.__name__}
space = {kind.__name__}()
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
before = time.monotonic()
print(space.sleep(0.3), 0.3 <= time.monotonic() - before < 5, len(seen) > 0)
signal.setitimer(signal.ITIMER_REAL, 0)
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
for seconds in -1, 30:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        space.sleep(seconds)
    except KeyboardInterrupt:
        print("interrupted")
space.wake()
print(space.sleep(-1))
"""
    assert printed(code) == "False True True\ninterrupted\ninterrupted\nTrue\n"
