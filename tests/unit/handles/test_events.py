"""`lease.lost` and `lease.doubtful`: set when that is so, whoever was told; waited for as long as a lease is held."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState, LossReason
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.token import Token
from redlock_cluster.handles.events import LeaseEvent, async_events, events, joint_remaining, joint_state

NO_VOTES: Any = SimpleNamespace(granted=0)


class Engine:
    """Notes who listens."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.forked, self.closed = clock, False, False
        self.listeners: list[Any] = []

    def listen(self, record: LeaseRecord, listener: Any) -> None:
        self.listeners.append(listener)


def record_of(engine: Any, validity: float = 10.0) -> LeaseRecord:
    now = engine.clock()
    return LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, 10_000, now + validity, now, 0b111, None)


def doubt(engine: Any, record: LeaseRecord, tell: bool = True) -> None:
    """An extension reaches no quorum."""
    record.extended(NO_VOTES, Outcome.UNKNOWN, engine.clock(), 0.0, 10_000)
    for listener in engine.listeners if tell else ():
        listener.doubtful()


def confirm(engine: Any, record: LeaseRecord) -> None:
    """A later one does."""
    record.extended(NO_VOTES, Outcome.DONE, engine.clock(), engine.clock() + 10, 10_000)
    for listener in engine.listeners:
        listener.held()


def lose(engine: Any, record: LeaseRecord, tell: bool = True) -> None:
    """A quorum has lost it."""
    record.looked(NO_VOTES, Outcome.GONE, engine.clock())
    if tell:
        listeners, engine.listeners = engine.listeners, []
        for listener in listeners:
            listener.lost(LossReason.GONE)


def release(engine: Any, record: LeaseRecord) -> None:
    record.begin_release(engine.clock())
    engine.listeners.clear()
    record.released(Outcome.DONE, None)


class TestSet:
    @pytest.fixture
    def engine(self) -> Engine:
        return Engine(lambda: 5.0)

    def test_it_is_read_from_the_lease_before_anybody_is_told(self, engine: Any) -> None:
        record = record_of(engine)
        lost, doubtful = events(engine, [record], lambda *_: None)
        assert (lost.is_set(), doubtful.is_set(), bool(lost), bool(doubtful)) == (False, False, False, False)
        doubt(engine, record, tell=False)
        assert (lost.is_set(), doubtful.is_set()) == (False, True)
        confirm(engine, record)
        assert (lost.is_set(), doubtful.is_set()) == (False, False)
        lose(engine, record, tell=False)
        assert (lost.is_set(), doubtful.is_set(), bool(lost), bool(doubtful)) == (True, True, True, True)
        assert lost.wait() is doubtful.wait(0) is True
        assert repr(lost) == "<LeaseEvent lost: set>"

    def test_asking_has_nothing_told(self, engine: Any) -> None:
        lost, doubtful = events(engine, [record_of(engine)], lambda do, *arguments: do(*arguments))
        assert not lost
        assert not doubtful
        assert engine.listeners == []

    def test_lease_that_ran_out_is_lost(self, engine: Any) -> None:
        record = record_of(engine)
        lost, doubtful = events(engine, [record], lambda *_: None)
        engine.clock = lambda: 15.0
        assert (lost.is_set(), doubtful.is_set()) == (True, True)

    def test_released_lease_is_neither_even_if_nobody_answered(self, engine: Any) -> None:
        record = record_of(engine)
        lost, doubtful = events(engine, [record], lambda *_: None)
        record.begin_release(5.0)
        record.released(Outcome.UNKNOWN, None)
        assert (lost.is_set(), doubtful.is_set()) == (False, False)
        assert lost.wait() is doubtful.wait() is False

    def test_lease_of_the_parent_process_is_lost_here(self, engine: Any) -> None:
        lost, _ = events(engine, [record_of(engine)], lambda *_: None)
        engine.forked = True
        assert lost.wait() is True


