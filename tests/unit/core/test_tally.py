"""Votes: whatever they are and in whatever order they come, a round ends with the truth and as early as it can."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.tally import AcquisitionTally, ComparisonTally, InspectionTally, Outcome, Standing, quorum_of
from redlock_cluster.core.votes import Vote

NAMES_HOLDER = Dialect(set_nx_get=True, set_ifeq=False, compare_and_delete=None)

A, B = b"a" * 22 + b"@one:1", b"b" * 22 + b"@two:2"
UNNAMED = ErrorReply("WRONGTYPE Operation against a key holding the wrong kind of value")
ABSENT = "absent"
SIZES = st.sampled_from([1, 3, 5, 7])


@st.composite
def ballots(draw: st.DrawFn) -> tuple[int, list[tuple[int, object]]]:
    """A group's size, and every server's reply in the order of arrival; None is a grant."""
    size = draw(SIZES)
    replies = draw(st.lists(st.sampled_from([None, A, B, UNNAMED, ABSENT]), min_size=size, max_size=size))
    order = draw(st.permutations(range(size)))
    return size, [(index, replies[index]) for index in order]


def cast(votes: AcquisitionTally, index: int, reply: object, dialect: Dialect = NAMES_HOLDER) -> Standing | None:
    return votes.miss(index, "away") if reply is ABSENT else votes.count(index, EXCLUSIVE.acquired(dialect, reply))


def truth(size: int, replies: list[object]) -> Standing:
    """What all the votes together mean, straight from the rules."""
    quorum = quorum_of(size)
    if replies.count(None) >= quorum:
        return Standing.WON
    if replies.count(ABSENT) > size - quorum:
        return Standing.UNAVAILABLE
    holders = Counter(id(r) if r is UNNAMED else r for r in replies if r is not None and r is not ABSENT)
    return Standing.HELD if holders and max(holders.values()) >= quorum else Standing.SPLIT


@given(ballots())
def test_every_complete_round_ends_with_the_truth(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes = InspectionTally(size)
    for index, reply in cast_votes:
        cast(votes, index, reply)
    assert votes.standing is truth(size, [reply for _, reply in cast_votes])


@given(ballots())
def test_an_early_verdict_is_the_final_one(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes, final = InspectionTally(size), truth(size, [reply for _, reply in cast_votes])
    for index, reply in cast_votes:
        cast(votes, index, reply)
        assert votes.standing in (Standing.OPEN, Standing.BEATEN, final)
        if votes.standing is Standing.BEATEN:
            assert final is not Standing.WON


@given(ballots())
def test_an_acquisition_may_call_held_split_but_never_an_outage_or_a_win(
    ballot: tuple[int, list[tuple[int, object]]],
) -> None:
    size, cast_votes = ballot
    votes, final = AcquisitionTally(size), truth(size, [reply for _, reply in cast_votes])
    for index, reply in cast_votes:
        cast(votes, index, reply)
        assert votes.standing in (Standing.OPEN, Standing.BEATEN, final) or (votes.standing, final) == (
            Standing.SPLIT,
            Standing.HELD,
        )
    assert votes.has_verdict


@given(ballots())
def test_a_verdict_is_never_waited_for_once_nothing_can_change_it(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes = AcquisitionTally(size)
    for seen, (index, reply) in enumerate(cast_votes, 1):
        cast(votes, index, reply)
        known, left = [r for _, r in cast_votes[:seen]], size - seen
        fates = {truth(size, [*known, *fate]) for fate in ([r] * left for r in (None, A, B, UNNAMED, ABSENT))}
        mixed = {truth(size, [*known, *([A] * i + [ABSENT] * (left - i))]) for i in range(left + 1)}
        if not votes.has_verdict:
            assert len(fates | mixed) > 1 or left > 0
        if Standing.WON not in fates:
            assert votes.standing is not Standing.OPEN


@given(ballots())
def test_each_new_standing_is_returned_once(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes = AcquisitionTally(size)
    turns = [turn for index, reply in cast_votes if (turn := cast(votes, index, reply)) is not None]
    assert turns in ([votes.standing], [Standing.BEATEN, votes.standing])
    assert not any(cast(votes, index, reply) for index, reply in cast_votes)


@pytest.mark.parametrize(
    ("replies", "standing"),
    [
        ([A, A, ABSENT], Standing.BEATEN),  # two more absences would make an outage of it
        ([A, A, ABSENT, ABSENT, ABSENT], Standing.UNAVAILABLE),
        ([A, A, A], Standing.HELD),
        ([A, B, A], Standing.SPLIT),  # the others may name one holder, which is contention all the same
        ([A, B, None], Standing.OPEN),
        ([A, B, None, B], Standing.SPLIT),
        ([UNNAMED, UNNAMED, UNNAMED], Standing.HELD),
        ([None, None], Standing.OPEN),
        ([None, None, None], Standing.WON),
        ([ABSENT, ABSENT, ABSENT], Standing.UNAVAILABLE),
    ],
)
def test_five_servers(replies: list[object], standing: Standing) -> None:
    votes = AcquisitionTally(5)
    for index, reply in enumerate(replies):
        cast(votes, index, reply)
    assert votes.standing is standing


def test_an_inspection_waits_for_what_may_name_one_holder() -> None:
    votes = InspectionTally(5)
    for index, reply in enumerate([A, B, A, B]):
        cast(votes, index, reply)
        assert not votes.has_verdict
    cast(votes, 4, A)
    assert votes.standing is Standing.HELD


def test_an_outage_is_never_told_as_contention_when_two_refuse_and_three_are_gone() -> None:
    votes = AcquisitionTally(5)
    assert [cast(votes, i, r) for i, r in enumerate([A, A, ABSENT])] == [None, None, Standing.BEATEN]
    cast(votes, 3, ABSENT)
    cast(votes, 4, ABSENT)
    assert votes.standing is Standing.UNAVAILABLE


@pytest.mark.parametrize(
    "reply", [0, 1, True, False, 1.5, [], {}, "OK", ErrorReply("OOM command not allowed"), ErrorReply("")]
)
def test_what_is_no_grant_never_counts_for(reply: object) -> None:
    for dialect in (NAMES_HOLDER, SCRIPTED):
        votes = AcquisitionTally(1)
        cast(votes, 0, reply, dialect)
        assert votes.standing is Standing.UNAVAILABLE


def test_without_names_ok_grants_and_nil_refuses() -> None:
    votes = AcquisitionTally(1)
    cast(votes, 0, b"OK", SCRIPTED)
    assert votes.standing is Standing.WON
    votes = AcquisitionTally(1)
    cast(votes, 0, None, SCRIPTED)
    assert votes.standing is Standing.HELD


def test_a_holder_whose_token_is_ok_is_still_a_holder() -> None:
    votes = AcquisitionTally(1)
    cast(votes, 0, b"OK")
    assert votes.standing is Standing.HELD


def test_a_late_grant_adds_to_the_granted_without_changing_the_verdict() -> None:
    votes = AcquisitionTally(3)
    cast(votes, 0, None)
    cast(votes, 1, None)
    assert cast(votes, 2, None) is None
    assert votes.granted == 0b111
    votes = AcquisitionTally(3)
    votes.miss(0, "late")
    votes.miss(1, "late")
    assert votes.standing is Standing.UNAVAILABLE
    cast(votes, 0, None)
    cast(votes, 1, None)
    cast(votes, 2, None)
    assert votes.standing is Standing.UNAVAILABLE


def test_a_quorum_that_forms_after_the_give_back_does_not_win() -> None:
    votes = AcquisitionTally(5)
    votes.miss(0, "late")
    cast(votes, 1, A)
    assert cast(votes, 2, B) is Standing.BEATEN
    standings = [cast(votes, index, None) for index in (0, 3, 4)]
    assert Standing.WON not in standings
    assert votes.standing is Standing.UNAVAILABLE


def test_votes_name_servers_and_hide_tokens() -> None:
    votes = AcquisitionTally(3)
    cast(votes, 0, A)
    cast(votes, 1, b"some-uuid-of-another-library")
    votes.miss(2, "no answer in time")
    told = votes.votes(("s1:1", "s2:2", "s3:3"))
    assert [v.vote for v in told] == [Vote.AGAINST, Vote.AGAINST, Vote.ABSENT]
    text = " ".join(map(str, told))
    assert "one:1" in text
    assert "no answer in time" in text
    assert "aaaa" not in text
    assert "uuid" not in text


# --- comparisons -------------------------------------------------------------------------------------------------

DELETED, NOT_THERE = 1, 0


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[int, list[tuple[int, object]]]:
    size = draw(SIZES)
    replies = draw(st.lists(st.sampled_from([DELETED, NOT_THERE, UNNAMED, ABSENT]), min_size=size, max_size=size))
    order = draw(st.permutations(range(size)))
    return size, [(index, replies[index]) for index in order]


def compare(votes: ComparisonTally, index: int, reply: object) -> Outcome | None:
    return votes.miss(index, "away") if reply is ABSENT else votes.count(index, EXCLUSIVE.released(reply))


def outcome_of(size: int, replies: list[object]) -> Outcome:
    quorum = quorum_of(size)
    if replies.count(DELETED) >= quorum:
        return Outcome.DONE
    gone = sum(r in (NOT_THERE, UNNAMED) for r in replies)
    return Outcome.GONE if gone > size - quorum else Outcome.UNKNOWN


@given(comparisons())
def test_every_complete_comparison_ends_with_the_truth(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes, final = ComparisonTally(size), outcome_of(size, [reply for _, reply in cast_votes])
    turns = 0
    for index, reply in cast_votes:
        turns += compare(votes, index, reply) is not None
        assert votes.outcome in (None, final)
    assert votes.outcome is final
    assert turns == 1


@pytest.mark.parametrize(("reply", "outcome"), [(b"OK", Outcome.DONE), (None, Outcome.GONE), (True, Outcome.UNKNOWN)])
def test_native_extension_replies(reply: object, outcome: Outcome) -> None:
    votes = ComparisonTally(1)
    votes.count(0, EXCLUSIVE.extended(reply))
    assert votes.outcome is outcome
