"""Fences in a real PostgreSQL database, by both of its drivers."""

from __future__ import annotations

import contextlib
import importlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from redlock_cluster.fencing import MAX_FENCE, SqlFences, StaleFence

FENCES = SqlFences()
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
NO_MORE_THAN = 30.0
"""Seconds for which anything is waited for."""


class Database(NamedTuple):
    """connect: opens a connection, given an isolation level; refused: the driver's error for "begin again"."""

    connect: Callable[..., Any]
    refused: type[Exception]


@pytest.fixture(params=["psycopg", "psycopg2"])
def database(
    request: pytest.FixtureRequest, postgres_variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """With no fence and nothing written."""
    driver = importlib.import_module(request.param)
    errors = importlib.import_module(f"{request.param}.errors")
    for name, value in postgres_variables.items():
        monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as opened:

        def connect(level: str = "READ COMMITTED") -> Any:
            options = f"-c default_transaction_isolation={level.lower().replace(' ', chr(92) + ' ')}"
            connection = driver.connect("", options=options)
            opened.callback(connection.close)
            return connection

        with connect() as connection:
            FENCES.create_table(connection)
            do(connection, "CREATE TABLE IF NOT EXISTS written (number BIGSERIAL, fence BIGINT)")
            do(connection, "CREATE TABLE IF NOT EXISTS own (id INT PRIMARY KEY, fence BIGINT NOT NULL)")
            do(connection, "TRUNCATE redlock_fences, written, own")
        yield Database(connect, errors.SerializationFailure)


def do(connection: Any, statement: str, *parameters: object) -> Any:
    cursor = connection.cursor()
    cursor.execute(statement, parameters)
    return cursor


def test_a_smaller_fence_is_refused_and_the_same_one_taken(database: Database) -> None:
    connection = database.connect()
    for fence in (6, 7, 7, MAX_FENCE):
        FENCES.check(connection, "r'; --?%s", fence)
    connection.commit()
    with pytest.raises(StaleFence) as refusal:
        FENCES.check(connection, "r'; --?%s", MAX_FENCE - 1)
    assert (refusal.value.fence, refusal.value.seen) == (MAX_FENCE - 1, MAX_FENCE)
    assert FENCES.seen(connection, "r'; --?%s") == MAX_FENCE
    assert FENCES.seen(connection, "r") is None


def test_a_connection_that_commits_by_itself_is_refused(database: Database) -> None:
    connection = database.connect()
    connection.autocommit = True
    with pytest.raises(RuntimeError, match="begin a transaction first"):
        FENCES.check(connection, "r", 1)
    do(connection, "BEGIN")
    FENCES.check(connection, "r", 1)


def test_psycopgs_own_transactions_and_rows_are_understood(postgres_variables: Mapping[str, str]) -> None:
    import psycopg
    from psycopg.rows import dict_row, namedtuple_row, scalar_row

    words = f"host={postgres_variables['PGHOST']} user={postgres_variables['PGUSER']} dbname=postgres"
    with psycopg.connect(words, autocommit=True) as connection:
        FENCES.create_table(connection)
        for factory in (dict_row, namedtuple_row, scalar_row):
            connection.row_factory = factory  # type: ignore[assignment]
            with connection.transaction():
                FENCES.check(connection, "rows", 7)
                assert FENCES.seen(connection, "rows") == 7
            with pytest.raises(StaleFence), connection.transaction():
                FENCES.check(connection, "rows", 6)
        with connection.pipeline(), connection.transaction():
            FENCES.check(connection, "rows", 8)
        with pytest.raises(StaleFence), connection.pipeline(), connection.transaction():
            FENCES.check(connection, "rows", 7)


def test_psycopg2s_rows_are_understood(postgres_variables: Mapping[str, str]) -> None:
    import psycopg2.extras

    words = f"host={postgres_variables['PGHOST']} user={postgres_variables['PGUSER']} dbname=postgres"
    for factory in (psycopg2.extras.RealDictCursor, psycopg2.extras.DictCursor, psycopg2.extras.NamedTupleCursor):
        connection = psycopg2.connect(words, cursor_factory=factory)
        with contextlib.closing(connection), connection:
            FENCES.create_table(connection)
            FENCES.check(connection, "rows2", 7)
            assert FENCES.seen(connection, "rows2") == 7


class Later:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                call()
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def ends(self) -> BaseException | None:
        """With this error, or none."""
        self.thread.join(NO_MORE_THAN)
        assert not self.thread.is_alive()
        return self.error


def wait_until_it_waits(database: Database, connection: Any) -> None:
    """Until the server says that this connection waits for another transaction."""
    pid = connection.info.backend_pid
    looking = database.connect()
    looking.autocommit = True
    deadline = time.monotonic() + NO_MORE_THAN
    while do(looking, "SELECT cardinality(pg_blocking_pids(%s))", pid).fetchone()[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("known", [False, True], ids=["first-writers", "a-row-is-there"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("fence", [6, 7, 8])
def test_a_writer_waits_for_another_one_and_is_measured_against_what_that_has_committed(
    level: str, known: bool, ending: str, fence: int, database: Database
) -> None:
    first, second = database.connect(level), database.connect(level)
    if known:
        FENCES.check(first, "r", 1)
        first.commit()
    FENCES.check(first, "r", 7)
    later = Later(lambda: FENCES.check(second, "r", fence))
    wait_until_it_waits(database, second)
    getattr(first, ending)()
    error = later.ends()
    if isinstance(error, database.refused):
        assert level != "READ COMMITTED"
        second.rollback()
        error = Later(lambda: FENCES.check(second, "r", fence)).ends()
    elif ending == "commit":
        assert level == "READ COMMITTED"
    if ending == "commit" and fence < 7:
        assert isinstance(error, StaleFence)
        assert (error.fence, error.seen) == (fence, 7)
    else:
        assert error is None
    second.commit() if error is None else second.rollback()
    assert FENCES.seen(first, "r") == (fence if ending == "rollback" else max(fence, 7))


def by_table(connection: Any, fence: int) -> None:
    FENCES.check(connection, "r", fence)
    do(connection, "INSERT INTO written (fence) VALUES (%s)", fence)


def by_own_row(connection: Any, fence: int) -> None:
    """The plain statement of docs/fencing.md, for those who keep the fence in their own row."""
    if not do(connection, "UPDATE own SET fence = %s WHERE id = 1 AND fence <= %s", fence, fence).rowcount:
        raise StaleFence("own", fence, 0)
    do(connection, "INSERT INTO written (fence) VALUES (%s)", fence)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("write", [by_table, by_own_row])
def test_connections_write_in_the_order_of_their_fences(
    write: Callable[[Any, int], None], level: str, database: Database
) -> None:
    """The numbers are given under the lock of the row, so they are in the order of the writes."""
    looking = database.connect()
    do(looking, "INSERT INTO own VALUES (1, 0)")
    looking.commit()
    chance = random.Random(4)
    fences = sorted(range(1, 201), key=lambda fence: fence + chance.uniform(0, 12))
    start = threading.Barrier(4)

    def run(mine: list[int]) -> None:
        connection = database.connect(level)
        start.wait()
        for fence in mine:
            while True:
                try:
                    write(connection, fence)
                    connection.commit()
                    break
                except database.refused:
                    connection.rollback()
                except StaleFence:
                    connection.rollback()
                    break

    runs = [Later(lambda part=part: run(fences[part::4])) for part in range(4)]
    assert [one.ends() for one in runs] == [None] * 4
    written = [fence for (fence,) in do(looking, "SELECT fence FROM written ORDER BY number").fetchall()]
    assert len(written) > 20
    assert written == sorted(written)
    assert written[-1] == 200
