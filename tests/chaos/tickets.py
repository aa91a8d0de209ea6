"""Tickets on their way from one process to another: a file for each, in one folder.

A file appears with all that is in it, and goes to whoever renames it first. So it is adopted once, by a process that
may be killed before it has done so.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final, NamedTuple

from .event_log import clock

__all__ = ["Given", "Tickets"]

_READY: Final = ".ticket"
_TAKEN: Final = ".taken"


class Given(NamedTuple):
    """A ticket.

    lease, resource: what it is for
    due: when it has arrived, engine time
    """

    lease: str
    resource: str
    ticket: str
    due: float


class Tickets:
    """The tickets, in one folder for all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, given: Given) -> None:
        """Leaves it there for anybody."""
        name = given.lease.replace("/", "-")
        written = self._folder / name
        written.write_text(json.dumps(given), encoding="utf-8")
        written.rename(self._folder / (name + _READY))

    def on_their_way(self, slot: int) -> bool:
        """Whether any is here that a process in this place gave."""
        return any(self._folder.glob(f"{slot}.*{_READY}"))

    def take(self) -> Given | None:
        """One that has arrived and that nobody has taken."""
        for path in self._folder.glob("*" + _READY):
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                given = Given(*json.loads(path.read_text(encoding="utf-8")))
                if given.due <= clock():
                    path.rename(path.with_suffix(_TAKEN)).unlink()
                    return given
        return None
