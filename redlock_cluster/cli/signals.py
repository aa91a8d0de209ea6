"""Ending in order when asked to: by Ctrl-C, by SIGTERM, or because the terminal was closed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["asked_to_end", "ctrl_c_ignored"]


@contextlib.contextmanager
def asked_to_end() -> Iterator[threading.Event]:
    """Give an event that SIGINT, SIGTERM and SIGHUP set while the block runs. Only in the main thread."""
    event = threading.Event()
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), lambda *_: event.set()) for name in names}
    try:
        yield event
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@contextlib.contextmanager
def ctrl_c_ignored() -> Iterator[None]:
    """Start processes in the block so that they ignore Ctrl-C: whoever starts them ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
