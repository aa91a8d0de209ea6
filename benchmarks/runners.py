"""A contestant's process, as the bench sees it; the other end is `contestants/harness.py`."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import IO, Any, Self

__all__ = ["Failed", "Figures", "Runner"]

Figures = dict[str, Any]

_START = 60.0
_SLACK = 60.0
"""Seconds to import a library, and seconds by which a measurement may be longer than it was asked to be."""


class Failed(Exception):
    """A contestant gave no figures; says why."""


class Runner:
    """One contestant's process. Use with `with`.

    command: what runs it
    variables: its environment

    Raises Failed when the library can't be imported.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=tempfile.gettempdir(),
            env=variables,
        )
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.hello = self._next(_START)
        except Failed:
            self.close()
            raise

    def measure(self, request: Figures, during: Callable[[], AbstractContextManager[object]] = nullcontext) -> Figures:
        """Measures once; returns the figures.

        request: what to measure: `op`, `seconds` and what the operation needs
        during: entered when the contestant is warm, left when it has measured

        Raises Failed; then the process can't be used any more.
        """
        patience = request.get("seconds", 0.0) + request.get("warmup", 0.0) + _SLACK
        try:
            self._send(json.dumps(request))
            self._expect("ready", patience)
            with during():
                self._send("go")
                figures = self._next(patience)
            if "error" in figures:
                raise Failed(figures["error"])
            self._expect("closed", patience)
        except Failed:
            self.close()
            raise
        return figures

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise Failed(self._last_words()) from error

    def _next(self, patience: float) -> Figures:
        try:
            line = self._lines.get(timeout=patience)
        except Empty:
            raise Failed(f"no answer within {patience:.0f} s") from None
        if not line:
            raise Failed(self._last_words())
        message: Figures = json.loads(line)
        return message

    def _expect(self, event: str, patience: float) -> None:
        message = self._next(patience)
        if message.get("event") != event:
            raise Failed(message.get("error", f"it said {message!r} instead of {event!r}"))

    def _last_words(self) -> str:
        if self._errors.closed:
            return "its process had failed before"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended: {lines[-1][:200] if lines else 'without a word'}"
