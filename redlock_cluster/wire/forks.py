"""Noticing that this process is a fork: connections and leases of before belong to the parent."""

from __future__ import annotations

import os

__all__ = ["Generation"]


class Generation:
    """How many forks lie behind this process, counted from its first ancestor that imported this module."""

    number = 0


def _count() -> None:
    Generation.number += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)
