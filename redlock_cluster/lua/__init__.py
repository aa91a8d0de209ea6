"""The Lua scripts that servers run where they have no native command; one script a file.

A script's header says what its KEYS, its ARGV and its replies are.
"""

from __future__ import annotations

import hashlib
import pkgutil
from dataclasses import dataclass, field

from hiredis import pack_command

__all__ = ["EXTEND", "RELEASE", "SCRIPTS", "Script"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script that takes one key.

    name: its file's, without `.lua`
    source: the file's content
    sha: SHA-1 of the source, 40 hexadecimal digits, by which servers know it once it is loaded
    """

    name: str
    source: bytes = field(repr=False)
    sha: bytes

    def call(self, in_full: bool, key: bytes, *arguments: bytes | int) -> bytes:
        """The packed command that runs it.

        in_full: by its source, for a server that does not know it
        """
        if in_full:
            return pack_command((b"EVAL", self.source, 1, key, *arguments))
        return pack_command((b"EVALSHA", self.sha, 1, key, *arguments))


def _load(name: str) -> Script:
    source = pkgutil.get_data(__name__, f"{name}.lua")
    if source is None:
        raise ImportError(f"the script {name}.lua is missing from the package")
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


RELEASE = _load("release")
EXTEND = _load("extend")
SCRIPTS = (RELEASE, EXTEND)
"""Every script of the package; each new connection loads them."""
