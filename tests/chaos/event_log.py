"""What happened, as who did it wrote it down: one line of JSON an event, written before its author acts on it.

Every event has `t` (seconds of the engine's clock, one for all processes of a machine), `who` and `do`. A worker's
author is `slot.incarnation/actor`. Of tokens only the end of the random part is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redlock_cluster.wire.ports import system_clock

__all__ = ["Event", "History", "Tail", "clock", "end_of", "merged", "slot_of"]

_RANDOM_DIGITS: Final = 22
_SHOWN: Final = 6

clock = system_clock()


def end_of(token: str) -> str:
    """The end of a token's random part, enough to tell tokens apart and too little to use one."""
    return token[:_RANDOM_DIGITS][-_SHOWN:]


def slot_of(who: str) -> str:
    """The place of the worker that somebody belongs to."""
    return who.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Event:
    """One line. about: the fields beside `t`, `who` and `do`."""

    t: float
    who: str
    do: str
    about: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.about[name]

    @classmethod
    def parse(cls, line: bytes) -> Event:
        """The event of a whole line."""
        fields = json.loads(line)
        return cls(fields.pop("t"), fields.pop("who"), fields.pop("do"), fields)


class History:
    """The file of one process, for all its threads: each event is one write, so a SIGKILL leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, who: str, do: str, t: float | None = None, **about: object) -> float:
        """Writes an event of now (or of `t`) and returns its time."""
        t = clock() if t is None else t
        os.write(self._file, json.dumps({"t": t, "who": who, "do": do, **about}).encode() + b"\n")
        return t

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)


class Tail:
    """Reads what was added to the histories of a folder since the last time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new(self) -> list[Event]:
        """The new events, of each file in its order."""
        events = []
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            events += [Event.parse(line) for line in whole.splitlines()]
        return events


def merged(folder: Path) -> list[Event]:
    """All events of a folder by time; those of one process stay in its order."""
    return sorted(Tail(folder).new(), key=lambda event: event.t)
