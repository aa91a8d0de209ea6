"""The checker against histories, made by hand, of leases that look after themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .checker import lateness, leases_of
from .event_log import Event, clock
from .report import Report
from .schedule import HEALED, SERVERS, Kind
from .test_checker import RESOURCE, acquired, calm, event, fault, lived, outage, released, releasing, wrong
from .tickets import Given, Tickets

VALIDITY = 0.9


def kept(t: float, lease: str = "0.0/0#1", until: float | None = None, **about: object) -> Event:
    """The acquisition of a lease that extends itself."""
    told: dict[str, Any] = {"validity": VALIDITY, "extends": True, "max_hold": None, "hears": True, "after": ""}
    return acquired(t, lease, t + VALIDITY if until is None else until, **{**told, **about})


def sampled(t: float, left: float = VALIDITY, lease: str = "0.0/0#1", on: int = SERVERS) -> Event:
    """A look at a lease; left: seconds of validity."""
    until = t + left if left else 0.0
    return event(t, "sampled", lease=lease, resource=RESOURCE, until=until, most=t + left, on=on)


def lost(t: float, lease: str = "0.0/0#1", reason: str = "expired", ago: float = 0.0) -> Event:
    return event(t, "lost", lease=lease, reason=reason, ago=ago)


def dropped(t: float, left: float) -> Event:
    return event(t, "dropped", lease="0.0/0#1", until=t + left)


def detached(t: float, why: str = "") -> list[Event]:
    lease = "0.0/0#1"
    return [event(t - 0.01, "detaching", lease=lease), event(t, "detached", lease=lease, why=why)]


def phase(t: float, name: str) -> Event:
    return event(t, "phase", who="nemesis", name=name)


LAST = event(30, "recovered", wrong=[])


# --- exclusion -----------------------------------------------------------------------------------------------------


def test_lease_that_extends_itself_counts_until_what_it_believed_last() -> None:
    history = [kept(1), sampled(1.5), sampled(2.5)]
    (text,) = wrong(history, lived("b", 3.3, 3.5))
    assert "both valid for 100.0 ms" in text
    assert wrong(history, lived("b", 3.41, 3.5)) == []


@pytest.mark.parametrize("end", [dropped(2.6, 0.8), detached(2.6), [releasing(2.6, "0.0/0#1")]])
def test_lease_counts_until_it_was_forgotten_given_away_or_released(end: Any) -> None:
    history = [kept(1), sampled(1.5), sampled(2.5)]
    assert wrong(history, end, lived("b", 2.61, 3.5)) == []
    assert "both valid" in wrong(history, end, lived("b", 2.58, 3.5))[0]


def test_cancelled_body_of_a_valid_lease_is_a_violation() -> None:
    cancelled = event(1.5, "cancelled", lease="0.0/0#1")
    assert "was told to be lost 0.400 s before" in wrong(kept(1), cancelled)[0]
    assert wrong(kept(1), sampled(1.95, 0.0), lost(1.95), event(1.96, "cancelled", lease="0.0/0#1")) == []


# --- loss ----------------------------------------------------------------------------------------------------------


def test_loss_told_at_the_end_of_validity_is_no_violation() -> None:
    assert wrong(kept(1), sampled(1.5), lost(2.45), sampled(2.5, 0.0), LAST) == []


def test_loss_told_twice_is_a_violation() -> None:
    assert "lost twice" in wrong(kept(1), lost(1.95), lost(1.96), sampled(2.0, 0.0))[0]


def test_loss_told_while_the_lease_is_valid_is_a_violation() -> None:
    assert "was told to be lost 0.300 s before" in wrong(kept(1), lost(1.6), sampled(1.95, 0.0))[0]
    assert "was told to be lost 0.600 s before" in wrong(kept(1), lost(1.8), sampled(1.5))[0]


@pytest.mark.parametrize("told", [1.4, 3.0])
@pytest.mark.parametrize(("why", "count"), [("", 1), ("unavailable", 1), ("not_held", 0), ("stuck", 0)])
def test_loss_told_after_a_release_is_a_violation(told: float, why: str, count: int) -> None:
    history = [kept(1, until=1.3), releasing(1.35, "0.0/0#1", by="token"), released(1.38, "0.0/0#1", 1.35, why)]
    found = [text for text in wrong(history, lost(told)) if "although it was released" in text]
    assert len(found) == count


def test_loss_told_after_a_hand_over_is_a_violation() -> None:
    assert "although it was given away" in wrong(kept(1), detached(1.8), lost(1.95))[0]
    assert wrong(kept(1), detached(1.92, "not_held"), lost(1.91)) == []


@pytest.mark.parametrize(("left", "count"), [(0.5, 1), (0.0, 0), (0.05, 0)])
def test_loss_told_of_a_lease_that_was_forgotten_in_time_is_a_violation(left: float, count: int) -> None:
    found = wrong(kept(1, until=1.5), dropped(1.5, left), lost(1.51 + left))
    assert len([text for text in found if "although it was forgotten" in text]) == count


def test_loss_for_want_of_a_quorum_is_a_violation() -> None:
    assert "which no quorum can be" in wrong(kept(1), sampled(1.9, 0.0), lost(1.95, reason="gone"))[0]


def test_loss_told_late_is_a_violation() -> None:
    assert "was told to be lost 1.2 s after its end" in wrong(kept(1), sampled(2.0, 0.0), lost(3.2))[0]
    assert wrong(kept(1), sampled(2.0, 0.0), lost(2.9)) == []
    assert "was told to be lost 1.2 s after its end" in wrong(kept(1), sampled(3.3, 0.0), lost(3.2, ago=1.2))[0]


def test_loss_that_is_never_told_is_a_violation() -> None:
    assert "was not told to be lost 28.0 s after its end" in wrong(kept(1), sampled(2.0, 0.0), LAST)[0]
    assert "nobody was told" in wrong(kept(1), sampled(2.0, 0.0), event(2.9, "untold", lease="0.0/0#1"))[0]


@pytest.mark.parametrize(
    "end",
    [
        [fault(2.5, Kind.SLAY, 0)],
        [releasing(2.5, "0.0/0#1"), released(2.6, "0.0/0#1", 2.5, "not_held")],
        [dropped(2.5, 0.0)],
        detached(2.5, "not_held"),
    ],
)
def test_owner_that_has_ended_need_not_be_told(end: list[Event]) -> None:
    assert wrong(kept(1), sampled(2.0, 0.0), end, LAST) == []


def test_killed_process_of_others_excuses_nobody() -> None:
    assert wrong(kept(1), sampled(2.0, 0.0), fault(2.5, Kind.SLAY, 1), LAST) != []
    assert wrong(fault(0.5, Kind.SLAY, 0), kept(1), sampled(2.0, 0.0), LAST) != []


def test_who_asked_for_no_news_gets_none() -> None:
    assert wrong(kept(1, hears=False), sampled(2.0, 0.0), LAST) == []


@pytest.mark.parametrize(("told", "count"), [(4.4, 0), (4.6, 1)])
def test_pause_of_the_process_excuses_a_loss_told_late(told: float, count: int) -> None:
    assert len(wrong(kept(1), fault(1.5, Kind.HALT, 0, 2.0), sampled(2.0, 0.0), lost(told))) == count
    assert len(wrong(kept(1), fault(1.5, Kind.HALT, 1, 2.0), sampled(2.0, 0.0), lost(told))) == 1


@pytest.mark.parametrize(("told", "count"), [(4.8, 0), (5.1, 1)])
def test_lease_is_lost_by_its_validity_after_a_majority_is_away(told: float, count: int) -> None:
    found = wrong(kept(1), sampled(2.5), outage(3, 6), lost(told))
    assert [text.split(" (")[0] for text in found] == ["0.0/0#1"] * count


@pytest.mark.parametrize(("told", "count"), [(5.9, 0), (6.1, 1)])
def test_lease_is_lost_when_its_process_was_paused_for_longer_than_its_validity(told: float, count: int) -> None:
    found = wrong(kept(1), sampled(2.5), fault(3, Kind.HALT, 0, 2.0), lost(told))
    assert [text.split(" (")[0] for text in found] == ["0.0/0#1"] * count


@pytest.mark.parametrize("away", [outage(3, 3.8), [fault(3, Kind.HALT, 0, 0.8)], outage(3, 5, servers=2)])
def test_lease_whose_validity_outlasts_an_outage_or_a_pause_may_live_on(away: list[Event]) -> None:
    assert wrong(kept(1), sampled(2.5), away, sampled(5.2), sampled(9.0), releasing(9.1, "0.0/0#1")) == []


@pytest.mark.parametrize("away", [outage(3, 5), [fault(3, Kind.HALT, 0, 2.0)]])
@pytest.mark.parametrize("hears", [True, False])
def test_lease_that_lives_on_after_a_longer_outage_or_pause_is_a_violation(away: list[Event], hears: bool) -> None:
    history = [kept(1, hears=hears), away, sampled(5.2), releasing(5.3, "0.0/0#1")]
    assert [text for text in wrong(*history) if "was valid 2.200 s longer than it can have been" in text]
    mine = [kept(1, hears=hears), sampled(2.5, 1.2), away, releasing(4, "0.0/0#1")]
    assert wrong(*mine) == []


def test_lease_that_is_not_extended_is_told_lost_at_its_end() -> None:
    assert "was told to be lost 1.1 s after its end" in wrong(kept(1, extends=False), lost(3.0))[0]
    assert wrong(kept(1, extends=False), lost(1.95), LAST) == []


def test_lease_that_lives_longer_than_max_hold_is_a_violation() -> None:
    history = [kept(1, max_hold=1.0), sampled(1.5, 0.4)]
    assert wrong(history, lost(2.05, reason="max_hold"), LAST) == []
    assert "was valid 0.100 s longer" in wrong(history, sampled(1.8, 0.3), lost(2.15, reason="max_hold"))[0]


def test_loss_by_max_hold_told_late_is_a_violation() -> None:
    assert "was told to be lost 1.5 s after its end" in wrong(kept(1, max_hold=1.0), lost(3.5, reason="max_hold"))[0]
    assert "was not told" in wrong(kept(1, max_hold=1.0), sampled(1.2, 0.5), LAST)[0]


def test_loss_told_before_the_caller_knew_of_its_lease_counts() -> None:
    assert wrong(lost(2.0), kept(2.1, until=0.0), sampled(2.2, 0.0), LAST) == []
    assert "lost twice" in wrong(lost(2.0), kept(2.1, until=0.0), lost(2.15), LAST)[0]


def test_loss_told_to_a_process_that_is_killed_before_it_knows_its_lease_is_no_violation() -> None:
    assert wrong(lost(2.0), LAST) == []


# --- hand-over -----------------------------------------------------------------------------------------------------


def adopted(t: float, lease: str = "1.0/0#1", why: str = "", asked: float | None = None) -> list[Event]:
    asked = t - 0.05 if asked is None else asked
    answer = [event(asked, "adopting", lease="0.0/0#1"), event(t, "adopted", lease="0.0/0#1", asked=asked, why=why)]
    return answer if why else [*answer, kept(t + 0.001, lease, after="0.0/0#1", asked=asked)]


def test_lease_that_was_handed_over_is_no_overlap() -> None:
    assert wrong(kept(1), detached(1.5), adopted(1.7), sampled(2.0, lease="1.0/0#1"), lived("b", 2.95, 3)) == []


def test_lease_of_others_within_a_hand_over_is_a_violation() -> None:
    (text,) = wrong(kept(1), detached(1.5), lived("b", 1.55, 1.6), adopted(1.7))
    assert "0.0/0#1 on its way to 1.0/0#1 (…beef) and b (…beef) were both valid" in text


def test_lease_of_others_is_allowed_after_the_adopter_was_held_up_until_it_was_over() -> None:
    late = [*adopted(1.7)[:2], kept(4.0, "1.0/0#1", until=0.0, after="0.0/0#1", asked=1.65)]
    assert (
        wrong(kept(1), detached(1.5), late, lived("b", 3.0, 3.5), sampled(4.0, 0.0, "1.0/0#1"), lost(4, "1.0/0#1"))
        == []
    )


def test_lease_of_others_is_allowed_when_nobody_adopted_it() -> None:
    assert wrong(kept(1), detached(1.5), lived("b", 1.95, 2), adopted(3, why="not_held")) == []


def test_ticket_of_a_valid_lease_that_is_said_to_be_over_is_a_violation() -> None:
    assert "was told to be lost 0.200 s before" in wrong(kept(1), detached(1.5), adopted(1.7, why="not_held"))[0]
    assert wrong(kept(1), detached(1.5), adopted(1.7, why="unavailable")) == []


def test_hand_over_that_finds_a_valid_lease_lost_is_a_violation() -> None:
    assert "was told to be lost" in wrong(kept(1), detached(1.5, "not_held"))[0]


def test_adoption_within_an_outage_is_a_violation() -> None:
    texts = wrong(kept(1), detached(1.5), outage(1.55, 2.4), adopted(1.7), releasing(1.8, "1.0/0#1"))
    assert any("was acquired while a majority" in text for text in texts)


def test_ticket_goes_once_to_somebody_when_it_has_arrived(tmp_path: Path) -> None:
    one, other = Tickets(tmp_path), Tickets(tmp_path)
    given = [Given("0.0/0#1", "r", "redlock-lease-1", clock()), Given("0.0/0#2", "s", "later", clock() + 600)]
    for each in given:
        one.put(each)
    assert [other.take(), one.take(), other.take()] == [given[0], None, None]
    assert (one.on_their_way(0), one.on_their_way(1)) == (True, False)


# --- healing and progress ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "at", "on", "count"),
    [
        (1.0, 5.0 + HEALED, 4, 1),
        (1.0, 5.0 + HEALED, SERVERS, 0),
        (1.0, 4.8 + HEALED, 3, 0),  # something was damaged just before
        (4.0 + HEALED, 5.0 + HEALED, 3, 0),  # it has just been acquired
    ],
)
def test_lease_that_is_not_on_every_server_although_all_are_well_is_a_violation(
    since: float, at: float, on: int, count: int
) -> None:
    history = [phase(0, "outage"), phase(0.5, "storm"), phase(4.9, "calm"), kept(since), sampled(at, on=on)]
    found = wrong(history, releasing(at + 0.1, "0.0/0#1"))
    assert len([text for text in found if f"was on {on} servers" in text]) == count


def test_lease_need_not_be_on_every_server_while_faults_last() -> None:
    history = [phase(0, "calm"), phase(4.0, "storm"), kept(1), sampled(9, on=3), releasing(9.1, "0.0/0#1")]
    assert wrong(history) == []


@pytest.mark.parametrize(("count", "violations"), [(3, 0), (4, 1)])
@pytest.mark.parametrize(
    ("well", "extends", "reason"),
    [(True, True, "expired"), (False, True, "expired"), (True, False, "expired"), (True, True, "max_hold")],
)
def test_leases_that_expire_although_nothing_is_damaged_are_a_violation(
    count: int, violations: int, well: bool, extends: bool, reason: str
) -> None:
    history = [phase(0, "storm"), phase(1, "calm") if well else phase(3, "calm")]
    for number in range(count):
        name, t = f"0.0/0#{number}", 2.5 + number / 10
        history += [kept(t - VALIDITY, name, extends=extends, resource=name), lost(t, name, reason)]
    found = [text for text in wrong(history) if "expired although nothing was damaged" in text]
    assert len(found) == (violations if well and extends and reason == "expired" else 0)


def test_resource_that_is_seen_to_be_held_in_a_calm_needs_no_acquisition() -> None:
    assert wrong(kept(1), sampled(3), calm(2, 5), releasing(3.5, "0.0/0#1"), resources=(RESOURCE,)) == []
    over = wrong(kept(1), lost(2.0), sampled(3, 0.0), calm(2, 5), resources=(RESOURCE,))
    assert over == ["nobody acquired r in a calm of 3.0 s"]


# --- figures -------------------------------------------------------------------------------------------------------


def test_report_tells_what_became_of_leases_that_look_after_themselves() -> None:
    history = [phase(0, "calm"), kept(1), sampled(5), *detached(5.5), fault(5.6, Kind.SLAY, 0), *adopted(5.7)]
    history += [sampled(6.0, 0.0, "1.0/0#1"), lost(6.05, "1.0/0#1")]
    text = "\n".join(Report(7, 20.0, sorted(history, key=lambda e: e.t), []).figures())
    assert "kept           2 leases extended themselves, for 4.49 s at most" in text
    assert "losses         expired 1; told within 0.050 s" in text
    assert "given away     1, 1 by processes that were killed meanwhile; adoptions: ok 1" in text
    assert "healed         on all servers in 1 of 1 looks" in text


def test_lateness_counts_from_the_earliest_moment_that_the_lease_was_surely_over() -> None:
    history = [kept(1, max_hold=1.0), sampled(1.8, 0.0), lost(2.5, reason="max_hold")]
    leases, _ = leases_of(history)
    assert leases["0.0/0#1"].told == [(2.5, 2.5)]
    ((lease, late, t),) = lateness(history, leases.values())
    assert (lease.name, round(late, 3), t) == ("0.0/0#1", 0.7, 2.5)
