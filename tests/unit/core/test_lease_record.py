"""A lease's life: every event from every state."""

from __future__ import annotations

import pytest

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState, LossReason
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import ServerVote

TTL_MS = 10_000


def lease(valid_until: float = 10.0) -> LeaseRecord:
    return LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, TTL_MS, valid_until, 0.0, 0b111, None)


class Votes:
    """A round, whose votes don't matter."""

    def votes(self, names: tuple[str, ...]) -> tuple[ServerVote, ...]:
        return ()


VOTES = Votes()


def in_state(state: LeaseState) -> LeaseRecord:
    record = lease()
    if state is LeaseState.UNKNOWN:
        record.extended(VOTES, Outcome.UNKNOWN, 1.0, 11.0, TTL_MS)
    elif state is LeaseState.LOST:
        record.extended(VOTES, Outcome.GONE, 1.0, 11.0, TTL_MS)
    elif state is LeaseState.RELEASED:
        record.begin_release(1.0)
        record.released(Outcome.DONE, None)
    assert record.state(1.0) is state
    return record


H, U, L, R = LeaseState.HELD, LeaseState.UNKNOWN, LeaseState.LOST, LeaseState.RELEASED


@pytest.mark.parametrize(
    ("outcome", "table"),
    [
        (Outcome.DONE, {H: H, U: H, L: L, R: R}),
        (Outcome.UNKNOWN, {H: U, U: U, L: L, R: R}),
        (Outcome.GONE, {H: L, U: L, L: L, R: R}),
    ],
)
def test_an_extension_moves_the_state_as_the_table_says(outcome: Outcome, table: dict[LeaseState, LeaseState]) -> None:
    for before, after in table.items():
        record = in_state(before)
        record.extended(VOTES, outcome, 2.0, 12.0, TTL_MS)
        assert record.state(2.0) is after, before


@pytest.mark.parametrize(
    ("outcome", "table"),
    [
        (Outcome.DONE, {H: R, U: R, L: L, R: R}),
        (Outcome.UNKNOWN, {H: U, U: U, L: L, R: R}),
        (Outcome.GONE, {H: L, U: L, L: L, R: R}),
    ],
)
def test_a_release_moves_the_state_as_the_table_says(outcome: Outcome, table: dict[LeaseState, LeaseState]) -> None:
    for before, after in table.items():
        record = in_state(before)
        record.begin_release(2.0)
        record.released(outcome, None)
        assert record.state(2.0) is after, before
        assert record.remaining(2.0) == 0.0, before


def test_a_lease_whose_validity_ran_out_is_lost() -> None:
    record = lease(valid_until=10.0)
    assert record.state(9.999) is H
    assert record.remaining(9.5) == 0.5
    assert record.state(10.0) is L
    assert record.remaining(10.0) == 0.0


def test_an_expired_lease_is_never_extended() -> None:
    record = lease(valid_until=10.0)
    assert record.begin_extension(10.0, 20.0, TTL_MS) is False
    assert record.state(10.0) is L
    assert record.valid_until == 10.0


def test_an_extension_decided_after_the_validity_finds_the_lease_lost() -> None:
    record = lease(valid_until=10.0)
    assert record.begin_extension(9.9, 19.9, TTL_MS)
    record.extended(VOTES, Outcome.DONE, 10.0, 19.9, TTL_MS)
    assert record.state(10.0) is L


def test_a_shorter_ttl_is_believed_before_anything_is_sent() -> None:
    record = lease(valid_until=10.0)
    assert record.begin_extension(1.0, 1.9, 1000)
    assert record.valid_until == 1.9
    record.extended(VOTES, Outcome.UNKNOWN, 1.1, 1.9, 1000)
    assert record.state(1.5) is U
    assert record.state(1.9) is L
    assert record.longest_ms == TTL_MS


