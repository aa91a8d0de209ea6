"""Where the commands print tables."""

from __future__ import annotations

from typing import Final

from rich.console import Console

__all__ = ["console"]

_PIPE_WIDTH: Final = 250


def console(stderr: bool = False) -> Console:
    """A console; for a program that reads its output, every line is whole."""
    terminal = Console(highlight=False, stderr=stderr)
    return terminal if terminal.is_terminal else Console(highlight=False, stderr=stderr, width=_PIPE_WIDTH)
