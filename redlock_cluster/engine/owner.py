"""A weak reference to whoever has a lease, which knows who sees to that.

So one call-back serves all of them: one for each lease would take as much memory as the reference. This module is not
compiled, as a subclass of a built-in type has no slots then.
"""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import ref

__all__ = ["Owner"]

W = TypeVar("W")


class Owner(ref[object], Generic[W]):
    """Refers to an owner of a lease.

    watch: who sees to the lease
    """

    __slots__ = ("watch",)

    watch: W
