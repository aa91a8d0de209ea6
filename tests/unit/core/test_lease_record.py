"""A lease's life: every event from every state."""

from __future__ import annotations

import pytest

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import ServerVote

TTL_MS = 10_000


def lease(valid_until: float = 10.0) -> LeaseRecord:
    return LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, TTL_MS, valid_until, 0b111, None, None)


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
