"""What time it is on a server: the clock filter of NTP (RFC 5905, section 10), cut down to two samples.

A server read its clock at some moment between the asking and the answering. Taken for the midpoint, that is wrong by
half the round trip at most. So of two samples the one with the smaller round trip is better; but clocks drift, so an
old one gives way. And two samples that can't both be true show a clock that was set: there the newer one counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ClockSample", "better", "time_in"]

FRESH: Final = 10.0
"""Seconds after which the newer sample is taken in any case: with usual clocks (50 ppm) they drift half a millisecond
apart meanwhile, about as much as a sample may be wrong. Two checks of an unused connection are within that time."""

_MOST_DIGITS: Final = 12  # 30,000 years; more may be no float


@dataclass(frozen=True, slots=True)
class ClockSample:
    """One look at a server's clock.

    offset: seconds to add to our clock to get the server's
    error: by how many seconds that may be wrong, either way
    taken_at: when the answer came, on our clock
    """

    offset: float
    error: float
    taken_at: float

    @classmethod
    def of(cls, asked: float, answered: float, seconds: float) -> ClockSample:
        """From a server's time, asked for and answered at these times of our clock."""
        return cls(seconds - (asked + answered) / 2, (answered - asked) / 2, answered)


def better(older: ClockSample | None, newer: ClockSample) -> ClockSample:
    """Which one to believe from now on."""
    if older is None or newer.error <= older.error or newer.taken_at - older.taken_at > FRESH:
        return newer
    return older if abs(newer.offset - older.offset) <= newer.error + older.error else newer


def time_in(reply: object) -> float | None:
    """The seconds since 1970 in a reply to `TIME`; None if it is no time."""
    match reply:
        case [bytes() as whole, bytes() as micro] if whole.isdigit() and micro.isdigit():
            if len(whole) <= _MOST_DIGITS and len(micro) <= 6:
                return int(whole) + int(micro) / 1_000_000
    return None
