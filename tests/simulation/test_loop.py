"""The virtual loop: time, order, processes that stand still."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from redlock_cluster.testing.simulation import MachineClock, Process, SeededEntropy, Stalled, VirtualLoop, stream

T = TypeVar("T")


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


def test_a_long_sleep_takes_virtual_time_only() -> None:
    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(86_400)
        return loop.time()

    begun = time.monotonic()
    assert run(main) == 86_400
    assert time.monotonic() - begun < 5


def test_timers_fire_by_time_and_those_of_one_time_as_they_were_set() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        fired: list[str] = []
        for name, when in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0), ("e", 2.0)):
            loop.call_at(when, fired.append, name)
        await asyncio.sleep(3)
        return fired

    assert run(main) == ["a", "b", "c", "d", "e"]


def test_ready_calls_run_in_order_before_time_moves() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[str, float]]:
        ran: list[tuple[str, float]] = []
        loop.call_later(0.5, lambda: ran.append(("timer", loop.time())))
        loop.call_soon(lambda: loop.call_soon(lambda: ran.append(("second turn", loop.time()))))
        loop.call_soon(lambda: ran.append(("first turn", loop.time())))
        await asyncio.sleep(1)
        return ran

    assert run(main) == [("first turn", 0.0), ("second turn", 0.0), ("timer", 0.5)]


def test_a_cancelled_timer_neither_fires_nor_moves_time() -> None:
    loop = VirtualLoop()
    loop.call_later(1, pytest.fail, "it fired").cancel()
    with pytest.raises(Stalled):
        loop.run_forever()
    assert loop.time() == 0
    loop.close()


def test_timeouts_and_gathering_work() -> None:
    async def main(loop: VirtualLoop) -> tuple[list[int], float]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await asyncio.sleep(10)
        return await asyncio.gather(*(asyncio.sleep(i, i) for i in (2, 1))), loop.time()

    assert run(main) == ([2, 1], 5)


def test_waiting_for_what_can_never_come_is_told() -> None:
    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    loop = VirtualLoop()
    task = loop.create_task(main(loop))
    with pytest.raises(Stalled):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_sockets_and_threads_are_not_to_be_had() -> None:
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(NotImplementedError):
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1)
        with pytest.raises(NotImplementedError):
            await asyncio.to_thread(time.time)
        with socket.socket() as real, pytest.raises(NotImplementedError):
            await loop.sock_accept(real)

    run(main)


def test_what_a_call_back_raises_is_kept() -> None:
    loop = VirtualLoop()
    loop.call_soon(lambda: 1 / 0)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert isinstance(loop.faults[0]["exception"], ZeroDivisionError)


def test_a_runner_takes_the_loop() -> None:
    async def main() -> float:
        await asyncio.sleep(7)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == 7


def test_a_paused_process_runs_late_and_the_others_in_time() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[str, float]]:
        woke: list[tuple[str, float]] = []

        async def nap(name: str) -> None:
            await asyncio.sleep(1)
            woke.append((name, loop.time()))

        paused, other = Process(loop, "paused"), Process(loop, "other")
        tasks = [paused.spawn(nap("paused")), other.spawn(nap("other"))]
        loop.call_later(0.5, paused.pause)
        loop.call_later(5, paused.resume)
        await asyncio.gather(*tasks)
        return woke

    assert run(main) == [("other", 1), ("paused", 5)]


@pytest.mark.parametrize(("timers_first", "order"), [(False, ["data", "timer"]), (True, ["timer", "data"])])
def test_a_resumed_process_reads_or_looks_at_its_timers_first(timers_first: bool, order: list[str]) -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        ran: list[str] = []
        process = Process(loop, "p")
        process.context.run(loop.call_later, 1, ran.append, "timer")
        loop.call_at(2, lambda: loop.call_soon(ran.append, "data", context=process.context))
        process.pause()
        loop.call_at(3, process.resume, timers_first)
        await asyncio.sleep(4)
        return ran

    assert run(main) == order


def test_what_a_dead_process_began_never_goes_on() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        ran: list[str] = []

        async def life() -> None:
            try:
                await asyncio.sleep(1)
            finally:
                ran.append("finally")

        process = Process(loop, "p")
        task = process.spawn(life())
        await asyncio.sleep(0.5)
        process.kill()
        process.resume()
        await asyncio.sleep(10)
        before = list(ran)
        process.bury()
        await task
        return before

    assert run(main) == []


def test_a_generator_that_is_left_ends_as_in_asyncio() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        ended = list[float]()

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await asyncio.sleep(1)
                ended.append(loop.time())

        async for _ in numbers():
            break
        await asyncio.sleep(2)
        return ended

    assert run(main) == [1.0]


def test_only_the_engines_clock_runs_through_a_suspension_and_ignores_the_date() -> None:
    async def main(loop: VirtualLoop) -> None:
        clock = MachineClock(loop.time, rate=2.0, offset=100.0)
        clock.suspend()
        await asyncio.sleep(5)
        clock.wake()
        clock.step(-50)
        assert (clock(), clock.monotonic(), clock.wall()) == (110, 100, 60)
        assert clock.simulated(clock()) == loop.time()

    run(main)


def test_a_seed_repeats_its_entropy() -> None:
    first, second, other = (SeededEntropy(stream(seed, "x")) for seed in (1, 1, 2))
    drawn = [(e.texts(1)[0], e.fraction()) for e in (first, second, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0][0]) == 22
    assert stream(1, "x").random() != stream(1, "y").random()
