"""Blocking calls: in threads of the library's own, one for each key, and nobody else waits for what hangs."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from resolver import LOOPS, ImpatientRunner

from redlock_cluster.wire.blocking import call, doing

Factory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with ImpatientRunner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """What one test has let go has ended before the next begins: calls with one key are one call."""
    before = threading.enumerate()  # that of `on_lost` lasts
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("redlock-cluster: ") and thread not in before:
            thread.join(10)


class Slow:
    """A function that hangs until it is let go.

    made: how often it was called
    """

    def __init__(self, outcome: object = "done") -> None:
        self.outcome, self.made = outcome, 0
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> object:
        self.made += 1
        self.begun.set()
        assert self.go.wait(10)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


async def begun(slow: Slow) -> None:
    """Waits until it was called, without a thread of the loop's."""
    while not slow.begun.is_set():
        await asyncio.sleep(0.001)


def test_calls_with_one_key_are_one_call_and_share_its_outcome_across_loops(runner: asyncio.Runner) -> None:
    slow, other = Slow(), Slow("other")
    results: list[object] = []

    async def wait() -> None:
        results.append(await call("one key", slow, "waiting"))

    async def main() -> None:
        here = [asyncio.create_task(wait()) for _ in range(3)]
        await begun(slow)
        elsewhere = threading.Thread(target=lambda: asyncio.run(wait()))
        elsewhere.start()
        other.go.set()
        assert await call("another key", other, "waiting") == "other"
        slow.go.set()
        await asyncio.gather(*here)
        while elsewhere.is_alive():
            await asyncio.sleep(0.001)

    runner.run(main())
    assert results == ["done"] * 4
    assert slow.made in (1, 2)  # the other loop's may have come after the first had ended


def test_next_call_with_a_key_is_made_anew(runner: asyncio.Runner) -> None:
    slow = Slow()
    slow.go.set()

    async def main() -> None:
        for _ in range(3):
            assert await call("again", slow, "waiting") == "done"

    runner.run(main())
    assert slow.made == 3


@pytest.mark.parametrize("error", [OSError("no such file"), SystemExit(3), GeneratorExit(), StopIteration()], ids=repr)
def test_what_a_call_raises_reaches_everybody_who_waits(runner: asyncio.Runner, error: BaseException) -> None:
    slow = Slow(error)

    async def main() -> list[Any]:
        waiting = [asyncio.create_task(call("raises", slow, "waiting")) for _ in range(2)]
        await begun(slow)
        slow.go.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    raised = runner.run(main())
    assert slow.made == 1
    assert all(isinstance(one, Exception) for one in raised)
    if isinstance(error, OSError):
        assert raised == [error, error]
    else:
        assert [str(one) for one in raised] == [f"waiting ended by {type(error).__name__}"] * 2


def test_error_of_a_call_that_nobody_waits_for_any_more_is_not_told(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    slow, told = Slow(OSError("too late")), []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        waiting = asyncio.create_task(call("given up", slow, "waiting for Godot"))
        await begun(slow)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError) as given_up:
            await waiting
        assert given_up.value.__notes__ == ["waiting for Godot"]
        again = asyncio.create_task(call("given up", slow, "waiting"))
        await asyncio.sleep(0)
        slow.go.set()
        with pytest.raises(OSError, match="too late"):
            await again

    with caplog.at_level(logging.DEBUG):
        runner.run(main())
    assert slow.made == 1
    assert not told
    assert not caplog.records


@pytest.mark.parametrize("kind", LOOPS)
def test_call_that_hangs_does_not_remember_those_who_gave_up(kind: str) -> None:
    slow = Slow()

    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        waiting = asyncio.create_task(call("hangs", slow, "waiting"))
        await begun(slow)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return weakref.ref(asyncio.get_running_loop())

    with ImpatientRunner(loop_factory=LOOPS[kind]) as runner:
        loop = runner.run(main())
    del runner
    gc.collect()
    assert loop() is None
    slow.go.set()


def test_call_ends_after_its_loop_was_closed() -> None:
    slow = Slow()

    async def main() -> None:
        asyncio.create_task(call("left behind", slow, "waiting"))  # noqa: RUF006  left behind on purpose
        await begun(slow)

    asyncio.run(main())
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "redlock-cluster: waiting"]
    slow.go.set()
    thread.join(10)
    assert not thread.is_alive()  # and its end raised nothing: pytest would tell

    async def after() -> object:
        return await call("left behind", lambda: "anew", "waiting")

    assert asyncio.run(after()) == "anew"


class Taken(ThreadPoolExecutor):
    """An executor that belongs to somebody else."""

    def submit(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the default executor was used")


def test_default_executor_stays_the_applications(runner: asyncio.Runner) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(Taken())
        thread = await call("whose", threading.current_thread, "waiting")
        assert thread.daemon

    runner.run(main())


def test_call_is_made_in_place_where_no_thread_can_be_started(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)

    async def main() -> None:
        assert await call("in place", threading.get_ident, "waiting") == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await call("in place", lambda: 1 // 0, "waiting")

    runner.run(main())


def test_cancellation_says_what_it_interrupted_and_nothing_else_does() -> None:
    with pytest.raises(ValueError, match="other") as other, doing("this"):
        raise ValueError("other")
    assert not hasattr(other.value, "__notes__")


HANGS = """
import asyncio, os, sys, threading
from redlock_cluster.wire.blocking import call

async def main():
    hangs = asyncio.create_task(call("hangs", threading.Event().wait, "waiting"))
    await asyncio.sleep(0)
"""


def run(code: str) -> str:
    # Since 3.12 a fork beside other threads is warned of.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HANGS + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_process_exits_although_a_call_hangs() -> None:
    run("asyncio.run(main())")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_makes_its_own_call() -> None:
    told = run("""
asyncio.run(main())
child = os.fork()
if not child:
    print(asyncio.run(call("hangs", lambda: "made", "waiting")), flush=True)
    os._exit(0)
os.waitpid(child, 0)
""")
    assert told == "made\n"