class TestAsyncioWait:
    @pytest.fixture
    async def engine(self) -> Engine:
        return Engine(asyncio.get_running_loop().time)

    @pytest.mark.parametrize("which", [0, 1])
    async def test_it_ends_when_the_loss_is_told(self, engine: Any, which: int) -> None:
        loop, record = asyncio.get_running_loop(), record_of(engine)
        event = async_events(engine, [record])[which]
        begun = loop.time()
        loop.call_later(3, lose, engine, record)
        assert await event.wait() is True
        assert loop.time() - begun == pytest.approx(3)

    async def test_doubt_ends_one_of_the_two(self, engine: Any) -> None:
        loop, record = asyncio.get_running_loop(), record_of(engine)
        lost, doubtful = async_events(engine, [record])
        waiting = asyncio.ensure_future(lost.wait())
        loop.call_later(3, doubt, engine, record)
        assert await doubtful.wait() is True
        assert not waiting.done()
        confirm(engine, record)
        again = asyncio.ensure_future(doubtful.wait())
        await asyncio.sleep(1)
        assert not again.done()
        lose(engine, record)
        assert await waiting is await again is True

    async def test_one_listener_serves_all_who_wait(self, engine: Any) -> None:
        record = record_of(engine)
        both = async_events(engine, [record])
        waiting = [asyncio.ensure_future(event.wait()) for event in (*both, *both)]
        await asyncio.sleep(1)
        assert len(engine.listeners) == 1
        lose(engine, record)
        assert await asyncio.gather(*waiting) == [True] * 4

    async def test_it_ends_at_the_end_of_validity_though_nobody_tells(self, engine: Any) -> None:
        loop, record = asyncio.get_running_loop(), record_of(engine)
        lost, _ = async_events(engine, [record])
        begun = loop.time()
        assert await lost.wait() is True
        assert loop.time() - begun == pytest.approx(10, abs=0.01)

    async def test_it_goes_on_while_the_lease_is_extended(self, engine: Any) -> None:
        loop, record = asyncio.get_running_loop(), record_of(engine)
        lost, _ = async_events(engine, [record])
        begun = loop.time()
        loop.call_later(9, confirm, engine, record)
        assert await lost.wait() is True
        assert loop.time() - begun == pytest.approx(19, abs=0.01)

    @pytest.mark.parametrize("which", [0, 1])
    async def test_it_ends_at_once_when_the_lease_is_released(self, engine: Any, which: int) -> None:
        loop, record = asyncio.get_running_loop(), record_of(engine)
        event = async_events(engine, [record])[which]
        begun = loop.time()
        loop.call_later(3, release, engine, record)
        assert await event.wait() is False
        assert loop.time() - begun == pytest.approx(3)

    async def test_closed_engine_tells_nothing_and_the_end_is_found_all_the_same(self, engine: Any) -> None:
        loop, record = asyncio.get_running_loop(), record_of(engine)
        lost, _ = async_events(engine, [record])
        begun = loop.time()

        def close() -> None:
            engine.closed = True
            engine.listeners.clear()

        loop.call_later(3, close)
        assert await lost.wait() is True
        assert loop.time() - begun == pytest.approx(10, abs=0.01)
        engine.closed = True
        again, _ = async_events(engine, [record_of(engine)])
        assert await again.wait() is True
        assert engine.listeners == []

    async def test_waiting_can_be_cancelled(self, engine: Any) -> None:
        lost, _ = async_events(engine, [record_of(engine)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await lost.wait()


class TestSeveral:
    """Events of leases that are held together."""

    @pytest.fixture
    async def engine(self) -> Engine:
        return Engine(asyncio.get_running_loop().time)

    @pytest.mark.parametrize("index", [0, 1, 2])
    async def test_one_that_is_lost_is_enough(self, engine: Any, index: int) -> None:
        records = [record_of(engine) for _ in range(3)]
        lost, doubtful = async_events(engine, records)
        waiting = [asyncio.ensure_future(event.wait()) for event in (lost, doubtful)]
        await asyncio.sleep(1)
        assert len(engine.listeners) == 3
        assert not lost
        records[index].looked(NO_VOTES, Outcome.GONE, engine.clock())
        assert lost
        assert doubtful
        engine.listeners[index].lost(LossReason.GONE)
        assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [True, True]

    async def test_doubt_lasts_until_none_is_doubtful(self, engine: Any) -> None:
        records = [record_of(engine) for _ in range(2)]
        _, doubtful = async_events(engine, records)
        waiting = asyncio.ensure_future(doubtful.wait())
        await asyncio.sleep(1)
        for record, listener in zip(records, engine.listeners, strict=True):
            record.extended(NO_VOTES, Outcome.UNKNOWN, engine.clock(), 0.0, 10_000)
            listener.doubtful()
        assert await waiting is True
        for record, listener, left in zip(records, engine.listeners, (True, False), strict=True):
            record.extended(NO_VOTES, Outcome.DONE, engine.clock(), engine.clock() + 10, 10_000)
            listener.held()
            assert bool(doubtful) is left
            again = asyncio.ensure_future(doubtful.wait())
            await asyncio.sleep(1)
            assert again.done() is left
            again.cancel()

    async def test_release_of_one_ends_the_waiting(self, engine: Any) -> None:
        loop, records = asyncio.get_running_loop(), [record_of(engine) for _ in range(2)]
        lost, _ = async_events(engine, records)
        waiting = asyncio.ensure_future(lost.wait())
        await asyncio.sleep(1)
        records[1].begin_release(engine.clock())
        del engine.listeners[1]
        begun = loop.time()
        assert await waiting is False
        assert loop.time() - begun < 1
        assert not lost

    async def test_the_first_to_end_ends_the_waiting(self, engine: Any) -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        lost, _ = async_events(engine, [record_of(engine, 10), record_of(engine, 5)])
        assert await lost.wait() is True
        assert loop.time() - begun == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("hh", LeaseState.HELD),
        ("hu", LeaseState.UNKNOWN),
        ("ul", LeaseState.LOST),
        ("rl", LeaseState.LOST),
        ("rh", LeaseState.HELD),
        ("ru", LeaseState.UNKNOWN),
        ("rr", LeaseState.RELEASED),
        ("dr", LeaseState.DETACHED),
        ("dh", LeaseState.HELD),
    ],
)
def test_state_of_several_is_the_worst_of_them(outcomes: str, state: LeaseState) -> None:
    engine: Any = Engine(lambda: 5.0)
    records = [record_of(engine) for _ in outcomes]
    for outcome, record in zip(outcomes, records, strict=True):
        match outcome:
            case "u":
                record.extended(NO_VOTES, Outcome.UNKNOWN, 5.0, 0.0, 10_000)
            case "l":
                record.looked(NO_VOTES, Outcome.GONE, 5.0)
            case "r":
                release(engine, record)
            case "d":
                record.detach(5.0)
    assert joint_state(records, 5.0) is joint_state(records[::-1], 5.0) is state
    assert joint_remaining(records, 5.0) == (0.0 if set(outcomes) & set("lrd") else 10.0)


