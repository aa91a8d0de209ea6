"""A thousand histories in which everything goes wrong that may, and no promise is broken.

A compiled engine plays them all. An interpreted one, of the same sources, plays some of them: once is enough.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from redlock_cluster.wire import flight

from .runs import replay, run

ROOT = Path(__file__).parents[2]
COMPILED = not flight.__file__.endswith(".py")
CHUNK = 50
HISTORIES = 1000 if COMPILED else 200
CHUNK_OF_FEW = 5
CROWDS = LEASES = MIXED = SHARED = FENCED = AMNESIA = 80 if COMPILED else 15
FLUSHES = 20 if COMPILED else 5


def without_findings(seeds: range, scenario: str = "faults") -> None:
    """Plays them; fails with the story of the first that breaks a promise."""
    tally = run(seeds, scenario)
    assert tally.histories == len(seeds)
    if tally.findings:
        pytest.fail("\n".join(replay(min(tally.findings), scenario)))


@pytest.mark.parametrize("first", range(0, HISTORIES, CHUNK))
def test_histories_with_faults_keep_every_promise(first: int) -> None:
    without_findings(range(first, first + CHUNK))


@pytest.mark.parametrize("first", range(0, CROWDS, CHUNK_OF_FEW))
def test_crowds_that_wait_for_one_lock_are_served_in_turn(first: int) -> None:
    without_findings(range(first, first + CHUNK_OF_FEW), "crowd")


@pytest.mark.parametrize("first", range(0, LEASES, CHUNK_OF_FEW))
def test_leases_that_look_after_themselves_are_held_as_long_as_their_holders_believe(first: int) -> None:
    without_findings(range(first, first + CHUNK_OF_FEW), "leases")


@pytest.mark.parametrize("first", range(0, MIXED, CHUNK_OF_FEW))
def test_all_ways_to_lock_keep_their_promises_together(first: int) -> None:
    without_findings(range(first, first + CHUNK_OF_FEW), "mixed")


@pytest.mark.parametrize("first", range(0, SHARED, CHUNK_OF_FEW))
def test_readers_writers_and_permits_keep_their_promises(first: int) -> None:
    without_findings(range(first, first + CHUNK_OF_FEW), "shared")


@pytest.mark.parametrize("first", range(0, FENCED, CHUNK_OF_FEW))
def test_fences_grow(first: int) -> None:
    without_findings(range(first, first + CHUNK_OF_FEW), "fenced")


@pytest.mark.parametrize("first", range(0, AMNESIA, CHUNK_OF_FEW))
def test_servers_that_forget_give_nothing_away(first: int) -> None:
    without_findings(range(first, first + CHUNK_OF_FEW), "amnesia")


def test_whoever_waits_is_served_though_servers_are_flushed() -> None:
    tally = run(range(FLUSHES), "flush")
    assert tally.counts["servers flushed"]
    assert not [seed for seed, kinds in tally.findings.items() if "a waiter starves" in kinds]


@pytest.mark.parametrize("scenario", ["skew", "jump"])
def test_clock_of_a_server_breaks_exclusion_only_until_it_is_looked_at(scenario: str) -> None:
    tally = run(range(100), scenario)
    assert tally.exclusion_broken() == []
    assert tally.counts["two held one lock, before a check of the clocks could show why"]


def test_one_seed_is_one_history_whatever_the_process() -> None:
    told = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "tests.simulation", "--digests", "--seeds", "25"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        told.add(done.stdout)
    assert len(told) == 1
    lines = told.pop().splitlines()
    assert len({line.split()[2] for line in lines}) == 25


def test_a_history_shows_no_whole_token() -> None:
    for seed in range(5):
        for line in replay(seed, "amnesia"):
            assert not any(len(word.partition("@")[0]) >= 22 for word in line.split() if "@" in word)
