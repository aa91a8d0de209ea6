"""`Ok` and `Err`: a refusal is returned and not raised, as in the Elixir library `redlock`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, NoReturn, TypeVar, final

from redlock_cluster.errors import Contended, LeaseLost, NotHeld, RedlockError, WaitCancelled

__all__ = [
    "Err",
    "Lost",
    "Ok",
    "Refused",
    "Unavailable",
    "extended",
    "forced",
    "lost",
    "refused",
    "released",
    "value_of",
]

V = TypeVar("V")


@final
@dataclass(frozen=True, init=False)
class Ok(Generic[V]):
    """Success; true. Matches as `case Ok(value)`.

    value: what was asked for
    """

    __slots__ = ("value",)  # with slots=True, Ok[int](3) fails in Python 3.11

    value: V

    def __init__(self, value: V) -> None:
        _set_value(self, value)

    def __bool__(self) -> Literal[True]:
        return True

    def __reduce__(self) -> tuple[object, ...]:
        return Ok, (self.value,)


_set_value = Ok.__dict__["value"].__set__  # a frozen dataclass would need twice as long


@final
@dataclass(frozen=True)
class Err(Generic[V]):
    """Refusal; false. Matches as `case Err("lock_failure")` and compares by its reason.

    reason: a short word that a program can act on: "lock_failure", "unavailable", "cancelled" or "not_held"
    error: the exception that says more (every server's vote); not compared
    """

    reason: V
    error: RedlockError | None = field(default=None, compare=False, kw_only=True)

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def value(self) -> NoReturn:
        """There is none: raises the error, so that `lock(...).value` says why there is no lock."""
        raise self.error or RedlockError(str(self.reason))


Refused = Err[Literal["lock_failure", "unavailable", "cancelled"]]
"""Why there is no lock."""

Lost = Err[Literal["not_held", "unavailable"]]
"""Why a lock was not released or extended."""


Unavailable = Err[Literal["unavailable"]]
"""Too few servers answered."""


def refused(error: RedlockError) -> Refused:
    """Return the result of a failed acquisition."""
    if isinstance(error, WaitCancelled):
        return Err("cancelled", error=error)
    return Err("lock_failure" if isinstance(error, Contended) else "unavailable", error=error)


def lost(error: RedlockError) -> Lost:
    """Return the result of a failed release or extension."""
    return Err("not_held" if isinstance(error, (LeaseLost, NotHeld)) else "unavailable", error=error)


_RELEASED: Ok[None] = Ok(None)


def released(error: RedlockError | None) -> Ok[None] | Lost:
    """Return the result of a release.

    error: why it failed; None: it did not
    """
    return _RELEASED if error is None else lost(error)


def forced(outcome: V | RedlockError) -> Ok[V] | Unavailable:
    """Return the result of a release by force: what it removed, or why that is unknown."""
    return Err("unavailable", error=outcome) if isinstance(outcome, RedlockError) else Ok(outcome)


def extended(lease: V, outcome: object) -> Ok[V] | Lost:
    """Return the result of an extension.

    lease: what was extended
    outcome: an error, or anything else for success
    """
    return lost(outcome) if isinstance(outcome, RedlockError) else Ok(lease)


def value_of(outcome: Ok[V] | Refused | Lost | Unavailable) -> V:
    """Return the value of a supervisor's result. Raises the error of a refusal."""
    return outcome.value
