"""What every store asks of its arguments."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_FENCE", "check_fence", "check_resource"]

MAX_FENCE: Final = 2**53 - 1
"""The greatest fence: up to here a double is exact, which is what Lua and JSON have for numbers."""


def check_fence(fence: object) -> None:
    """Raises TypeError for anything but an int, ValueError for one outside of 1 to MAX_FENCE."""
    if not isinstance(fence, int) or isinstance(fence, bool):
        raise TypeError(f"a fence is an int, not {type(fence).__name__}")
    if not 1 <= fence <= MAX_FENCE:
        raise ValueError(f"a fence is at least 1 and less than 2**53, not {fence}")


def check_resource(resource: object) -> None:
    """Raises TypeError for anything but a str, ValueError for an empty one.

    Bytes are refused, because a store would take "x" and b"x" for two resources, each with fences of its own.
    """
    if not isinstance(resource, str):
        raise TypeError(f"a resource is a str here, not {type(resource).__name__}")
    if not resource:
        raise ValueError("a resource must not be empty")
