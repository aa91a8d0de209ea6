"""The checker against histories made by hand: it must pass the good ones and name what is wrong with each bad one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .checker import judge, outages
from .event_log import Event, History, Tail, end_of
from .report import Report, excerpt
from .schedule import HANDOVER, Kind
from .sections import Sections
from .waits import KILLED, Waits

RESOURCE = "r"


def event(t: float, do: str, who: str = "0.0/0", **about: object) -> Event:
    return Event(t, who, do, about)


def acquired(t: float, lease: str, until: float = 10.0, **about: object) -> Event:
    told: dict[str, Any] = {
        "lease": lease,
        "resource": RESOURCE,
        "asked": t - 0.01,
        "until": until,
        "most": until,
        "token": "beef",
    }
    return event(t, "acquired", **{**told, **about})


def releasing(t: float, lease: str, by: str = "lease") -> Event:
    return event(t, "releasing", lease=lease, by=by)


def released(t: float, lease: str, asked: float, why: str = "") -> Event:
    return event(t, "released", lease=lease, asked=asked, why=why)


def lived(lease: str, since: float, release: float, until: float = 10.0) -> list[Event]:
    """A lease that was acquired and released as it should be."""
    return [acquired(since, lease, until), releasing(release, lease), released(release + 0.01, lease, release)]


def outage(begin: float, end: float, servers: int = 3) -> list[Event]:
    return [event(begin, "unreachable", server=s) for s in range(servers)] + [
        event(end, "reachable", server=s) for s in range(servers)
    ]


def wrong(*events: Event | list[Event], resources: tuple[str, ...] = ()) -> list[str]:
    flat = [e for each in events for e in (each if isinstance(each, list) else [each])]
    return [violation.text for violation in judge(sorted(flat, key=lambda e: e.t), resources)]


def test_leases_one_after_the_other_are_no_violation() -> None:
    assert wrong(lived("a", 1, 2), lived("b", 2.001, 3), lived("c", 3.001, 4)) == []


def test_lease_acquired_within_the_validity_of_another_is_an_overlap() -> None:
    (text,) = wrong(lived("a", 1, 2), lived("b", 1.5, 3))
    assert "both valid for 500.0 ms" in text


def test_overlap_with_an_earlier_lease_than_the_last_one_is_found() -> None:
    found = wrong(lived("a", 1, 9), lived("b", 2, 3), lived("c", 4, 5))
    assert [text.split()[0] for text in found] == ["a", "a"]


def test_leases_on_different_resources_do_not_overlap() -> None:
    assert wrong(lived("a", 1, 2), acquired(1.5, "b", resource="other")) == []


def test_lease_of_a_killed_owner_counts_until_its_validity_ends() -> None:
    assert "both valid" in wrong(acquired(1, "a", until=3), lived("b", 2.9, 4))[0]
    assert wrong(acquired(1, "a", until=3), lived("b", 3.01, 4)) == []


def test_extension_moves_the_end_of_validity() -> None:
    extension = [event(2, "extending", lease="a", ttl=2.0)]
    extension += [event(2.1, "extended", lease="a", asked=2, why="", until=3.97, most=3.97)]
    assert "both valid" in wrong(acquired(1, "a", until=3), extension, lived("b", 3.5, 5))[0]


def test_extension_by_a_shorter_ttl_counts_from_the_moment_it_was_sent() -> None:
    sent = event(2, "extending", lease="a", ttl=0.5)
    assert wrong(acquired(1, "a", until=5), sent, lived("b", 2.6, 5)) == []
    assert "both valid" in wrong(acquired(1, "a", until=5), sent, lived("b", 2.4, 5))[0]


def test_extension_whose_owner_was_paused_until_it_was_over_claims_nothing_more() -> None:
    extending = event(1.1, "extending", lease="a", ttl=2.0)
    extended = event(5, "extended", lease="a", asked=1.1, why="", until=0.0, most=5.0)
    assert wrong(acquired(1, "a", until=1.4), extending, lived("b", 4, 4.5), extended) == []


def test_meeting_in_the_critical_section_is_a_violation_whatever_the_clocks_say() -> None:
    met = event(20, "met", lease="b", other="a", valid=True)
    left = event(21, "left", lease="a", valid=True)
    assert "met in the critical section" in wrong(acquired(1, "a", 2), acquired(19, "b", 30), met, left)[0]


@pytest.mark.parametrize(("met_valid", "left_valid"), [(True, False), (False, True)])
def test_meeting_somebody_whose_lease_ran_out_is_no_violation(met_valid: bool, left_valid: bool) -> None:
    met = event(20, "met", lease="b", other="a", valid=met_valid)
    left = event(21, "left", lease="a", valid=left_valid)
    assert wrong(acquired(1, "a", 2), acquired(19, "b", 30), met, left) == []


def test_mark_of_a_killed_owner_is_no_violation() -> None:
    assert wrong(acquired(1, "a", 2), lived("b", 3, 4), event(3.1, "met", lease="b", other="a", valid=True)) == []


def test_acquisition_within_an_outage_is_a_violation() -> None:
    (text,) = wrong(outage(1, 3), acquired(2, "a"))
    assert "was acquired while a majority of servers was out of reach" in text


@pytest.mark.parametrize("t", [1.005, 3.1])
def test_acquisition_that_began_before_or_ended_after_an_outage_is_allowed(t: float) -> None:
    assert wrong(outage(1, 3), acquired(t, "a")) == []


def test_acquisition_while_a_minority_is_away_is_allowed() -> None:
    assert wrong(outage(1, 3, servers=2), acquired(2, "a")) == []


def test_release_and_extension_within_an_outage_are_violations() -> None:
    texts = wrong(
        acquired(0.5, "a"),
        outage(1, 5),
        event(2, "extending", lease="a", ttl=8.0),
        event(2.1, "extended", lease="a", asked=2, why="", until=9.9, most=9.9),
        releasing(3, "a"),
        released(3.1, "a", 3),
    )
    assert [text.split()[2] for text in texts] == ["extended", "released"]


@pytest.mark.parametrize(("why", "count"), [("held", 1), ("split", 1), ("unavailable", 0), ("cancelled", 0)])
def test_outage_told_as_contention_is_a_violation(why: str, count: int) -> None:
    assert len(wrong(outage(1, 3), event(2, "refused", resource=RESOURCE, asked=1.5, why=why))) == count


def test_outage_lasts_from_the_last_to_leave_to_the_first_to_return() -> None:
    events = [event(t, "unreachable", server=s) for s, t in enumerate((1.0, 2.0, 3.0))]
    assert outages([*events, event(4.0, "reachable", server=0)]) == [(3.0, 4.0)]


def test_lease_told_to_be_lost_while_valid_is_a_violation() -> None:
    (text,) = wrong(acquired(1, "a"), releasing(2, "a"), released(2.1, "a", 2, "not_held"))
    assert "told to be lost 7.900 s before" in text
    assert wrong(acquired(1, "a", 2), releasing(2.1, "a"), released(2.2, "a", 2.1, "not_held")) == []


def test_extension_that_finds_a_valid_lease_lost_is_a_violation() -> None:
    extending = event(2, "extending", lease="a", ttl=5.0)
    extended = event(2.1, "extended", lease="a", asked=2, why="not_held", until=2.1, most=2.1)
    assert "told to be lost" in wrong(acquired(1, "a", 6), extending, extended)[0]


def test_lease_released_after_its_validity_is_a_violation() -> None:
    assert "told to be released" in wrong(lived("a", 1, 5, until=4))[0]
    by_token = [acquired(1, "a", 4), releasing(5, "a", by="token"), released(5.1, "a", 5)]
    assert wrong(by_token) == []


def test_lease_extended_after_its_validity_is_a_violation() -> None:
    extended = event(5.1, "extended", lease="a", asked=5, why="", until=6.0, most=6.0)
    assert "was extended although" in wrong(acquired(1, "a", 4), extended)[0]


def test_valid_lease_that_is_said_to_be_nobodys_is_a_violation() -> None:
    looked = event(2, "looked", lease="a", locked=False, valid=True)
    assert "held by nobody" in wrong(acquired(1, "a"), looked)[0]
    assert wrong(acquired(1, "a"), event(2, "looked", lease="a", locked=False, valid=False)) == []


def test_resource_that_nobody_acquires_in_a_calm_is_a_violation() -> None:
    calm = event(5, "calm", who="nemesis", begun=2)
    assert wrong(lived("a", 1, 1.5), lived("b", 3, 4), calm, resources=(RESOURCE,)) == []
    assert "nobody acquired r" in wrong(lived("a", 1, 1.5), calm, resources=(RESOURCE,))[0]


def test_worker_that_acquires_nothing_in_a_calm_is_a_violation() -> None:
    started = [event(0.1, "started", who=f"{slot}.0") for slot in range(2)]
    calm = event(5, "calm", who="nemesis", begun=2)
    assert wrong(started, lived("a", 3, 4), calm, resources=(RESOURCE,)) == [
        "worker 1 acquired nothing in a calm of 3.0 s"
    ]


def test_supervisor_that_has_not_recovered_in_the_end_is_a_violation() -> None:
    recovered = [event(9, "recovered", who="1.2", wrong=what) for what in ([], ["server 3 is silent"])]
    assert wrong(recovered) == ["at the end of worker 1.2 server 3 is silent"]


def waiting(t: float, who: str = "0.0/0", patience: float | None = None, resource: str = RESOURCE) -> Event:
    return event(t, "waiting", who=who, resource=resource, patience=patience)


def refused(t: float, who: str = "0.0/0", why: str = "held") -> Event:
    return event(t, "refused", who=who, resource=RESOURCE, asked=t - 0.01, why=why)


def fault(t: float, kind: Kind, target: int, lasts: float = 0.0) -> Event:
    return event(t, "fault", who="nemesis", kind=kind.value, target=target, lasts=lasts)


def calm(begun: float, t: float) -> Event:
    return event(t, "calm", who="nemesis", begun=begun)


@pytest.mark.parametrize(
    ("until", "count"),
    [
        (refused(9), 1),
        (refused(7.9), 0),
        (acquired(7.9, "a"), 0),
        (fault(7.9, Kind.SLAY, 0), 0),
        (fault(7.9, Kind.SLAY, 1), 1),
        (fault(7.9, Kind.HALT, 0), 1),
    ],
)
def test_wait_all_through_a_calm_is_a_violation(until: Event, count: int) -> None:
    found = wrong(waiting(1), calm(2, 8), until, refused(9))
    assert len([text for text in found if "waited for r all through a calm of 6.0 s" in text]) == count


def test_wait_that_begins_in_a_calm_may_outlast_it() -> None:
    assert wrong(waiting(2.5), calm(2, 6), refused(9)) == []


def test_wait_that_never_ends_is_a_violation() -> None:
    told = ["0.0/0 waited for r for 8.0 s when everybody had ended"]
    assert wrong(waiting(1), event(9, "recovered", wrong=[])) == told
    assert wrong(waiting(1), fault(2, Kind.SLAY, 0), event(9, "recovered", wrong=[])) == []


def test_wait_of_the_process_after_a_killed_one_is_its_own() -> None:
    texts = wrong(waiting(1), fault(2, Kind.SLAY, 0), waiting(3, who="0.1/0"), event(9, "recovered", wrong=[]))
    assert texts == ["0.1/0 waited for r for 6.0 s when everybody had ended"]


def test_wait_after_a_kill_that_is_heard_of_later_goes_on() -> None:
    waits = Waits()
    for each in (waiting(1), waiting(3, who="0.1/0"), fault(2, Kind.SLAY, 0)):
        waits.hear(each)
    assert [(wait.who, wait.how) for wait in waits.all] == [("0.0/0", KILLED), ("0.1/0", "")]
    assert list(waits.open) == ["0.1/0"]


def test_lock_that_is_free_for_long_in_a_calm_while_somebody_waits_is_a_violation() -> None:
    late = 1 + HANDOVER + 0.2
    served = [waiting(0.5, who="0.0/1"), acquired(late + 1, "b", until=90, who="0.0/1")]
    assert wrong(lived("a", 0.2, 1.1), served, calm(0.9, late + 2)) == [
        f"nobody held r for {late - 0.1:.1f} s in a calm, and somebody waited for it"
    ]


@pytest.mark.parametrize(
    "history",
    [
        [calm(0, 1.2), calm(1.2 + HANDOVER, 20)],  # not within a calm
        [*lived("b", 3, 4), calm(0, 20)],  # somebody else has it in between
    ],
)
def test_lock_that_is_free_for_long_outside_calms_or_with_others_between_is_allowed(history: list[Event]) -> None:
    late = 1.1 + HANDOVER + 0.1
    served = [waiting(1, who="0.0/1"), acquired(late, "c", until=90, who="0.0/1")]
    assert wrong(lived("a", 0.2, 1.1), served, history) == []


def test_lock_that_is_free_for_long_while_nobody_waits_is_allowed() -> None:
    assert wrong(lived("a", 0.2, 1.1), waiting(18), acquired(18.1, "b", until=90), calm(0, 20)) == []


def test_wait_that_does_not_end_in_time_is_a_violation() -> None:
    assert wrong(waiting(1, patience=2.0), refused(7)) == ["0.0/0 waited for r 4.0 s longer than its 2 s"]
    assert wrong(waiting(1, patience=2.0), refused(3.6)) == []
    assert wrong(waiting(1), refused(70)) == []


def test_pauses_of_a_worker_do_not_count_as_its_waiting() -> None:
    assert wrong(waiting(1, patience=2.0), fault(2, Kind.HALT, 0, 2.0), refused(7)) == []
    assert wrong(waiting(1, patience=2.0), fault(2, Kind.HALT, 1, 2.0), refused(7)) != []
    assert wrong(waiting(4, patience=2.0), fault(1, Kind.HALT, 0, 2.0), refused(9)) != []


def test_report_tells_longest_wait_and_who_was_overtaken() -> None:
    events = [
        waiting(1, who="0.0/0"),
        waiting(2, who="1.0/0"),
        *[replace(e, who="1.0/0") for e in lived("b", 3, 4)],
        *lived("a", 5, 6),
        calm(1.5, 8),
    ]
    text = "\n".join(Report(7, 20.0, events, []).figures())
    assert "2 of 2 were served, within 4.00 s; of those within calms within 1.00 s" in text
    assert "overtaken      1 times at most by who came later, 0.50 on average" in text
    assert "handover       1.50 s" in text


def test_report_of_a_bad_history_fails_and_names_seed_and_lines() -> None:
    events = [*lived("a", 1, 2), *lived("b", 1.5, 3)]
    report = Report(7, 20.0, sorted(events, key=lambda e: e.t), judge(events, ()))
    text = "\n".join([*report.figures(), *report.verdict()])
    assert not report.passed
    assert "overlaps       1" in text
    assert "--seconds 20 --seed 7" in text
    assert any("acquired" in line for line in excerpt(events, report.violations[0]))


@pytest.mark.parametrize("what", [{"keys_left": {1: ["redlock:r"]}}, {"troubles": ["worker 0.0 ended with 1"]}])
def test_report_with_keys_left_or_a_broken_worker_fails(what: dict[str, Any]) -> None:
    assert not Report(7, 20.0, lived("a", 1, 2), [], **what).passed
    assert Report(7, 20.0, lived("a", 1, 2), []).passed


def test_history_is_read_while_it_is_written_and_a_torn_line_waits(tmp_path: Path) -> None:
    history, tail = History(tmp_path / "0.0.jsonl"), Tail(tmp_path)
    history.write("0.0/1", "acquired", 3.5, lease="x")
    with (tmp_path / "0.0.jsonl").open("ab") as file:
        file.write(b'{"t": 4.0, "who": "0.0/1"')
    assert tail.new() == [Event(3.5, "0.0/1", "acquired", {"lease": "x"})]
    with (tmp_path / "0.0.jsonl").open("ab") as file:
        file.write(b', "do": "left"}\n')
    assert [e.do for e in tail.new()] == ["left"]
    history.close()


def test_token_is_shown_by_its_end_only() -> None:
    assert end_of("0123456789abcdefabc321@host:1") == "abc321"


def test_mark_tells_who_stands_in_the_section(tmp_path: Path) -> None:
    sections = Sections(tmp_path)
    assert sections.enter("r", "0.0/1#1") is None
    assert sections.enter("r", "1.0/1#1") == "0.0/1#1"
    sections.leave("r", "0.0/1#1")  # replaced by now, so it stays
    assert sections.enter("r", "2.0/1#1") == "1.0/1#1"
    sections.leave("r", "2.0/1#1")
    assert sections.enter("r", "3.0/1#1") is None
