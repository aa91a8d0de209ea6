"""Code that Python runs between any two lines of a call: finalizers, signal handlers, other threads. It may lock, too.

A trace function stands for all of it: at one line of the calling path after the other it does what such code may do.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
from proxied_servers import LONG, left_on, run_script
from proxy import ask

import redlock_cluster
from redlock_cluster import ClosedError, LeaseState, Ok, Supervisor
from redlock_cluster.handles.bodies import bodies_of
from redlock_cluster.testing import EmbeddedCluster
from redlock_cluster.threads import process

pytestmark = pytest.mark.usefixtures("clean_log")

T = TypeVar("T")

ROOT = str(Path(redlock_cluster.__file__).parent)
LATE = 2.0  # seconds; far longer than any call here takes, far shorter than those that wait for each other


class Interrupted(BaseException):
    """What a signal handler may raise."""


@pytest.fixture
def redlock(trio: EmbeddedCluster) -> Iterator[Supervisor]:
    with Supervisor(trio.options) as redlock:
        yield redlock
    assert left_on(trio.servers) == {}


def traced(work: Callable[[], object], at: int, intrude: Callable[[], object]) -> int:
    """Does the work, and at its so-manieth line in this package something else. Returns how many lines there were."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(ROOT) or finalizes(frame):
            return None
        if event == "line":
            lines += 1
            if lines == at:
                intrude()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


def finalizes(frame: FrameType | None) -> bool:
    """Whether it is in a finalizer: what is raised there goes no further."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def in_time(work: Callable[[], T]) -> T:
    """Does something in another thread, which must not take long."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(LATE)


def here(work: Callable[[], T]) -> T:
    """Does something in this thread."""
    return work()


class Garbage:
    """A cycle, whose finalizer the collector runs wherever it likes."""

    def __init__(self, finalize: Callable[[], object]) -> None:
        self.cycle, self.finalize = self, finalize

    def __del__(self) -> None:
        self.finalize()


def calls(redlock: Supervisor) -> dict[str, Callable[[], object]]:
    """Calls, each of which leaves nothing behind."""

    def lock() -> None:
        lease = redlock.lock("outer", LONG, wait=0)
        assert isinstance(lease, Ok)
        assert redlock.extend("outer", lease.value, LONG)
        assert redlock.unlock("outer", lease.value) == Ok(None)

    def enter() -> None:
        with redlock.mutex("outer", ttl=LONG, wait=0):
            pass

    def many() -> None:
        leases = [result.value for result in redlock.lock_many(["outer", "outer2"], LONG) if isinstance(result, Ok)]
        assert redlock.unlock_many(leases) == [Ok(None)] * 2

    def enter_many() -> None:
        with redlock.mutex_many(["outer2", "outer"], ttl=LONG, wait=0):
            pass

    def lead() -> None:
        with redlock.election("outer", LONG, wait=0) as term:
            assert term.valid

    def terms() -> None:
        for term in redlock.election("outer", LONG, wait=0):
            assert term.valid
            break

    return {"lock": lock, "with": enter, "many": many, "with many": enter_many, "election": lead, "terms": terms}


INTRUSIONS: dict[str, Callable[[Callable[[], object]], object]] = {
    "it calls": lambda nested: nested(),
    "the collector calls": lambda nested: Garbage(nested) and gc.collect(1),
    "it waits for a thread that calls": in_time,
}


@pytest.mark.parametrize("thread", [here, in_time], ids=["main thread", "thread"])
@pytest.mark.parametrize("intrusion", list(INTRUSIONS))
@pytest.mark.parametrize("name", ["lock", "with", "many", "with many", "election", "terms"])
def test_code_that_runs_at_any_line_of_a_call_may_call(
    redlock: Supervisor, name: str, intrusion: str, thread: Callable[[Callable[[], object]], Any]
) -> None:
    call, done = calls(redlock)[name], list[int]()

    def nested() -> None:
        with redlock.mutex("inner", ttl=LONG, wait=None):
            done.append(at)

    total, at = 1, 0
    while at < total:
        at += 1
        # Not always the same: threads pass the baton or don't.
        total = thread(partial(traced, call, at, partial(INTRUSIONS[intrusion], nested)))
    assert done == list(range(1, len(done) + 1))
    assert min(total, len(done)) > 30


