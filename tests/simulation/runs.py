"""Many histories: their counts, their findings, and how fast they went."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .crowd import KINDS
from .lapses import KINDS as LAPSES
from .scene import Outcome, play
from .sharing import KINDS as SHARINGS
from .trial import KINDS as TRIALS
from .vigil import KINDS as VIGILS

RARE = (
    "split votes",
    "late grants after the decision",
    "half-open connections given up by the client",
    "leases expired during acquire",
    "leases run out at the edge of the drift",
    "cancelled between votes",
    "clients paused while they acquired",
    "pending releases that deleted",
    "predecessors killed (CLIENT KILL)",
    "NOSCRIPT answered",
    "extensions refused for want of memory",
    "clients died",
    "supervisors closed and started again",
)
"""What happens seldom and must have happened, or a clean run says little."""
RARE_IN_CROWDS = (
    *(f"peace, {kind}: acquisitions" for kind in KINDS),
    "split votes",
    "late grants after the decision",
    "clients died",
    "locks of clients that know of no queue",
    "predecessors killed (CLIENT KILL)",
)
"""The same where many wait for one lock."""
RARE_IN_LEASES = (
    *(f"vigil: {kind}" for kind in VIGILS),
    "told doubtful",
    "told held",
    "told lost: expired",
    "told lost: gone",
    "told lost: max_hold",
    "told as the first thing after a pause",
    "votes taken again",
    "leases robbed of their quorum",
    "leases adopted",
    "owners dropped",
    "releases while an extension was under way",
    "closed while it extended itself",
    "clients died",
    "extensions refused for want of memory",
    "NOSCRIPT answered",
)
"""The same of leases that look after themselves."""
RARE_IN_MIXED = (
    *(f"trial: {kind}" for kind in TRIALS),
    "batches",
    "trial, crossed: batches",
    "terms",
    "campaigns ended by a resignation",
    "loops over terms that were left",
    "releases by force",
    "releases by force that are unknown",
    "votes removed by force",
    "votes taken again",
    "told doubtful",
    "told lost: expired",
    "told lost: forced",
    "told lost: gone",
    "told lost: max_hold",
    "operations cancelled",
    "supervisors closed and started again",
    "clients died",
)
"""The same where all ways to lock are mixed."""
RARE_IN_SHARED = (
    *(f"sharing: {kind}" for kind in SHARINGS),
    "readers",
    "writers",
    "permits",
    "split votes",
    "votes taken again",
    "operations cancelled",
    "told doubtful",
    "told lost: expired",
    "supervisors closed and started again",
    "clients died",
    "NOSCRIPT answered",
)
"""The same of readers, writers and permits."""
RARE_IN_FENCED = (
    "fences that grow",
    "fences agreed on",
    "split votes",
    "operations cancelled",
    "supervisors closed and started again",
    "clients died",
    "NOSCRIPT answered",
)
"""The same where every lock has a fence."""
RARE_IN_AMNESIA = (
    *(f"lapses: {kind}" for kind in LAPSES),
    "lapses: tries",
    "lapses: lost, gone",
    "bare quorums",
    "servers flushed",
    "servers crashed",
    "votes taken again",
    "fences that grow",
    "split votes",
    "operations cancelled",
    "supervisors closed and started again",
    "clients died",
    "NOSCRIPT answered",
)
"""The same where servers forget."""
RARES = {
    "faults": RARE,
    "crowd": RARE_IN_CROWDS,
    "leases": RARE_IN_LEASES,
    "mixed": RARE_IN_MIXED,
    "shared": RARE_IN_SHARED,
    "fenced": RARE_IN_FENCED,
    "amnesia": RARE_IN_AMNESIA,
}
EXCLUSION = "two hold one lock"


@dataclass
class Tally:
    """What some histories came to. findings: seed -> kinds of problems"""

    histories: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[int, list[str]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Takes in another tally."""
        self.histories += other.histories
        self.seconds += other.seconds
        self.counts += other.counts
        self.findings |= other.findings

    def exclusion_broken(self) -> list[int]:
        """The seeds in whose histories two clients held one lock."""
        return sorted(seed for seed, kinds in self.findings.items() if EXCLUSION in kinds)


def run(seeds: Iterable[int], scenario: str = "faults") -> Tally:
    """Plays the histories of some seeds."""
    tally = Tally()
    with _quietly():
        begun = time.process_time()
        for seed in seeds:
            history = play(seed, scenario).history
            tally.histories += 1
            tally.counts += history.counts
            if history.problems:
                tally.findings[seed] = [problem.kind for problem in history.problems]
        tally.seconds = time.process_time() - begun
    return tally


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the engine's warnings, of which every history is full, and without searching old objects for garbage."""
    log = logging.getLogger("redlock_cluster")
    level = log.level
    log.setLevel(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # owners of leases are dropped on purpose
            yield
    finally:
        gc.unfreeze()
        log.setLevel(level)


def first_finding(seeds: Iterable[int], scenario: str = "faults") -> tuple[int, str]:
    """How many histories it took until something was wrong, and what; "" if nothing was."""
    number = 0
    for number, seed in enumerate(seeds, 1):
        problems = play(seed, scenario).history.problems
        if problems:
            return number, problems[0].kind
    return number, ""


def digests(seeds: Iterable[int], scenario: str = "faults") -> Iterator[str]:
    """A line for each seed: a hash of its whole history."""
    for seed in seeds:
        history = play(seed, scenario).history
        yield f"{seed} {len(history.events)} {history.digest()}"


def replay(seed: int, scenario: str = "faults") -> Iterator[str]:
    """The story of one seed in lines: what went wrong, or that nothing did."""
    with _quietly():
        outcome = play(seed, scenario)
    plan, history = outcome.plan, outcome.history
    yield f"seed {seed}, {plan.scenario}: {plan.servers()}, {len(plan.client_rates)} clients"
    yield f"digest {history.digest()}, {len(history.events)} events"
    if not history.problems:
        yield "nothing is wrong"
        return
    yield from _story(outcome)


def _story(outcome: Outcome) -> Iterator[str]:
    history, plan = outcome.history, outcome.plan
    first = history.problems[0]
    yield from history.excerpt(first)
    yield f"{len(history.problems)} problems, the first at {first.at * 1000:.3f} ms: {first.kind}: {first.text}"
    scenario = "" if plan.scenario == "faults" else f" --scenario {plan.scenario}"
    yield f"replay: python -m tests.simulation --seed {plan.seed}{scenario}"