def test_a_released_lease_is_not_extended() -> None:
    record = lease()
    assert record.begin_release(1.0)
    assert record.begin_extension(1.0, 11.0, TTL_MS) is False
    record.extended(VOTES, Outcome.DONE, 1.1, 11.0, TTL_MS)
    assert record.remaining(1.1) == 0.0


def test_a_release_can_be_asked_for_again_only_while_its_outcome_is_unknown() -> None:
    record = lease()
    assert record.begin_release(1.0)
    record.released(Outcome.UNKNOWN, None)
    assert record.begin_release(1.1)
    record.released(Outcome.DONE, None)
    assert record.begin_release(1.2) is False


def test_releasing_an_expired_lease_finds_it_lost() -> None:
    record = lease(valid_until=10.0)
    assert record.begin_release(10.0) is False
    assert record.state(10.0) is L


# --- aliases: records that engines of one process have for one token --------------------------------------------------


class Together:
    def __init__(self, *records: LeaseRecord) -> None:
        self.records = list(records)
        for record in records:
            record.join(lambda: self)


def aliases(number: int = 2) -> Together:
    first = lease()
    return Together(first, *(first.alias("r", 0b111) for _ in range(number - 1)))


def extend(
    record: LeaseRecord, now: float, until: float, outcome: Outcome = Outcome.DONE, decided: float = 0.0
) -> None:
    assert record.begin_extension(now, until, round(until - now) * 1000)
    record.extended(VOTES, outcome, now, until, round(until - now) * 1000)


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Outcome.DONE, R), (Outcome.GONE, L), (Outcome.UNKNOWN, U), (None, H)],
)
def test_a_release_of_one_ends_all_from_the_moment_it_is_asked_for(
    asked: int, outcome: Outcome | None, state: LeaseState
) -> None:
    together = aliases(3)
    assert together.records[asked].begin_release(2.0)
    assert [record.remaining(2.0) for record in together.records] == [0.0] * 3
    if outcome is not None:
        together.records[asked].released(outcome, None)
    assert [record.state(2.0) for record in together.records] == [state] * 3
    assert [record.begin_release(2.0) for record in together.records] == [state in (U, H)] * 3
    assert not any(record.begin_extension(2.0, 12.0, TTL_MS) for record in together.records)


@pytest.mark.parametrize(("first", "second"), [(Outcome.DONE, Outcome.GONE), (Outcome.GONE, Outcome.DONE)])
def test_what_one_release_deleted_is_not_lost_to_another(first: Outcome, second: Outcome) -> None:
    one, two = aliases().records
    one.begin_release(2.0)
    two.begin_release(2.0)
    assert one.doubts(0b001)
    one.released(first, None)
    two.released(second, None)
    assert [one.state(3.0), two.state(3.0)] == [R, R]
    assert one.over_by_release


@pytest.mark.parametrize("by", [0, 1])
def test_an_extension_by_one_is_all_the_others_believe(by: int) -> None:
    together = aliases()
    extend(together.records[by], 2.0, 52.0)
    for record in together.records:
        assert (record.state(11.0), record.remaining(11.0), record.kept_ms()) == (H, 41.0, 50_000)
    extend(together.records[1 - by], 12.0, 14.0)
    for record in together.records:
        assert (record.remaining(13.0), record.kept_ms(), record.kept_longest_ms()) == (1.0, 2000, 50_000)
        assert record.state(14.0) is L


def test_a_shorter_ttl_of_one_is_believed_by_all_before_anything_is_sent() -> None:
    one, two = aliases().records
    assert two.begin_extension(1.0, 1.9, 1000)
    assert one.remaining(1.5) == pytest.approx(0.4)
    two.extended(VOTES, Outcome.UNKNOWN, 1.1, 1.9, 1000)
    assert (one.state(1.5), one.state(1.9)) == (U, L)
    assert one.begin_extension(1.9, 12.0, TTL_MS) is False


def test_an_extension_that_finds_the_token_gone_loses_all() -> None:
    one, two = aliases().records
    extend(two, 1.0, 11.0, Outcome.GONE)
    assert (one.state(1.0), one.remaining(1.0)) == (L, 0.0)
    assert one.loss(1.0)[0] is LossReason.GONE


