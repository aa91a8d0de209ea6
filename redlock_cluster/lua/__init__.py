"""The Lua scripts that servers run where they have no native command; one script a file.

A script's header says what its KEYS, its ARGV and its replies are.
"""

from __future__ import annotations

import hashlib
import pkgutil
from dataclasses import dataclass, field

from hiredis import pack_command

__all__ = [
    "EXTEND",
    "FIND",
    "FORCE",
    "HEAL",
    "META",
    "NUMBER",
    "NUMBERED_READ",
    "NUMBERED_TAKE",
    "PERMIT",
    "RAISE",
    "READ",
    "RELEASE",
    "SCRIPTS",
    "TAKE",
    "Script",
]


@dataclass(frozen=True, slots=True)
class Script:
    """A script.

    name: its file's, without `.lua`
    source: the file's content, after what it shares with others
    sha: SHA-1 of the source, 40 hexadecimal digits, by which servers know it once it is loaded
    """

    name: str
    source: bytes = field(repr=False)
    sha: bytes

    def call(self, in_full: bool, keys: tuple[bytes, ...], *arguments: bytes | int) -> bytes:
        """The packed command that runs it.

        in_full: by its source, for a server that does not know it
        """
        if in_full:
            return pack_command((b"EVAL", self.source, len(keys), *keys, *arguments))
        return pack_command((b"EVALSHA", self.sha, len(keys), *keys, *arguments))


def _load(name: str, *shared: str) -> Script:
    source = b"".join(map(_content, (*shared, name)))
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


def _content(name: str) -> bytes:
    content = pkgutil.get_data(__name__, f"{name}.lua")
    if content is None:
        raise ImportError(f"the script {name}.lua is missing from the package")
    return content


TAKE = _load("take", "queue")
READ = _load("read", "queue", "readers")
RELEASE = _load("release", "queue", "readers")
EXTEND = _load("extend", "readers")
HEAL = _load("heal", "readers", "fence")
NUMBER = _load("number", "fence")
NUMBERED_TAKE = _load("take", "queue", "fence")
NUMBERED_READ = _load("read", "queue", "readers", "fence")
RAISE = _load("raise", "fence")
FIND = _load("find", "readers")
PERMIT = _load("permit", "queue")
FORCE = _load("force", "queue")
META = _load("meta")
SCRIPTS = (TAKE, READ, RELEASE, EXTEND, HEAL, FIND, PERMIT, NUMBER, NUMBERED_TAKE, NUMBERED_READ, RAISE)
"""Those that each new connection loads. Those that are rarely used are sent in full: FORCE, META."""
