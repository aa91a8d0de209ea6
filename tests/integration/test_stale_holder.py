"""What fences are for: a process stands still while it holds a lock, goes on when another one has it, and writes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redlock_cluster import Ok, Supervisor
from redlock_cluster.fencing import FencedFile, SqlFences
from redlock_cluster.testing import EmbeddedCluster

TTL = 1.0

HOLDER = """
import sys
from redlock_cluster import Supervisor, StaleFence
from test_stale_holder import STORES
options, store, place, fenced = sys.argv[1:]
with Supervisor(options) as redlock:
    lease = redlock.lock("report", 1.0, fenced=True).value
    print(lease.fence, flush=True)
    sys.stdin.readline()  # it stands still here
    try:
        STORES[store](place, "of the first", lease.fence if fenced == "fenced" else 2**53 - 1)
    except StaleFence as error:
        print("refused", error.seen, flush=True)
    else:
        print("written", flush=True)
"""


def write_row(place: str, text: str, fence: int) -> None:
    """Into a database."""
    connection, fences = sqlite3.connect(place), SqlFences()
    fences.create_table(connection)
    connection.execute("CREATE TABLE IF NOT EXISTS reports (id TEXT PRIMARY KEY, text TEXT)")
    with connection:
        fences.check(connection, "report", fence)
        connection.execute("REPLACE INTO reports VALUES ('report', ?)", (text,))
    connection.close()


def write_file(place: str, text: str, fence: int) -> None:
    """Into a file."""
    FencedFile(place).write(text.encode(), fence)


STORES: dict[str, Callable[[str, str, int], None]] = {"row": write_row, "file": write_file}


def read(store: str, place: str) -> str:
    if store == "file":
        return Path(place).read_text()
    connection = sqlite3.connect(place)
    ((text,),) = connection.execute("SELECT text FROM reports").fetchall()
    connection.close()
    return str(text)


@pytest.mark.parametrize(("store", "fenced"), [("row", True), ("file", True), ("row", False)], ids=str)
def test_who_stood_still_is_refused(store: str, fenced: bool, trio: EmbeddedCluster, tmp_path: Path) -> None:
    """Without the fence it overwrites what the other has written."""
    place, command = str(tmp_path / "store"), [sys.executable, "-c", HOLDER, str(trio.options_path)]
    holder = subprocess.Popen(
        [*command, store, place, "fenced" if fenced else ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        first = int(holder.stdout.readline())
        holder.send_signal(signal.SIGSTOP)
        with Supervisor(trio.options) as redlock:
            outcome = redlock.lock("report", 30, wait=20 * TTL, fenced=True)
            assert isinstance(outcome, Ok), outcome
            second = outcome.value.fence
            assert second is not None
            assert second > first
            STORES[store](place, "of the second", second)
            holder.send_signal(signal.SIGCONT)
            told, _ = holder.communicate("\n", timeout=30)
    finally:
        holder.kill()
        holder.wait()
    if fenced:
        assert told == f"refused {second}\n"
        assert read(store, place) == "of the second"
    else:
        assert told == "written\n"
        assert read(store, place) == "of the first"
