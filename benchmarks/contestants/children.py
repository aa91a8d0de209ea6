"""Processes that a contestant forks: they connect, start together, and answer. And what they share while they run."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

__all__ = ["Board", "Children", "Work"]

CONNECT = 60.0
"""Seconds in which all must have connected."""

Figures = dict[str, Any]
Work = Callable[[int, Callable[[], None]], Figures]
"""What a child does: gets its number and a function that waits for the start; returns its answer."""


class Children:
    """Forked processes. Use with `with`, which at its end kills those that still run.

    count: how many
    work: what each does
    seconds: after this time a child ends itself, in case its parent was killed
    """

    def __init__(self, count: int, work: Work, seconds: float) -> None:
        self._lined_up, lined_up = os.pipe()
        start, self._start = os.pipe()
        self._pids: list[int] = []
        self._answers: list[int] = []
        for number in range(count):
            answer, reply = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(self._lined_up)
                os.close(self._start)
                signal.alarm(int(seconds) + 1)
                _child(number, work, (lined_up, start), reply)
            os.close(reply)
            self._pids.append(pid)
            self._answers.append(answer)
        os.close(lined_up)
        os.close(start)

    def line_up(self) -> None:
        """Returns when all have connected. Raises RuntimeError with what a child says when it could not."""
        deadline = time.monotonic() + CONNECT
        missing = len(self._pids)
        while missing:
            if not select.select([self._lined_up], [], [], max(deadline - time.monotonic(), 0.0))[0]:
                raise RuntimeError(f"{missing} processes could not connect within {CONNECT:.0f} s")
            if not (arrived := os.read(self._lined_up, missing)):
                self.answers(1.0)  # raises with the reason
                raise RuntimeError("a process ended before it had connected")
            missing -= len(arrived)

    def start(self) -> None:
        """Lets all begin at once."""
        os.close(self._start)
        self._start = -1

    def answers(self, seconds: float) -> list[Figures | None]:
        """What each has answered within that time; None from those that still run then.

        Raises RuntimeError with what a child says when it failed.
        """
        deadline = time.monotonic() + seconds
        texts: dict[int, bytes] = dict.fromkeys(self._answers, b"")
        waiting = set(self._answers)
        while waiting:
            found = select.select(list(waiting), [], [], max(deadline - time.monotonic(), 0.0))[0]
            if not found:
                break
            for answer in found:
                part = os.read(answer, 1 << 16)
                texts[answer] += part
                if not part:
                    waiting.discard(answer)
        answers: list[Figures | None] = []
        for number, answer in enumerate(self._answers):
            if answer not in waiting and not texts[answer]:
                raise RuntimeError(f"process {number} ended without an answer")
            answers.append(None if answer in waiting else json.loads(texts[answer]))
        for found_answer in answers:
            if found_answer and "error" in found_answer:
                raise RuntimeError(found_answer["error"])
        return answers

    def all_answers(self, seconds: float) -> list[Figures]:
        """The same; raises RuntimeError when one has not answered."""
        answers = self.answers(seconds)
        finished = [answer for answer in answers if answer is not None]
        if len(finished) != len(answers):
            raise RuntimeError(f"{len(answers) - len(finished)} processes had not finished after {seconds:.0f} s")
        return finished

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for descriptor in (self._lined_up, self._start, *self._answers):
            if descriptor >= 0:
                os.close(descriptor)


def _child(number: int, work: Work, pipes: tuple[int, int], reply: int) -> None:
    """Never returns."""
    connected, start = pipes

    def line_up() -> None:
        os.write(connected, b".")
        os.close(connected)
        os.read(start, 1)

    try:
        answer = work(number, line_up)
    except BaseException as error:  # noqa: BLE001 - the bench shows whatever stops a library
        answer = {"error": f"process {number}: {type(error).__name__}: {error}"[:300]}
    text = json.dumps(answer).encode()
    while text:
        text = text[os.write(reply, text) :]
    os._exit(0)


class Board:
    """Numbers that processes share. Only one of them writes a place."""

    def __init__(self, places: int) -> None:
        self._places = memoryview(mmap.mmap(-1, places * 8)).cast("d")

    def __getitem__(self, place: int) -> float:
        return self._places[place]

    def __setitem__(self, place: int, value: float) -> None:
        self._places[place] = value

    def part(self, begin: int, end: int) -> list[float]:
        """Several places."""
        return self._places[begin:end].tolist()

    async def until(
        self, true: Callable[[Board], bool], sleep: Callable[[float], Awaitable[None]], step: float, patience: float
    ) -> None:
        """Looks every `step` seconds until it is true. Raises TimeoutError after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not true(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not come within {patience:.0f} s")
            await sleep(step)
