"""When what all connections have to send is written."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

__all__ = ["HEAD_START", "Outbox"]

HEAD_START: Final = 100
"""Rounds of a turn after which servers are given something to do; fewer would cost more in writes than it is worth."""


class _Sender(Protocol):
    """Who has something to write."""

    def flush(self) -> None:
        """Writes it."""


class Outbox:
    """Collects what all connections have to send and writes it at the end of the loop's turn.

    A caller that is alone gains nothing from that and would wait a turn: after a turn in which one round was sent, the
    next turn's first round is written at once, and only what joins it in that turn is collected. And in a turn with
    many rounds servers would wait for the last of them: there the first HEAD_START (for each lane) are written at
    once, and then whenever their number has doubled.
    """

    __slots__ = ("_due", "_loop", "_rounds", "_scheduled", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[_Sender] = []
        self._rounds, self._due, self._scheduled = 0, HEAD_START, False

    def add(self, sender: _Sender) -> None:
        """This one has something to send."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)
        self._waiting.append(sender)

    def end_round(self) -> None:
        """A round's commands have all been queued."""
        self._rounds += 1
        due = self._due
        if self._rounds >= due and (due == 1 or self._rounds >= due * len(self._waiting)):
            self._due = max(2 * due, HEAD_START)
            self.flush()

    def _end_turn(self) -> None:
        self._due = 1 if self._rounds == 1 else HEAD_START
        self._scheduled, self._rounds = False, 0
        if self._waiting:
            self.flush()

    def flush(self) -> None:
        """Writes everything now: servers begin with it while more is made."""
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
            sender.flush()
