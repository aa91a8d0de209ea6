"""Fences in memory."""

from __future__ import annotations

import random
import threading

import pytest

from redlock_cluster.fencing import MemoryFences, StaleFence


def test_a_smaller_fence_is_refused_before_the_body() -> None:
    fences = MemoryFences()
    with fences.write("r", 7):
        pass
    with pytest.raises(StaleFence) as refusal, fences.write("r", 6):
        pytest.fail("the body ran")
    assert (refusal.value.resource, refusal.value.fence, refusal.value.seen) == ("r", 6, 7)
    assert fences.seen("r") == 7


def test_the_same_fence_writes_again() -> None:
    fences = MemoryFences()
    for _ in range(3):
        with fences.write("r", 7):
            pass
    assert fences.seen("r") == 7


def test_a_resource_that_nobody_wrote_has_no_fence() -> None:
    fences = MemoryFences()
    assert fences.seen("r") is None
    with pytest.raises(StaleFence), fences.write("r", 2), fences.write("s", 1):
        raise StaleFence("r", 1, 2)
    assert (fences.seen("r"), fences.seen("s"), fences.seen("t")) == (2, 1, None)


def test_a_body_that_raises_has_shown_its_fence() -> None:
    fences = MemoryFences()
    with pytest.raises(KeyError), fences.write("r", 7):
        raise KeyError
    with pytest.raises(StaleFence), fences.write("r", 6):
        pytest.fail("the body ran")
    with fences.write("r", 7):
        pass


def test_a_write_within_a_write_of_the_same_resource_is_refused() -> None:
    fences = MemoryFences()
    with fences.write("r", 1):
        with pytest.raises(RuntimeError, match="wait for itself"), fences.write("r", 1):
            pytest.fail("the body ran")
        with fences.write("s", 1):
            pass
    with fences.write("r", 1):
        pass


def test_a_later_writer_waits_until_the_body_of_an_earlier_one_has_ended() -> None:
    fences, order = MemoryFences(), []
    began = threading.Event()

    def later() -> None:
        began.set()
        with fences.write("r", 2):
            order.append(2)

    with fences.write("r", 1):
        thread = threading.Thread(target=later)
        thread.start()
        began.wait()
        thread.join(0.05)  # nothing to be seen of one who waits but that it is still there
        assert thread.is_alive()
        order.append(1)
    thread.join()
    assert order == [1, 2]


def test_threads_write_in_the_order_of_their_fences() -> None:
    fences, written = MemoryFences(), []
    chance = random.Random(5)
    numbers = sorted(range(1, 2001), key=lambda fence: fence + chance.uniform(0, 100))
    start = threading.Barrier(8)

    def write(mine: list[int]) -> None:
        start.wait()
        for fence in mine:
            try:
                with fences.write("r", fence):
                    written.append(fence)
            except StaleFence as refusal:
                assert refusal.seen > fence

    threads = [threading.Thread(target=write, args=(numbers[part::8],)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == sorted(written)
    assert written[-1] == fences.seen("r") == 2000
