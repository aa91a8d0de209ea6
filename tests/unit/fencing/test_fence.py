"""What every store asks of its arguments, and what a refusal says."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import redlock_cluster
from redlock_cluster import RedlockError
from redlock_cluster.fencing import MAX_FENCE, FencedFile, FencedKey, MemoryFences, SqlFences, StaleFence


class Client:
    """A client of a server that takes everything."""

    def execute_command(self) -> None: ...

    def eval(self, *_: object) -> None: ...


def memory(folder: Path) -> Callable[[Any], object]:
    return lambda fence: MemoryFences().write("r", fence).__enter__()


def sql(folder: Path) -> Callable[[Any], object]:
    connection = sqlite3.connect(folder / "a.db")
    fences = SqlFences()
    fences.create_table(connection)

    def check(fence: Any) -> None:
        try:
            fences.check(connection, "r", fence)
        finally:
            connection.close()

    return check


def key(folder: Path) -> Callable[[Any], object]:
    client: Any = Client()
    return lambda fence: FencedKey(client, "r").set("value", fence)


def file(folder: Path) -> Callable[[Any], object]:
    return lambda fence: FencedFile(folder / "a").write(b"content", fence)


STORES = (memory, sql, key, file)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("fence", [1, MAX_FENCE])
def test_the_least_and_the_greatest_fence_are_taken(
    store: Callable[[Path], Callable[[Any], object]], fence: int, tmp_path: Path
) -> None:
    store(tmp_path)(fence)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("fence", [0, -1, MAX_FENCE + 1])
def test_a_number_that_is_no_fence_is_a_value_error(
    store: Callable[[Path], Callable[[Any], object]], fence: int, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"at least 1 and less than 2\*\*53, not {fence}$"):
        store(tmp_path)(fence)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("fence", [None, True, 1.0, "1", b"1"])
def test_anything_but_an_int_is_a_type_error(
    store: Callable[[Path], Callable[[Any], object]], fence: object, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=f"a fence is an int, not {type(fence).__name__}"):
        store(tmp_path)(fence)


@pytest.mark.parametrize("resource", [b"r", None, 1])
def test_a_resource_that_is_no_str_is_a_type_error(resource: Any) -> None:
    with pytest.raises(TypeError, match="a resource is a str here"):
        MemoryFences().seen(resource)
    client: Any = Client()
    with pytest.raises(TypeError, match="a resource is a str here"):
        FencedKey(client, resource)


def test_an_empty_resource_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        MemoryFences().seen("")


def test_a_refusal_says_what_was_refused_and_why() -> None:
    refusal = StaleFence("report", 5, 7)
    assert isinstance(refusal, RedlockError)
    assert (refusal.resource, refusal.fence, refusal.seen) == ("report", 5, 7)
    assert str(refusal) == "'report' was not written: fence 5 is over, a later holder has come with fence 7"


def test_a_long_resource_fills_no_message() -> None:
    assert len(str(StaleFence("r" * 60_000, 5, 7))) < 300


def test_fencing_loads_neither_the_engine_nor_a_driver() -> None:
    code = "import sys, redlock_cluster.fencing; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(redlock_cluster.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "redlock_cluster.fencing.sql" in loaded
    assert not loaded & {"asyncio", "redis", "sqlite3", "psycopg", "redlock_cluster.engine", "redlock_cluster.wire"}
