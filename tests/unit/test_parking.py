"""Places to sleep: each wake ends one sleep, whichever kind of lock stands behind it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from redlock_cluster import portal as portal_module
from redlock_cluster.calls import Call
from redlock_cluster.parking import NATIVE, LockSpace, NativeSpace, Space
from redlock_cluster.portal import Portal

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


def test_wake_that_comes_first_counts_once(space: Space) -> None:
    space.wake()
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
    thread = threading.Thread(target=space.sleep, args=(5.0,))
    thread.start()
    before = time.thread_time()
    assert sum(range(100_000)) == 4_999_950_000
    assert time.thread_time() > before
    space.wake()
    thread.join(10)
    assert not thread.is_alive()


class Nothing(Call[str]):
    """Ends at once."""

    __slots__ = ()

    def _start(self) -> None:
        self.result = "done"
        self._end(None)


class Twice(Nothing):
    """Its caller is woken once before it has ended."""

    __slots__ = ()

    def _start(self) -> None:
        self.wake()
        time.sleep(0.3)  # until it has noticed
        super()._start()


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
    assert called(portal, [Nothing(), Twice(), Nothing()]) == ["done"] * 3
    assert {type(space) for space in portal._spaces} == {NativeSpace if native else LockSpace}
    portal.close()


def test_threads_use_a_place_again() -> None:
    portal = Portal()
    for _ in range(3):
        assert called(portal, [Nothing() for _ in range(50)]) == ["done"] * 50
    assert len(portal._spaces) == 1
    portal.close()


def test_without_ctypes_locks_of_the_threading_module_do() -> None:
    code = """
import sys
sys.modules["ctypes"] = None
from redlock_cluster.parking import NATIVE, LockSpace
from redlock_cluster.portal import Portal
portal = Portal()
print(NATIVE, portal._space is LockSpace)
portal.close()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "False True\n", run.stderr
