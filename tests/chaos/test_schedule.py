"""The schedule of faults: the same for a seed, every kind in it, and no more damage at once than it may do."""

from __future__ import annotations

import itertools

import pytest

from .schedule import AWAY, HEALED, MAX_TTL, SERVER_KINDS, SERVERS, WORKERS, Fault, Kind, make_plan
from .worker import SLOTS

SEEDS = range(200)
LENGTHS = (20.0, 60.0)
PLANS = [(seed, seconds) for seed in SEEDS for seconds in LENGTHS]


def on_servers(faults: tuple[Fault, ...]) -> list[Fault]:
    return [fault for fault in faults if fault.kind in SERVER_KINDS]


def test_seed_gives_the_same_plan_again() -> None:
    assert make_plan(5, 60.0) == make_plan(5, 60.0)
    assert make_plan(5, 60.0) != make_plan(6, 60.0)


def test_every_kind_of_fault_occurs_within_twenty_seconds() -> None:
    for seed, seconds in PLANS:
        kinds = {fault.kind for each in make_plan(seed, seconds).rounds for fault in each.storm}
        assert kinds == set(Kind), seed


def test_both_kinds_of_servers_take_part() -> None:
    assert {sum(make_plan(seed, 20.0).keeps) for seed in SEEDS} == {2, 3}


def test_storm_damages_a_minority_at_once_and_each_server_once_at_a_time() -> None:
    for seed, seconds in PLANS:
        for each in make_plan(seed, seconds).rounds:
            faults = on_servers(each.storm)
            for one in faults:
                together = [f for f in faults if f.at <= one.at < f.at + f.lasts or f is one]
                assert len(together) <= SERVERS // 2
                assert len({f.target for f in together}) == len(together)


def test_outage_leaves_no_quorum() -> None:
    for seed, seconds in PLANS:
        for each in make_plan(seed, seconds).rounds:
            begin = max(fault.at for fault in each.outage)
            end = min(fault.at + fault.lasts for fault in each.outage)
            assert len({fault.target for fault in each.outage}) > SERVERS // 2
            assert end - begin > 0.5


def test_last_storm_leads_into_a_calm_long_enough_for_leases_to_heal() -> None:
    for seed, seconds in PLANS:
        *earlier, last = make_plan(seed, seconds).rounds
        assert last.outage_first and last.calm > HEALED
        assert not earlier[-1].outage_first
        assert all(each.calm < HEALED for each in earlier)


def test_server_that_forgets_stays_away_for_longer_than_the_greatest_ttl() -> None:
    assert AWAY < 0.1 < MAX_TTL
    for seed, seconds in PLANS:
        plan = make_plan(seed, seconds)
        for fault in itertools.chain.from_iterable((*each.storm, *each.outage) for each in plan.rounds):
            if fault.kind in (Kind.KILL, Kind.RESTART) and not plan.keeps[fault.target]:
                assert fault.lasts >= AWAY


def test_targets_exist() -> None:
    assert len(SLOTS) == WORKERS
    for seed, seconds in PLANS:
        for each in make_plan(seed, seconds).rounds:
            for fault in each.storm:
                limit = SERVERS if fault.kind in SERVER_KINDS else 0 if fault.kind is Kind.LAG else WORKERS
                assert -1 <= fault.target < limit


@pytest.mark.parametrize("seconds", [1.0, 10.0, 20.0, 60.0])
def test_plan_takes_about_the_seconds_asked_for(seconds: float) -> None:
    rounds = make_plan(3, seconds).rounds
    storms = [max(fault.at + fault.lasts for fault in each.storm) for each in rounds]
    outages = [max(fault.at + fault.lasts for fault in each.outage) for each in rounds]
    assert sum(storms) + sum(outages) + sum(each.calm for each in rounds) <= max(seconds, 6.0)


def test_some_workers_end_as_they_are_told_and_the_others_are_killed() -> None:
    slain = [make_plan(seed, 20.0).slain for seed in SEEDS]
    assert all(len(set(some)) == 2 for some in slain)
    assert {slot for some in slain for slot in some} == set(range(WORKERS))
