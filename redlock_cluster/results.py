"""`Ok` and `Err`: the results of functions that refuse without raising, as in the Elixir library `redlock`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, final

if TYPE_CHECKING:
    from redlock_cluster.errors import RedlockError

__all__ = ["Err", "Ok"]

V = TypeVar("V")


@final
@dataclass(frozen=True, slots=True)
class Ok(Generic[V]):
    """Success, with its value; true. Matches as `case Ok(value)`."""

    value: V

    def __bool__(self) -> Literal[True]:
        return True


@final
@dataclass(frozen=True, slots=True)
class Err(Generic[V]):
    """Refusal; false. Matches as `case Err("lock_failure")` and compares by its reason.

    reason: a short word a program can act on
    error: the exception that says more (every server's vote); not compared
    """

    reason: V
    error: RedlockError | None = field(default=None, compare=False, kw_only=True)

    def __bool__(self) -> Literal[False]:
        return False