def test_an_unknown_extension_is_made_good_by_another_alias() -> None:
    one, two = aliases().records
    extend(two, 1.0, 11.0, Outcome.UNKNOWN)
    assert one.state(1.0) is U
    extend(one, 2.0, 12.0)
    assert [record.state(2.0) for record in (one, two)] == [H, H]
    assert two.remaining(2.0) == 10.0


def test_extensions_that_overlap_are_believed_as_if_the_shorter_came_last() -> None:
    one, two = aliases().records
    assert one.begin_extension(1.0, 4.0, 3000)
    extend(two, 2.0, 62.0)
    assert one.remaining(2.0) == two.remaining(2.0) == 3.0  # what one has sent may be executed after it
    one.extended(VOTES, Outcome.DONE, 2.5, 4.0, 3000)
    assert one.remaining(2.5) == two.remaining(2.5) == 2.5
    extend(two, 3.0, 63.0)
    assert one.remaining(3.0) == two.remaining(3.0) == 60.0


def test_an_extension_of_unknown_outcome_may_be_executed_after_that_of_another_alias() -> None:
    one, two = aliases().records
    extend(one, 1.0, 4.0, Outcome.UNKNOWN)
    extend(two, 2.0, 62.0)
    assert two.remaining(2.0) == 3.0
    extend(one, 3.0, 33.0)
    assert two.remaining(3.0) == 30.0


def test_a_late_event_of_one_thread_does_not_undo_what_another_knows() -> None:
    """An event that began before it could know of the others: each writes its own record, and none is lost."""
    one = lease()
    assert one.begin_extension(1.0, 11.0, TTL_MS)
    two = one.alias("r", 0b111)
    Together(one, two)
    two.begin_release(1.5)
    one.extended(VOTES, Outcome.DONE, 2.0, 11.0, TTL_MS)
    two.released(Outcome.DONE, None)
    assert [record.state(2.0) for record in (one, two)] == [R, R]


def test_aliases_that_nobody_keeps_leave_a_record_what_it_knows_itself() -> None:
    together = aliases()
    one = together.records[0]
    extend(one, 1.0, 21.0)
    one.join(lambda: None)
    assert (one.state(1.0), one.remaining(1.0)) == (H, 20.0)


def test_server_that_took_it_again_may_hold_it_whatever_it_answers_later() -> None:
    """Two looks overlap: the second finds the first one's vote taken already, and a round begun earlier lacks it."""
    record = LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, TTL_MS, 10.0, 0.0, 0b011, None)
    record.retake(2)
    record.retake(2)
    record.retaken(2, True)
    record.retaken(2, False)  # it holds it already
    record.looked(VOTES, Outcome.DONE, 1.0)
    assert record.may_hold() == 0b111
    assert record.surrender() == 0b111
    assert record.surrender() == 0


class Won(Votes):
    """The round that won a lease on three servers."""

    granted, answered, declined = 0b011, 0b011, 0b000


def test_the_acquisition_is_forgotten_once_all_have_answered_it_and_an_extension_says_more() -> None:
    won = Won()
    record = LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, TTL_MS, 10.0, 0.0, 0b111, won)
    record.extended(VOTES, Outcome.UNKNOWN, 1.0, 11.0, TTL_MS)
    record.extended(VOTES, Outcome.DONE, 2.0, 12.0, TTL_MS)
    assert record.acquired is won, "the third server has not answered"
    assert (record.may_hold(), record.unanswered()) == (0b111, 0b100)
    won.declined = 0b100
    assert (record.may_hold(), record.unanswered()) == (0b011, 0b100)
    record.extended(VOTES, Outcome.DONE, 3.0, 13.0, TTL_MS)
    assert record.acquired is None
    assert (record.may_hold(), record.unanswered()) == (0b011, 0)
    assert record.ballot is VOTES
