"""What time it is on a server: which replies say so, how sure that is, and which of two samples is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.server_clock import FRESH, ClockSample, better, time_in


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ([b"1700000000", b"250000"], 1_700_000_000.25),
        ([b"0", b"0"], 0.0),
        ([b"1700000000", b"000001"], 1_700_000_000.000001),
    ],
)
def test_reply_to_time_is_read(reply: object, expected: float) -> None:
    assert time_in(reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        None,
        True,
        b"OK",
        b"17",
        ErrorReply("NOPERM this user has no permissions to run the 'time' command"),
        [],
        [b"1700000000"],
        [b"1700000000", b"1", b"1"],
        [1700000000, 1],
        [b"1700000000", b""],
        [b"-1", b"1"],
        [b"1e9", b"1"],
        ["1700000000", "1"],
        [b"\xb2", b"1"],
        [b"1700000000", b"1000000"],
        [b"9" * 5000, b"1"],
        {b"1700000000": b"1"},
    ],
)
def test_reply_that_is_no_time_is_none(reply: object) -> None:
    assert time_in(reply) is None


@given(
    offset=st.integers(-(10**9), 10**9),
    there=st.integers(0, 4_000),
    back=st.integers(0, 4_000),
)
def test_true_offset_is_within_the_error_however_long_each_way_takes(offset: int, there: int, back: int) -> None:
    asked = 1000.0
    sample = ClockSample.of(asked, asked + there + back, asked + there + offset)
    assert abs(sample.offset - offset) <= sample.error == (there + back) / 2


def test_smaller_round_trip_is_believed_whichever_came_first() -> None:
    exact, rough = ClockSample(5.0, 0.001, 10.0), ClockSample(5.01, 0.02, 11.0)
    assert better(None, rough) is rough
    assert better(exact, rough) is exact
    assert better(ClockSample(5.01, 0.02, 9.0), exact) is exact


def test_old_sample_gives_way_to_a_rougher_one() -> None:
    exact = ClockSample(5.0, 0.001, 10.0)
    assert better(exact, ClockSample(5.01, 0.02, 10 + FRESH)) is exact
    late = ClockSample(5.01, 0.02, 10.001 + FRESH)
    assert better(exact, late) is late


@pytest.mark.parametrize("jump", [-1, 1])
def test_newer_sample_counts_where_the_clock_was_set(jump: int) -> None:
    exact = ClockSample(5.0, 0.001, 10.0)
    within, beyond = ClockSample(5 + jump * 0.0209, 0.02, 11.0), ClockSample(5 + jump * 0.0211, 0.02, 11.0)
    assert better(exact, within) is exact
    assert better(exact, beyond) is beyond
