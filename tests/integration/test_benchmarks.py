"""The benchmark still runs: every row once, tiny, on this library alone. Nothing is said about speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "aio-uvloop",
    "aio-loop",
    "aio-sequential",
    "sync-sequential",
    "sync-threads",
    "many",
    "outage",
    "keys",
    "groups",
    "contention",
    "imports",
    "memory",
}


@pytest.fixture
def contention(monkeypatch):
    """The module that finds who held a contended lock and when, imported as the contestants' scripts import it."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "contestants")
    import contention

    yield contention
    for name in ("contention", "harness"):
        del sys.modules[name]


def test_smoke_run_every_row_locks_and_writes_results(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows.keys() == ROWS
    for name, row in rows.items():
        assert row["sound"], (name, row)
        assert row["entrants"], name
        for label, series in row["entrants"].items():
            assert (series["failures"], series["left"], series["error"]) == (0, 0, ""), (label, series)
            assert all(figures[row["figure"]] > 0 or name == "memory" for figures in series["rounds"]), (label, series)
    contended = [figures for series in rows["contention"]["entrants"].values() for figures in series["rounds"]]
    assert [figures["overlaps"] for figures in contended] == [0]
    assert sum(contended[0]["shares"]) > 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert all(f"### {row['title']}" in text for row in rows.values())


def test_layers_are_named_for_files_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.layers import _FILES

    assert [name for name in _FILES if not (ROOT / "redlock_cluster" / name).is_file()] == []


def test_sections_that_overlap_are_counted(contention):
    separate = "wait 0\nheld 1 2\nwait 2\nheld 3 4\n"
    inside = "wait 0\nheld 3.5 3.6\n"

    assert contention.summary([separate], began=0, seconds=10)["overlaps"] == 0
    touching = contention.summary([separate, "wait 0\nheld 2 3\n"], began=0, seconds=10)
    assert (touching["overlaps"], touching["handovers"]) == (0, 0.2)
    assert contention.summary([separate, inside], began=0, seconds=10)["overlaps"] == 1


def test_a_process_that_starves_shows_in_waits_and_fairness(contention):
    figures = contention.summary(["wait 0\nheld 1 2\nwait 2\nheld 2 3\n", "wait 0\n"], began=0, seconds=10)

    assert figures["shares"] == [2, 0]
    assert figures["handovers"] == 0
    assert figures["jain"] == 0.5
    assert figures["wait_max_ms"] == 10_000


def test_a_lock_lost_while_held_is_a_failure(contention):
    figures = contention.summary(["wait 0\nheld 1 2\nlost\n"], began=0, seconds=10)

    assert (figures["failures"], figures["cycles"]) == (1, 1)
