"""`python -m tests.simulation`: plays many histories, replays one, or shows that the simulation can fail."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import redlock_cluster

from .mutants import table
from .plan import BEYOND, PROMISED, SCENARIOS
from .runs import RARES, Tally, digests, first_finding, replay, run

CHUNK = 50
SHOWN = 3
SHARE = 20
"""One history in so many more is played of each scenario beyond the protocol's promises."""
OTHERS = 5
"""And one in so many more is of a crowd that waits for one lock, one of leases that look after themselves, one of all
ways to lock, one of readers, writers and permits."""


def main() -> int:
    """0 when nothing was found and everything rare happened, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay the history of one seed")
    parser.add_argument("--scenario", choices=SCENARIOS, default="faults")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--digests", action="store_true", help="print a hash of each history instead")
    parser.add_argument("--hunt", action="store_true", help="stop at the first finding; print it in one line")
    parser.add_argument("--mutations", action="store_true", help="break the engine on purpose; print who notices")
    given = parser.parse_args()
    if given.mutations:
        return _print_all(table())
    logging.getLogger("redlock_cluster").setLevel(logging.CRITICAL)
    if given.digests:
        return _print_all(digests(range(given.first, given.first + given.seeds), given.scenario))
    if given.hunt:
        return _hunt(given.first, given.seeds, given.scenario)
    if given.seed is not None:
        return _print_all(replay(given.seed, given.scenario))
    return _all(given.first, given.seeds, given.scenario, given.processes)


def _print_all(lines: Iterator[str]) -> int:
    for line in lines:
        print(line, flush=True)
    return 0


def _hunt(first: int, seeds: int, scenario: str) -> int:
    """Which package ran, how many histories it took, and what was found, with tabs between."""
    found = first_finding(range(first, first + seeds), scenario)
    print(redlock_cluster.__file__, *found, sep="\t")
    return 0


def _all(first: int, seeds: int, scenario: str, processes: int) -> int:
    """The histories of a scenario; of faults, those of the others and beyond the promises, too."""
    if scenario != "faults":
        return _many(first, seeds, scenario, processes)
    failed = [_many(first, seeds, scenario, processes)]
    for other in PROMISED[1:]:
        failed.append(_many(first, max(CHUNK, seeds // OTHERS), other, processes))
    for other in BEYOND:
        _report_beyond(other, _spread(first, max(20, seeds // SHARE), other, processes))
    return max(failed)


def _many(first: int, seeds: int, scenario: str, processes: int) -> int:
    begun = time.monotonic()
    tally = _spread(first, seeds, scenario, processes)
    took = time.monotonic() - begun
    rate = tally.histories / tally.seconds
    print(f"{tally.histories} histories ({scenario}) in {took:.0f} s, {rate:.0f} a second on one core")
    for what, number in sorted(tally.counts.items()):
        print(f"{number:9}  {what}")
    for seed in sorted(tally.findings)[:SHOWN]:
        print()
        _print_all(replay(seed, scenario))
    missing = [what for what in RARES.get(scenario, ()) if not tally.counts[what]]
    print(
        f"\n{scenario}: findings: {len(tally.findings)} histories {sorted(tally.findings)[:20]}; "
        f"never happened: {missing}"
    )
    return 1 if missing or (tally.findings and scenario not in BEYOND) else 0


def _report_beyond(scenario: str, tally: Tally) -> None:
    broken = tally.exclusion_broken()
    print(
        f"beyond the promises, {scenario}: exclusion broke in {len(broken)} of {tally.histories} histories {broken[:5]}"
    )


def _spread(first: int, seeds: int, scenario: str, processes: int) -> Tally:
    chunks = [range(start, min(start + CHUNK, first + seeds)) for start in range(first, first + seeds, CHUNK)]
    whole = Tally()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for tally in pool.map(partial(run, scenario=scenario), chunks):
            whole.add(tally)
    return whole


if __name__ == "__main__":
    sys.exit(main())