class TestSyncWait:
    """Threads, so in real time."""

    @pytest.fixture
    def engine(self) -> Engine:
        return Engine(time.monotonic)

    @staticmethod
    def waiting(engine: Any, event: LeaseEvent) -> tuple[threading.Thread, list[bool]]:
        """A thread that waits, once the engine was asked to tell."""
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.append(event.wait()), daemon=True)
        thread.start()
        while not engine.listeners:
            time.sleep(0.001)
        return thread, results

    @pytest.mark.parametrize(("what", "result"), [(lose, True), (release, False)])
    def test_it_ends_when_the_lease_is_over(self, engine: Any, what: Any, result: bool) -> None:
        record = record_of(engine, 3600)
        both = events(engine, [record], lambda do, *arguments: do(*arguments))
        threads = [self.waiting(engine, event) for event in both]
        what(engine, record)
        for thread, _ in threads:
            thread.join(20)
        assert [results for _, results in threads] == [[result], [result]]

    def test_it_ends_in_doubt(self, engine: Any) -> None:
        record = record_of(engine, 3600)
        _, doubtful = events(engine, [record], lambda do, *arguments: do(*arguments))
        thread, results = self.waiting(engine, doubtful)
        doubt(engine, record)
        thread.join(20)
        assert results == [True]

    def test_it_ends_when_its_time_is_over_or_the_lease(self, engine: Any) -> None:
        lost, _ = events(engine, [record_of(engine, 0.05)], lambda do, *arguments: do(*arguments))
        assert lost.wait(0.001) is False
        assert lost.wait(3600) is True
