"""The Lua scripts that servers run where they have no native command; one script a file."""

from __future__ import annotations

import hashlib
import pkgutil
from dataclasses import dataclass, field

__all__ = ["EXTEND", "RELEASE", "SCRIPTS", "Script"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source, and the SHA-1 digest (40 hexadecimal digits) by which servers know it once it is loaded."""

    name: str
    source: bytes = field(repr=False)
    sha: bytes


def _load(name: str) -> Script:
    source = pkgutil.get_data(__name__, f"{name}.lua")
    if source is None:
        raise ImportError(f"the script {name}.lua is missing from the package")
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


RELEASE = _load("release")
EXTEND = _load("extend")
SCRIPTS = (RELEASE, EXTEND)
