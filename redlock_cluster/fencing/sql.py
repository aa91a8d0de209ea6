"""Fences in a table of an SQL database, checked in the transaction that writes the data.

One statement inserts the fence, or raises it, or changes nothing; nobody can come between a check and a write. It locks
the resource's row until the transaction ends, also when it changes nothing, so that writers of one resource take turns:

    READ COMMITTED      whoever waited for the row is measured against what the other one has committed
    REPEATABLE READ,    whoever waited gets the database's serialization error, begins its transaction again, and is
    SERIALIZABLE        measured then
    SQLite              there is one writer at a time in the whole database

This is so for the first writers of a resource, too: two transactions can't both insert its row.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Protocol

from redlock_cluster.errors import StaleFence
from redlock_cluster.fencing.fence import check_fence, check_resource

__all__ = ["Connection", "SqlFences"]

_MARKS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")

_CREATE: Final = "CREATE TABLE IF NOT EXISTS {table} (resource TEXT NOT NULL PRIMARY KEY, fence BIGINT NOT NULL)"
_ADVANCE: Final = (
    "INSERT INTO {table} AS held (resource, fence) VALUES ({mark}, {mark}) "
    "ON CONFLICT (resource) DO UPDATE SET fence = excluded.fence WHERE held.fence <= excluded.fence"
)
_SEEN: Final = "SELECT fence FROM {table} WHERE resource = {mark}"


class Connection(Protocol):
    """A connection as DB-API 2.0 (PEP 249) describes it, such as sqlite3's, psycopg's or psycopg2's."""

    def cursor(self) -> Any:
        """A cursor, with `execute`, `fetchone`, `rowcount` and `close`."""


class SqlFences:
    """The greatest fence of each resource, in a table `(resource TEXT PRIMARY KEY, fence BIGINT)`.

    For SQLite from 3.24 and PostgreSQL, by any of their DB-API drivers that are not asynchronous. It keeps no
    connection, so threads may share it.

    table: its name, `name` or `schema.name`, of ASCII letters, digits and underscores; it is not quoted
    paramstyle: "qmark" (parameters are `?`), "format" or "pyformat" (`%s`). None has the module decide that the
        connection's class comes from, by its `paramstyle`; name it where something else is wrapped around connections

    Raises ValueError for another name or paramstyle.
    """

    __slots__ = ("_paramstyle", "_table")

    def __init__(self, table: str = "redlock_fences", paramstyle: str | None = None) -> None:
        if not _NAME.fullmatch(table):
            raise ValueError(f"a table is named by ASCII letters, digits and underscores, not {table!r}")
        if paramstyle is not None and paramstyle not in _MARKS:
            raise ValueError(f"a paramstyle is one of {', '.join(_MARKS)}, not {paramstyle!r}")
        self._table = table
        self._paramstyle = paramstyle

    def create_table(self, connection: Connection) -> None:
        """Creates the table unless it exists. It commits nothing.

        connection: a DB-API connection

        Raises TypeError for another kind of connection, and what the driver raises.
        """
        self._execute(connection, _CREATE).close()

    def check(self, connection: Connection, resource: str, fence: int) -> None:
        """Notes the fence, in the caller's transaction. What is written in the same transaction is protected.

        It locks the resource's row until the transaction ends. It neither commits nor rolls back.

        connection: a DB-API connection that does not commit each statement by itself
        resource: what the transaction writes, a non-empty str
        fence: of the writer's lease, an int with 1 <= fence < 2**53

        Raises StaleFence when the table has a greater fence: roll back then, and do not try again; RuntimeError when no
        transaction is open, or the database keeps the row from being written; TypeError and ValueError for arguments of
        other kinds; and what the driver raises. After a serialization failure try the whole transaction again.
        """
        check_resource(resource)
        check_fence(fence)
        cursor = self._execute(connection, _ADVANCE, resource, fence)
        changed = cursor.rowcount
        cursor.close()
        if not _in_transaction(connection):
            raise RuntimeError(
                "this connection commits each statement by itself, so that others may write between the check and what "
                "it is to protect; begin a transaction first"
            )
        if changed == 1:
            return
        seen = self.seen(connection, resource)
        if seen is not None and seen > fence:
            raise StaleFence(resource, fence, seen)
        if seen != fence:  # else the driver has only not counted
            raise RuntimeError(f"{self._table} did not take fence {fence}; a trigger or a policy may prevent it")

    def seen(self, connection: Connection, resource: str) -> int | None:
        """The greatest fence that the table has, None if it has none. It locks nothing.

        connection: a DB-API connection
        resource: a non-empty str

        Raises TypeError and ValueError for arguments of other kinds, and what the driver raises.
        """
        check_resource(resource)
        cursor = self._execute(connection, _SEEN, resource)
        row = cursor.fetchone()
        cursor.close()
        return None if row is None else _only_value(row)

    def _execute(self, connection: Connection, statement: str, *parameters: str | int) -> Any:
        statement = statement.format(table=self._table, mark=_MARKS[self._paramstyle or _paramstyle_of(connection)])
        cursor = connection.cursor()
        cursor.execute(statement, parameters)
        return cursor


def _paramstyle_of(connection: Connection) -> str:
    """By the first class among those it derives from whose package says so; that may be one of the caller's own."""
    if not hasattr(connection, "__aenter__"):
        for kind in type(connection).__mro__:
            package = sys.modules.get(kind.__module__.partition(".")[0])
            style = getattr(package, "paramstyle", None)
            if style in _MARKS:
                return str(style)
    raise TypeError(
        f"{type(connection).__module__}.{type(connection).__qualname__} is no connection of a DB-API driver with the "
        f"paramstyle {' or '.join(_MARKS)}; where it stands for one, name the paramstyle"
    )


def _in_transaction(connection: Connection) -> bool:
    """Whether a transaction is open; true where the driver does not tell."""
    is_open = getattr(connection, "in_transaction", None)  # sqlite3
    if is_open is not None:
        return bool(is_open)
    status = getattr(getattr(connection, "info", None), "transaction_status", None)  # psycopg and psycopg2, from libpq
    return status is None or status != 0


def _only_value(row: Any) -> int:
    """What stands in a row of one column, whatever the connection makes of rows."""
    if isinstance(row, Mapping):
        (value,) = row.values()
    else:
        value = row if isinstance(row, int) else row[0]
    return int(value)
