"""Times: what a ttl may be, what drift leaves of it, and how waiting grows."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from redlock_cluster.core.timing import Interval, Timing, seconds

TIMING = Timing(drift_factor=0.01, server_timeout=0.2)


@pytest.mark.parametrize(
    ("ttl", "expected"), [(1, 1000), (0.25, 250), (1.001, 1001), (timedelta(minutes=1), 60_000), (0.29, 290)]
)
def test_a_ttl_is_sent_in_whole_milliseconds(ttl: float | timedelta, expected: int) -> None:
    assert TIMING.terms(ttl).ttl_ms == expected


@pytest.mark.parametrize(
    "ttl",
    [
        0,
        -1,
        0.0005,
        float("nan"),
        float("inf"),
        -float("inf"),
        True,
        1e300,
        10**400,
        timedelta(0),
        timedelta(-1),
        0.002,
    ],
)
def test_a_ttl_that_can_not_be_is_a_value_error(ttl: float | timedelta) -> None:
    with pytest.raises(ValueError, match="ttl"):
        TIMING.terms(ttl)


@pytest.mark.parametrize("ttl", ["1", None, [1]])
def test_a_ttl_that_is_no_duration_is_a_type_error(ttl: object) -> None:
    with pytest.raises(TypeError, match="ttl"):
        TIMING.terms(ttl)  # type: ignore[arg-type]


def test_a_ttl_that_drift_eats_up_is_refused() -> None:
    careful = Timing(drift_factor=0.9, server_timeout=0.2)
    with pytest.raises(ValueError, match="drift"):
        careful.terms(0.02)
    assert careful.terms(0.021).ttl_ms == 21


@given(st.integers(1, 10**9), st.floats(0, 0.999))
def test_validity_is_ttl_less_drift_and_two_milliseconds(ttl_ms: int, factor: float) -> None:
    timing = Timing(factor, 0.2)
    assert timing.terms_ms(ttl_ms).validity == pytest.approx(ttl_ms / 1000 * (1 - factor) - 0.002, abs=1e-6, rel=1e-9)
    assert timing.terms_ms(ttl_ms).validity < ttl_ms / 1000


@given(st.floats(0.001, 1e6), st.floats(0, 0.99))
def test_every_accepted_ttl_leaves_validity(ttl: float, factor: float) -> None:
    timing = Timing(factor, 0.2)
    try:
        ttl_ms = timing.terms(ttl).ttl_ms
    except ValueError:
        assume(False)
    assert timing.terms_ms(ttl_ms).validity > 0
    assert abs(ttl_ms / 1000 - ttl) <= 0.0005 + 1e-9


@given(st.integers(1, 10**6))
def test_a_round_waits_at_most_half_the_ttl_and_the_server_timeout(ttl_ms: int) -> None:
    patience = TIMING.patience(ttl_ms)
    assert 2 * patience <= ttl_ms / 1000
    assert patience <= TIMING.server_timeout


@pytest.mark.parametrize(("ttl_ms", "patience"), [(1, 0.0005), (100, 0.05), (399, 0.1995), (400, 0.2), (10_000, 0.2)])
def test_a_round_waits_no_less_than_it_may(ttl_ms: int, patience: float) -> None:
    assert TIMING.patience(ttl_ms) == patience


@given(st.floats(0.001, 10), st.floats(1, 100), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_intervals_stay_between_half_and_whole(base: float, ratio: float, failures: int, fraction: float) -> None:
    interval = Interval(base, base * ratio)
    whole = min(base * ratio, base * 2.0 ** min(failures, 1000))
    assert whole / 2 * 0.999 <= interval.after(failures, fraction) <= whole * 1.001


def test_intervals_double_up_to_the_maximum() -> None:
    interval = Interval(0.3, 3.0)
    assert [interval.after(n, 0.999999) for n in range(6)] == pytest.approx([0.3, 0.6, 1.2, 2.4, 3.0, 3.0], rel=1e-4)


def test_seconds_takes_numbers_and_timedeltas_only() -> None:
    assert seconds(timedelta(milliseconds=1500), "wait") == 1.5
    assert seconds(2, "wait") == 2.0
    with pytest.raises(ValueError, match="wait"):
        seconds(False, "wait")
    with pytest.raises(TypeError, match="wait"):
        seconds("2", "wait")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.5"),
        Fraction(3, 2),
        *(kind(1.5) for kind in (numpy.float16, numpy.float32, numpy.float64, numpy.longdouble)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_seconds_of_any_real_number_are_a_plain_float(value: object) -> None:
    assert seconds(value, "ttl") == 1.5
    assert type(seconds(value, "ttl")) is float


@pytest.mark.parametrize("kind", [numpy.int8, numpy.uint64, numpy.intp, Decimal, Fraction])
def test_seconds_of_any_whole_number_are_a_plain_float(kind: type) -> None:
    assert seconds(kind(7), "ttl") == 7.0
    assert type(seconds(kind(7), "ttl")) is float


@pytest.mark.parametrize(
    "value", [Decimal("NaN"), Decimal("sNaN"), Fraction(10**400), numpy.float32("nan"), numpy.float64("nan")], ids=repr
)
def test_a_number_of_another_type_that_is_none_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="ttl is"):
        seconds(value, "ttl")


@pytest.mark.parametrize(
    "value",
    [numpy.bool_(True), numpy.timedelta64(5, "ms"), numpy.array(1.0), numpy.complex128(1), numpy.str_("1"), 1j],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_size_in_seconds_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        seconds(value, "ttl")
