"""Fences in SQLite."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from redlock_cluster.fencing import MAX_FENCE, SqlFences, StaleFence

FENCES = SqlFences()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as connection:
        FENCES.create_table(connection)
        connection.execute("CREATE TABLE written (number INTEGER PRIMARY KEY, fence BIGINT)")
        connection.commit()
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def test_a_smaller_fence_is_refused_and_the_same_one_taken(connection: sqlite3.Connection) -> None:
    for fence in (6, 7, 7, MAX_FENCE - 1):
        FENCES.check(connection, "r", fence)
    with pytest.raises(StaleFence) as refusal:
        FENCES.check(connection, "r", 7)
    assert (refusal.value.resource, refusal.value.fence, refusal.value.seen) == ("r", 7, MAX_FENCE - 1)
    assert FENCES.seen(connection, "r") == MAX_FENCE - 1


def test_each_resource_has_its_own(connection: sqlite3.Connection) -> None:
    FENCES.check(connection, "r", 7)
    FENCES.check(connection, "R", 5)
    FENCES.check(connection, "r'; --?%s", 6)
    assert [FENCES.seen(connection, name) for name in ("r", "R", "r'; --?%s", "other")] == [7, 5, 6, None]


def test_a_fence_belongs_to_the_callers_transaction(connection: sqlite3.Connection, path: Path) -> None:
    FENCES.check(connection, "r", 7)
    assert connection.in_transaction
    with closing(sqlite3.connect(path)) as other:
        assert FENCES.seen(other, "r") is None
    connection.rollback()
    FENCES.check(connection, "r", 6)
    connection.commit()
    with closing(sqlite3.connect(path)) as other:
        assert FENCES.seen(other, "r") == 6


def test_a_refusal_leaves_the_transaction_to_the_caller(connection: sqlite3.Connection) -> None:
    FENCES.check(connection, "r", 7)
    connection.commit()
    connection.execute("INSERT INTO written VALUES (1, 1)")
    with pytest.raises(StaleFence):
        FENCES.check(connection, "r", 6)
    assert connection.in_transaction
    assert connection.execute("SELECT count(*) FROM written").fetchone() == (1,)


def test_a_connection_that_commits_by_itself_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(RuntimeError, match="begin a transaction first"):
            FENCES.check(connection, "r", 1)
        connection.execute("BEGIN")
        FENCES.check(connection, "r", 1)


def test_the_table_may_exist_and_have_another_name(connection: sqlite3.Connection) -> None:
    FENCES.create_table(connection)
    fences = SqlFences("main.Other_1")
    fences.create_table(connection)
    fences.check(connection, "r", 1)
    assert connection.execute("SELECT * FROM other_1").fetchall() == [("r", 1)]
    assert FENCES.seen(connection, "r") is None


@pytest.mark.parametrize("table", ["", "a b", "a;", "a.b.c", 'a"', "1a", "a.", "ä", "a\n"])
def test_a_table_whose_name_would_need_quotes_is_a_value_error(table: str) -> None:
    with pytest.raises(ValueError, match="a table is named by ASCII letters"):
        SqlFences(table)


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def as_number(_: sqlite3.Cursor, row: tuple[Any, ...]) -> Any:
    return row[0]


@pytest.mark.parametrize("factory", [None, sqlite3.Row, as_dict, as_number])
def test_rows_may_be_whatever_the_connection_makes_of_them(factory: Any, connection: sqlite3.Connection) -> None:
    connection.row_factory = factory
    FENCES.check(connection, "r", 7)
    assert FENCES.seen(connection, "r") == 7
    with pytest.raises(StaleFence):
        FENCES.check(connection, "r", 6)


def test_a_row_that_is_kept_from_being_written_is_no_success(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TRIGGER t BEFORE INSERT ON redlock_fences BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(RuntimeError, match="redlock_fences did not take fence 7"):
        FENCES.check(connection, "r", 7)


# -- which marks stand for parameters ----------------------------------------------------------------------------------


class Own(sqlite3.Connection):
    """A user's own connection."""


class Around:
    """What a pool gives, say."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.cursor = connection.cursor


class Asynchronous(sqlite3.Connection):
    """It looks like one."""

    async def __aenter__(self) -> None: ...


class Uncounting:
    """A connection whose driver does not count rows."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def cursor(self) -> Any:
        class Cursor(sqlite3.Cursor):
            rowcount = -1

        return self.connection.cursor(Cursor)


def test_the_class_of_a_connection_decides_by_its_package(path: Path) -> None:
    with closing(sqlite3.connect(path, factory=Own)) as connection:
        FENCES.check(connection, "r", 1)


def test_what_is_wrapped_around_a_connection_needs_a_paramstyle(connection: sqlite3.Connection) -> None:
    around = Around(connection)
    with pytest.raises(TypeError, match=r"Around is no connection .* name the paramstyle"):
        FENCES.check(around, "r", 1)
    fences = SqlFences(paramstyle="qmark")
    fences.check(around, "r", 2)
    with pytest.raises(StaleFence):
        fences.check(around, "r", 1)


def test_an_asynchronous_connection_is_a_type_error(path: Path) -> None:
    with closing(sqlite3.connect(path, factory=Asynchronous)) as connection, pytest.raises(TypeError, match="DB-API"):
        FENCES.check(connection, "r", 1)


def test_another_paramstyle_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="qmark, format, pyformat, not 'numeric'"):
        SqlFences(paramstyle="numeric")


def test_a_driver_that_does_not_count_rows_is_asked_for_the_fence(connection: sqlite3.Connection) -> None:
    fences, uncounting = SqlFences(paramstyle="qmark"), Uncounting(connection)
    fences.check(uncounting, "r", 7)
    fences.check(uncounting, "r", 7)
    with pytest.raises(StaleFence):
        fences.check(uncounting, "r", 6)


# -- several at once ---------------------------------------------------------------------------------------------------


def by_table(connection: sqlite3.Connection, fence: int) -> None:
    FENCES.check(connection, "r", fence)
    connection.execute("INSERT INTO written (fence) VALUES (?)", (fence,))


def by_own_row(connection: sqlite3.Connection, fence: int) -> None:
    """The plain statement of docs/fencing.md, for those who keep the fence in their own row."""
    changed = connection.execute("UPDATE own SET fence = ? WHERE id = 1 AND fence <= ?", (fence, fence)).rowcount
    if not changed:
        raise StaleFence("own", fence, 0)
    connection.execute("INSERT INTO written (fence) VALUES (?)", (fence,))


@pytest.mark.parametrize("write", [by_table, by_own_row])
def test_connections_write_in_the_order_of_their_fences(
    write: Callable[[sqlite3.Connection, int], None], path: Path, connection: sqlite3.Connection
) -> None:
    connection.execute("CREATE TABLE own (id INTEGER PRIMARY KEY, fence BIGINT NOT NULL)")
    connection.execute("INSERT INTO own VALUES (1, 0)")
    connection.commit()
    chance = random.Random(3)
    fences = sorted(range(1, 201), key=lambda fence: fence + chance.uniform(0, 12))
    start = threading.Barrier(4)
    failures = []

    def run(mine: list[int]) -> None:
        try:
            with closing(sqlite3.connect(path, timeout=60)) as own:
                start.wait()
                for fence in mine:
                    try:
                        with own:
                            write(own, fence)
                    except StaleFence:
                        pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(fences[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    written = [fence for (fence,) in connection.execute("SELECT fence FROM written ORDER BY number")]
    assert written == sorted(written)
    assert written[-1] == 200
