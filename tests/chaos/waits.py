"""Who waits for which lock, since when and how it ended, as the histories tell it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .event_log import Event, slot_of
from .schedule import Kind

__all__ = ["KILLED", "Wait", "Waits", "overtaken", "waits_of"]

KILLED: Final = "killed"
_OPEN: Final = float("inf")


@dataclass(eq=False)
class Wait:
    """One call that acquires a lock.

    who: its actor, who does one thing at a time
    since: when it was made
    patience: seconds that it waits at most, None for ever; what the retry policy gives counts as None, too
    end: when it returned or its process was killed, infinite before
    how: "" when it acquired; else why it was refused, or that it was killed
    """

    who: str
    resource: str
    since: float
    patience: float | None
    end: float = _OPEN
    how: str = ""

    @property
    def acquired(self) -> bool:
        """Whether it got the lock."""
        return self.end < _OPEN and not self.how


class Waits:
    """Follows a history.

    all: every one, in the order in which they began
    open: those that have not ended, by who waits
    """

    def __init__(self) -> None:
        self.all: list[Wait] = []
        self.open: dict[str, Wait] = {}

    def hear(self, event: Event) -> None:
        """What happened next; events of one process come in its order."""
        if event.do == "waiting":
            wait = Wait(event.who, event["resource"], event.t, event["patience"])
            self.all.append(wait)
            self.open[event.who] = wait
        elif event.do == "acquired":
            self._end(event.who, event.t, "")
        elif event.do == "refused":
            self._end(event.who, event.t, event["why"])
        elif event.do == "fault" and event["kind"] == Kind.SLAY.value:
            slot = str(event["target"])
            for who in [who for who, wait in self.open.items() if slot_of(who) == slot and wait.since < event.t]:
                self._end(who, event.t, KILLED)

    def _end(self, who: str, t: float, how: str) -> None:
        wait = self.open.pop(who, None)
        if wait is not None:
            wait.end, wait.how = t, how


def waits_of(events: Iterable[Event]) -> list[Wait]:
    """Every wait of a history."""
    waits = Waits()
    for event in events:
        waits.hear(event)
    return waits.all


def overtaken(waits: Iterable[Wait]) -> list[int]:
    """Of each that acquired: how many acquired the same lock before it that had come later."""
    served: dict[str, list[Wait]] = {}
    for wait in sorted((wait for wait in waits if wait.acquired), key=lambda wait: wait.end):
        served.setdefault(wait.resource, []).append(wait)
    return [
        sum(earlier.since > wait.since for earlier in of_one[:place])
        for of_one in served.values()
        for place, wait in enumerate(of_one)
    ]
