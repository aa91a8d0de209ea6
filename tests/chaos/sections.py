"""A mark for each resource that stands while somebody is inside its critical section; it needs no clock.

The mark is a symbolic link, because that appears together with its content (who is inside) or not at all.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["Sections"]


class Sections:
    """The marks, in one folder for all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def enter(self, resource: str, lease: str) -> str | None:
        """Sets the mark; returns whose mark stood there, which is replaced, or None."""
        mark = self._folder / resource
        try:
            mark.symlink_to(lease)
        except FileExistsError:
            found = self._inside(mark)
            mine = self._folder / f"{resource}.{lease.replace('/', '-')}"
            mine.symlink_to(lease)
            mine.replace(mark)
            return found
        return None

    def leave(self, resource: str, lease: str) -> None:
        """Takes the mark away, unless it is another's by now."""
        mark = self._folder / resource
        if self._inside(mark) == lease:
            with contextlib.suppress(FileNotFoundError):
                mark.unlink()

    def _inside(self, mark: Path) -> str | None:
        try:
            return str(mark.readlink())
        except FileNotFoundError:
            return None
