"""Names are looked up for every connection; what they were before is used while that takes long or fails."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from resolver import AGAIN, LOOPS, NONAME, ImpatientRunner, Resolver, resolver

from redlock_cluster.wire import names
from redlock_cluster.wire.names import addresses


@pytest.fixture
def names_of() -> Iterator[Resolver]:
    with resolver() as made:
        yield made


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    monkeypatch.setattr(names, "LATE", 60.0)
    monkeypatch.setattr(names, "_known", {})
    with ImpatientRunner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


async def found(host: str = "a.test", port: int = 7000) -> list[tuple[str, int]]:
    return [address for *_, address in await addresses(host, port)]


def test_name_is_looked_up_each_time(runner: asyncio.Runner, names_of: Resolver) -> None:
    names_of.table["a.test"] = ["127.0.0.1", "127.0.0.2"]
    assert runner.run(found()) == [("127.0.0.1", 7000), ("127.0.0.2", 7000)]
    names_of.table["a.test"] = ["127.0.0.3"]
    assert runner.run(found(port=1)) == [("127.0.0.3", 1)]
    assert names_of.asked == ["a.test"] * 2


def test_addresses_can_be_connected_to(runner: asyncio.Runner, names_of: Resolver) -> None:
    names_of.table["a.test"] = ["127.0.0.1", "::1"]
    four, six = runner.run(addresses("a.test", 7000))
    assert four == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 7000))
    assert six == (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", 7000, 0, 0))


def test_name_that_hangs_is_asked_for_once_and_holds_up_no_other(runner: asyncio.Runner, names_of: Resolver) -> None:
    names_of.table = {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.2"]}
    names_of.hang("a.test")

    async def main() -> None:
        waiting = [asyncio.create_task(found(port=port)) for port in range(1, 9)]
        for _ in range(4):
            assert await found("b.test") == [("127.0.0.2", 7000)]
        assert not any(one.done() for one in waiting)
        assert names_of.asked.count("a.test") == 1
        names_of.let_go()
        assert await asyncio.gather(*waiting) == [[("127.0.0.1", port)] for port in range(1, 9)]

    runner.run(main())
    assert names_of.asked.count("a.test") == 1


def test_addresses_of_before_are_used_while_a_look_up_hangs_and_new_ones_when_it_ends(
    runner: asyncio.Runner, names_of: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names_of.table["a.test"] = ["127.0.0.1"]

    async def main() -> None:
        assert await found() == [("127.0.0.1", 7000)]
        monkeypatch.setattr(names, "LATE", 0.01)
        names_of.hang("a.test")
        for _ in range(3):
            assert await found() == [("127.0.0.1", 7000)]
        assert len(names_of.asked) == 2
        names_of.table["a.test"] = ["127.0.0.2"]
        names_of.let_one_go("a.test")  # nobody waits for it, and the next one hangs too
        while any(thread.name == "redlock-cluster: looking up the name a.test" for thread in threading.enumerate()):
            await asyncio.sleep(0.001)
        assert await found() == [("127.0.0.2", 7000)]

    runner.run(main())


def test_addresses_of_before_are_used_when_a_look_up_fails_for_a_while(
    runner: asyncio.Runner, names_of: Resolver
) -> None:
    names_of.table["a.test"] = ["127.0.0.1"]
    runner.run(found())
    names_of.table["a.test"] = AGAIN
    assert runner.run(found()) == [("127.0.0.1", 7000)]
    assert len(names_of.asked) == 2


@pytest.mark.parametrize("error", [AGAIN, NONAME], ids=["again", "no name"])
def test_name_that_was_never_found_says_why(runner: asyncio.Runner, names_of: Resolver, error: socket.gaierror) -> None:
    names_of.table["a.test"] = error
    with pytest.raises(OSError, match=f"^the name a.test can't be looked up: {error.strerror}$"):
        runner.run(found())


def test_name_that_does_not_exist_any_more_has_no_addresses(runner: asyncio.Runner, names_of: Resolver) -> None:
    names_of.table["a.test"] = ["127.0.0.1"]
    runner.run(found())
    del names_of.table["a.test"]
    with pytest.raises(OSError, match="can't be looked up: Name or service not known"):
        runner.run(found())
