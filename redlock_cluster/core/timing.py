"""How long things last: the ttl, the drift margin, the validity, the intervals between attempts.

Source: redis.io, "Distributed Locks with Redis"; validity = ttl - elapsed - drift. Durations are seconds in the API
and in every function here, except where a name ends in `_ms`: the wire counts whole milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from math import ceil
from numbers import Integral, Real
from operator import index
from typing import SupportsFloat

__all__ = ["MAX_TTL_MS", "Interval", "Seconds", "Terms", "Timing", "as_float", "seconds"]

Seconds = SupportsFloat | timedelta
"""A duration argument: seconds as any real number (also `Decimal`, `Fraction`, numpy's), or a timedelta."""

MAX_TTL_MS = 100 * 366 * 24 * 3600 * 1000  # a century; servers refuse what overflows their clock
_GRAIN = 0.002  # servers expire keys with a grain of 1 ms, Redis since 7.4 one early, and clocks read with another


def seconds(value: object, name: str) -> float:
    """A duration argument as float seconds; may be zero, negative or infinite.

    Raises TypeError for what is not a number or timedelta, ValueError for a bool or NaN.
    """
    if isinstance(value, bool):
        raise ValueError(f"{name} is a number of seconds or a timedelta, not a bool")
    if isinstance(value, (int, float)):
        try:
            duration = value if type(value) is float else float(value)
        except OverflowError:
            raise ValueError(f"{name} is beyond all measure") from None
        if duration != duration:  # noqa: PLR0124  math.isnan takes as long as all the rest
            raise ValueError(f"{name} is not a number")
        return duration
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        number = as_float(value)
    except TypeError:
        raise TypeError(f"{name} is a number of seconds or a timedelta, not {type(value).__name__}") from None
    except OverflowError:
        raise ValueError(f"{name} is beyond all measure") from None
    except ValueError:
        raise ValueError(f"{name} is not a number") from None
    return seconds(number, name)


def as_float(value: object) -> float:
    """Any real number as a float.

    Raises TypeError for what is none, OverflowError for one that no float can hold, ValueError for a signalling NaN.
    """
    if isinstance(value, bool):
        raise TypeError("a bool is no number")
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Integral):
        return float(index(value))  # refuses numpy's timedelta64, which counts as an integer and has a unit
    if isinstance(value, (Real, Decimal)):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no number")


@dataclass(frozen=True, slots=True)
class Interval:
    """Waiting times that grow: random in [d/2, d], d = min(max, base * 2^n), so that contenders spread out.

    base, maximum: seconds, 0 < base <= maximum
    """

    base: float
    maximum: float

    def after(self, failures: int, fraction: float) -> float:
        """Seconds to wait after a number of failures (0 for the first); fraction: random, in [0, 1)."""
        longest = min(self.maximum, self.base * 2.0 ** min(failures, 64))
        return longest * (0.5 + fraction / 2)

    def longest_total(self, failures: int) -> float:
        """Seconds that the waits after so many failures take together at most."""
        total, pause = 0.0, self.base
        for left in range(failures, 0, -1):
            if pause >= self.maximum:
                return total + left * self.maximum
            total, pause = total + pause, 2 * pause
        return total


class Terms:
    """What a ttl means for a round.

    ttl_ms: milliseconds on the wire
    validity: seconds that the lease may be believed, counted from before the first byte
    patience: seconds that the round waits for votes
    """

    __slots__ = ("patience", "ttl_ms", "validity")

    def __init__(self, ttl_ms: int, validity: float, patience: float) -> None:
        self.ttl_ms, self.validity, self.patience = ttl_ms, validity, patience


class Timing:
    """The times of one deployment's rounds.

    drift_factor: share of the ttl that clocks may drift apart, in [0, 1)
    server_timeout: seconds that a round waits for a vote
    max_ttl: seconds that a ttl is at most
    """

    __slots__ = ("_last", "drift_factor", "max_ttl", "server_timeout")

    def __init__(self, drift_factor: float, server_timeout: float, max_ttl: float = MAX_TTL_MS / 1000) -> None:
        self.drift_factor, self.server_timeout, self.max_ttl = drift_factor, server_timeout, max_ttl
        self._last = self._terms_ms(0)  # mostly the next ones are the same, and rounds keep theirs

    def terms(self, ttl: Seconds) -> Terms:
        """The terms of a ttl.

        Raises TypeError for what is no duration and ValueError for one that is no number, below 1 ms, over `max_ttl`,
        or so short that the drift margin leaves no validity.
        """
        ttl = seconds(ttl, "ttl")
        if not 0.001 <= ttl <= self.max_ttl:
            raise ValueError(f"ttl must be between 1 ms and max_ttl, which is {self.max_ttl:g} s, not {ttl:g} s")
        terms = self.terms_ms(round(ttl * 1000))
        if terms.validity <= 0:
            drift = terms.ttl_ms / 1000 - terms.validity
            raise ValueError(f"a ttl of {ttl:g} s leaves no validity: drift takes {drift:g} s")
        return terms

    def terms_ms(self, ttl_ms: int) -> Terms:
        """The terms of a ttl that was checked before, in milliseconds."""
        last = self._last
        if last.ttl_ms != ttl_ms:
            last = self._last = self._terms_ms(ttl_ms)
        return last

    def _terms_ms(self, ttl_ms: int) -> Terms:
        ttl = ttl_ms / 1000
        return Terms(ttl_ms, ttl - ttl * self.drift_factor - _GRAIN, self.patience(ttl_ms))

    def ttl_ms_for(self, validity: float) -> int:
        """The ttl in milliseconds that gives so many seconds of validity, which are less than a ttl's."""
        return ceil((validity + _GRAIN) / (1 - self.drift_factor) * 1000)

    def patience(self, ttl_ms: int) -> float:
        """Seconds that a round waits for votes: the server timeout, at most half the ttl."""
        half = ttl_ms / 2000
        return half if half < self.server_timeout else self.server_timeout
