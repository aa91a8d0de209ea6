"""Votes: whatever they are and in whatever order they come, a round ends with the truth and as early as it can."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redlock_cluster.core.dialect import ErrorReply
from redlock_cluster.core.tally import AcquireRound, CompareRound, Outcome, quorum_of
from redlock_cluster.core.votes import Verdict, Vote

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


def cast(votes: AcquireRound, index: int, reply: object) -> bool:
    return votes.miss(index, "away") if reply is ABSENT else votes.count(index, reply, names_holder=True)


def truth(size: int, replies: list[object]) -> Verdict:
    """What all the votes together mean, straight from the rules."""
    quorum = quorum_of(size)
    if replies.count(None) >= quorum:
        return Verdict.WON
    if replies.count(ABSENT) > size - quorum:
        return Verdict.UNAVAILABLE
    holders = Counter(id(r) if r is UNNAMED else r for r in replies if r is not None and r is not ABSENT)
    return Verdict.HELD if holders and max(holders.values()) >= quorum else Verdict.SPLIT


@given(ballots())
def test_every_complete_round_ends_with_the_truth(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes = AcquireRound(size, patient=True)
    for index, reply in cast_votes:
        cast(votes, index, reply)
    assert votes.verdict is truth(size, [reply for _, reply in cast_votes])


@given(ballots())
def test_an_early_verdict_is_the_final_one(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes, final = AcquireRound(size, patient=True), truth(size, [reply for _, reply in cast_votes])
    for index, reply in cast_votes:
        cast(votes, index, reply)
        assert votes.verdict in (None, final)
        if votes.hopeless:
            assert final is not Verdict.WON


@given(ballots())
def test_an_impatient_round_may_call_held_split_but_never_an_outage_or_a_win(
    ballot: tuple[int, list[tuple[int, object]]],
) -> None:
    size, cast_votes = ballot
    votes, final = AcquireRound(size), truth(size, [reply for _, reply in cast_votes])
    for index, reply in cast_votes:
        cast(votes, index, reply)
        assert votes.verdict in (None, final) or (votes.verdict, final) == (Verdict.SPLIT, Verdict.HELD)
    assert votes.verdict is not None


@given(ballots())
def test_a_verdict_is_never_waited_for_once_nothing_can_change_it(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes = AcquireRound(size)
    for seen, (index, reply) in enumerate(cast_votes, 1):
        cast(votes, index, reply)
        known, left = [r for _, r in cast_votes[:seen]], size - seen
        fates = {truth(size, [*known, *fate]) for fate in ([r] * left for r in (None, A, B, UNNAMED, ABSENT))}
        mixed = {truth(size, [*known, *([A] * i + [ABSENT] * (left - i))]) for i in range(left + 1)}
        if votes.verdict is None:
            assert len(fates | mixed) > 1 or left > 0
        if Verdict.WON not in fates:
            assert votes.hopeless


@given(ballots())
def test_turning_points_are_told_once(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes = AcquireRound(size)
    turns = [cast(votes, index, reply) for index, reply in cast_votes]
    assert 1 <= sum(turns) <= 2
    assert not any(cast(votes, index, reply) for index, reply in cast_votes)


@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        ([A, A, ABSENT], None),  # two more absences would make an outage of it
        ([A, A, ABSENT, ABSENT, ABSENT], Verdict.UNAVAILABLE),
        ([A, A, A], Verdict.HELD),
        ([A, B, A], Verdict.SPLIT),  # the others may name one holder, which is contention all the same
        ([A, B, None], None),
        ([A, B, None, B], Verdict.SPLIT),
        ([UNNAMED, UNNAMED, UNNAMED], Verdict.HELD),
        ([None, None], None),
        ([None, None, None], Verdict.WON),
        ([ABSENT, ABSENT, ABSENT], Verdict.UNAVAILABLE),
    ],
)
def test_five_servers(replies: list[object], verdict: Verdict | None) -> None:
    votes = AcquireRound(5)
    for index, reply in enumerate(replies):
        cast(votes, index, reply)
    assert votes.verdict is verdict


def test_a_patient_round_waits_for_what_may_name_one_holder() -> None:
    votes = AcquireRound(5, patient=True)
    for index, reply in enumerate([A, B, A, B]):
        cast(votes, index, reply)
        assert votes.verdict is None
    cast(votes, 4, A)
    assert votes.verdict is Verdict.HELD


def test_an_outage_is_never_told_as_contention_when_two_refuse_and_three_are_gone() -> None:
    votes = AcquireRound(5)
    assert [cast(votes, i, r) for i, r in enumerate([A, A, ABSENT])] == [False, False, True]
    assert votes.hopeless
    assert votes.verdict is None
    cast(votes, 3, ABSENT)
    cast(votes, 4, ABSENT)
    assert votes.verdict is Verdict.UNAVAILABLE


@pytest.mark.parametrize(
    "reply", [0, 1, True, False, 1.5, [], {}, "OK", ErrorReply("OOM command not allowed"), ErrorReply("")]
)
def test_what_is_no_grant_never_counts_for(reply: object) -> None:
    for names_holder in (True, False):
        votes = AcquireRound(1)
        votes.count(0, reply, names_holder)
        assert votes.verdict is Verdict.UNAVAILABLE


def test_without_names_ok_grants_and_nil_refuses() -> None:
    votes = AcquireRound(1)
    votes.count(0, b"OK", names_holder=False)
    assert votes.verdict is Verdict.WON
    votes = AcquireRound(1)
    votes.count(0, None, names_holder=False)
    assert votes.verdict is Verdict.HELD


def test_a_holder_whose_token_is_ok_is_still_a_holder() -> None:
    votes = AcquireRound(1)
    votes.count(0, b"OK", names_holder=True)
    assert votes.verdict is Verdict.HELD


def test_a_late_grant_adds_to_the_granted_without_changing_the_verdict() -> None:
    votes = AcquireRound(3)
    votes.count(0, None, True)
    votes.count(1, None, True)
    assert votes.count(2, None, True) is False
    assert votes.granted == 0b111
    votes = AcquireRound(3)
    votes.miss(0, "late")
    votes.miss(1, "late")
    assert votes.verdict is Verdict.UNAVAILABLE
    votes.count(0, None, True)
    votes.count(1, None, True)
    votes.count(2, None, True)
    assert votes.verdict is Verdict.UNAVAILABLE


def test_votes_name_servers_and_hide_tokens() -> None:
    votes = AcquireRound(3)
    votes.count(0, A, True)
    votes.count(1, b"some-uuid-of-another-library", True)
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


def compare(votes: CompareRound, index: int, reply: object) -> bool:
    return votes.miss(index, "away") if reply is ABSENT else votes.count(index, reply)


def outcome_of(size: int, replies: list[object]) -> Outcome:
    quorum = quorum_of(size)
    if replies.count(DELETED) >= quorum:
        return Outcome.DONE
    gone = sum(r in (NOT_THERE, UNNAMED) for r in replies)
    return Outcome.GONE if gone > size - quorum else Outcome.UNKNOWN


@given(comparisons())
def test_every_complete_comparison_ends_with_the_truth(ballot: tuple[int, list[tuple[int, object]]]) -> None:
    size, cast_votes = ballot
    votes, final = CompareRound(size), outcome_of(size, [reply for _, reply in cast_votes])
    turns = 0
    for index, reply in cast_votes:
        turns += compare(votes, index, reply)
        assert votes.outcome in (None, final)
    assert votes.outcome is final
    assert turns == 1


@pytest.mark.parametrize(("reply", "outcome"), [(b"OK", Outcome.DONE), (None, Outcome.GONE), (True, Outcome.UNKNOWN)])
def test_native_extension_replies(reply: object, outcome: Outcome) -> None:
    votes = CompareRound(1)
    votes.count(0, reply)
    assert votes.outcome is outcome


def test_a_zero_after_a_lost_reply_is_absent() -> None:
    votes = CompareRound(1)
    votes.count(0, 0, doubtful=True)
    assert votes.outcome is Outcome.UNKNOWN