@pytest.mark.parametrize("name", ["lock", "with"])
def test_code_that_runs_while_threads_pass_the_baton_may_call(redlock: Supervisor, name: str) -> None:
    call, over = calls(redlock)[name], threading.Event()
    counts = [0] * 4

    def work(number: int) -> None:
        while not over.is_set():
            with redlock.mutex(f"other {number}", ttl=LONG, wait=0):
                counts[number] += 1

    def nested() -> None:
        with redlock.mutex("inner", ttl=LONG, wait=None):
            pass
        before = list(counts)
        ends = time.monotonic() + LATE
        while min(now - then for now, then in zip(counts, before, strict=True)) < 1:
            assert time.monotonic() < ends, "threads wait for a call that was held up"
            time.sleep(0.0005)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, number) for number in range(4)]
        try:
            for at in range(1, 60):
                in_time(partial(traced, call, at, nested))
        finally:
            over.set()
        for each in running:
            each.result()


def test_code_that_runs_at_any_line_of_the_first_call_may_call(
    trio: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, at = 1, 0
    while at < total:
        at += 1
        monkeypatch.setattr(process._Process, "portals", {})  # as in a new process
        redlock = Supervisor(trio.options)

        def call(redlock: Supervisor = redlock) -> None:
            with redlock.mutex("outer", ttl=LONG, wait=0):
                pass

        def nested(redlock: Supervisor = redlock) -> None:
            with redlock.mutex("inner", ttl=LONG, wait=None):
                pass

        total = min(90, in_time(partial(traced, call, at, nested)))  # later ones are no others than in a second call
        redlock.close()
        process.portal().close()  # type: ignore[union-attr]
    assert left_on(trio.servers) == {}


@pytest.mark.parametrize("intrusion", ["lock", "close"])
def test_code_that_runs_at_any_line_of_a_close_may_call_and_close(trio: EmbeddedCluster, intrusion: str) -> None:
    total, at = 0, -1  # at first nothing comes in between
    while at < total:
        at += 1
        redlock = Supervisor(trio.options).start()

        def lock(redlock: Supervisor = redlock) -> None:
            with contextlib.suppress(ClosedError), redlock.mutex("inner", ttl=LONG, wait=0):
                pass

        nested = lock if intrusion == "lock" else redlock.close
        total = max(total, in_time(partial(traced, redlock.close, at, partial(in_time, nested))))
        ends = time.monotonic() + LATE
        while any(b"lib-name=redlock-cluster" in ask(server.port, "CLIENT", "LIST") for server in trio.servers):
            assert time.monotonic() < ends, f"connections stayed open after line {at}"
        with pytest.raises(ClosedError):
            redlock.lock("a", LONG)
    assert total > 20
    assert left_on(trio.servers) == {}


@pytest.mark.parametrize("thread", [here, in_time], ids=["main thread", "thread"])
@pytest.mark.parametrize("name", ["lock", "with", "nested", "many", "with many", "election"])
def test_exception_at_any_line_of_a_call_leaves_nothing_and_nobody_waiting(
    trio: EmbeddedCluster, redlock: Supervisor, name: str, thread: Callable[[Callable[[], object]], Any]
) -> None:
    def nested() -> None:
        with redlock.mutex("outer", LONG, wait=0), redlock.mutex("outer", LONG, reentrant=True):
            pass

    every = calls(redlock)
    # What was given to the caller is the caller's to give back.
    every["lock"] = lambda: redlock.transaction("outer", LONG, int, wait=0)
    every["many"] = lambda: redlock.lock_many(["outer", "outer2"], LONG)
    every["nested"] = nested
    call = every[name]

    def interrupt() -> None:
        raise Interrupted

    def interrupted(at: int) -> None:
        nonlocal total
        with contextlib.suppress(Interrupted):
            total = traced(call, at, interrupt)

    total, at = 1000, 0
    while at < total:
        at += 1
        thread(partial(interrupted, at))
        if at < total:
            ends = time.monotonic() + LATE
            while left_on(trio.servers):
                assert time.monotonic() < ends, f"a lock stayed behind after line {at}"
            assert redlock.unlock("b", redlock.lock("b", LONG, wait=0).value) == Ok(None)
    assert total > 30
    for server in trio.servers:
        ask(server.port, "FLUSHALL")


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """The collector looks at nothing that is older than the test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collections")
def test_exception_at_any_line_of_a_nested_with_leaves_the_outer_one_locked(
    trio: EmbeddedCluster, redlock: Supervisor
) -> None:
    def nested() -> None:
        with redlock.mutex("outer", LONG, reentrant=True) as same:
            assert same is lease

    def interrupt() -> None:
        raise Interrupted

    total, at = 1000, 0
    with redlock.mutex("outer", 20 * LONG, wait=0) as lease:  # so that the inner one never extends it
        nested()  # what is done the first time only is done
        while at < total:
            at += 1
            with contextlib.suppress(Interrupted):
                total = traced(nested, at, interrupt)
            gc.collect()
            assert redlock.is_locked("outer")  # a call: what was given back has been by then
            assert lease.valid, f"the lock is gone after line {at}"
            assert [len(inside) for inside in bodies_of(None).values()] == [1]
        assert total > 30
    assert lease.state is LeaseState.RELEASED
    assert bodies_of(None) == {}


def test_collector_in_the_loops_own_thread_gives_back_and_may_not_acquire(
    trio: EmbeddedCluster, redlock: Supervisor
) -> None:
    mutex, told = redlock.mutex("a", ttl=LONG), list[object]()

    def holds() -> Iterator[None]:
        with mutex:
            yield

    def finalize() -> None:
        for call in (
            lambda: redlock.lock("b", LONG, wait=None),
            lambda: redlock.mutex("b", ttl=LONG, wait=None).acquire(),
            lambda: redlock.extend("a", lease, LONG),
            lambda: redlock.is_locked("a"),
            lambda: redlock.transaction("b", LONG, int),
            lambda: redlock.lock_many(["b"], LONG),
        ):
            try:
                told.append(call())
            except RuntimeError as error:
                told.append(type(error).__mro__[1])
        told.append(redlock.unlock("c", token))
        told.append(redlock.unlock_many([many]))
        other.close()
        over.set()

    other = Supervisor(trio.options).start()
    generator, over = holds(), threading.Event()
    next(generator)
    lease = mutex.lease
    assert lease is not None
    token = redlock.lock("c", LONG, wait=0).value.token  # type: ignore[union-attr]
    many = redlock.lock("d", LONG, wait=0).value
    cycle: dict[str, object] = {"generator": generator, "garbage": Garbage(finalize)}
    cycle["self"] = cycle
    del generator, cycle
    process.portal().later(gc.collect)
    assert over.wait(10)
    assert told == [RuntimeError] * 6 + [Ok(None), [Ok(None)]]
    ends = time.monotonic() + LATE
    while left_on(trio.servers):
        assert time.monotonic() < ends, left_on(trio.servers)
    assert not lease.valid
    with pytest.raises(redlock_cluster.ClosedError):
        other.lock("b", LONG, wait=0)


def test_interrupt_in_a_finalizer_reaches_the_main_thread(trio: EmbeddedCluster) -> None:
    code = """
import signal, sys, time
from redlock_cluster import Supervisor
from redlock_cluster.handles import mutex as module

def trace(frame, event, _):
    if frame.f_code.co_filename == module.__file__ and frame.f_code.co_name == "__del__":
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == 2:  # what comes at the very entry, before the first line, is lost to all code
                signal.raise_signal(signal.SIGINT)
        return trace

lines = []
with Supervisor(sys.argv[1]) as redlock:
    mutex = redlock.mutex("a", 30, wait=0)
    mutex.__enter__()
    sys.settrace(trace)
    try:
        del mutex
        time.sleep(5)
        print("missed")
    except KeyboardInterrupt:
        print("interrupted")
    sys.settrace(None)
    print(redlock.is_locked("a"))
"""
    done = run_script(code, str(trio.options_path), timeout=15)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nFalse\n", "")
