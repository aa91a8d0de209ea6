"""The configuration file of an embedded server: the caller's settings replace the defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from redlock_cluster.testing.ports import LOOPBACK

__all__ = ["Setting", "filled", "merged", "rendered"]

Word = str | int | float | Path
Setting = Word | Sequence[Word]

_OURS: Final = frozenset({"bind", "daemonize", "dir", "logfile", "supervised"})
_QUIET: Final = frozenset({"warning", "nothing"})
_FORGETFUL: Final[Mapping[str, Setting]] = {"save": "", "appendonly": "no"}
_PERSISTENT: Final[Mapping[str, Setting]] = {"save": "", "appendonly": "yes", "appendfsync": "always"}
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def merged(config: Mapping[str, Setting], persistence: bool) -> dict[str, Setting]:
    """Return the defaults, replaced by the caller's settings; names in lower case.

    config: the caller's settings
    persistence: the defaults keep an append-only file

    Raises ValueError for a setting that an embedded server chooses itself.
    """
    settings = {**(_PERSISTENT if persistence else _FORGETFUL), **{k.lower(): v for k, v in config.items()}}
    if refused := sorted(_OURS & settings.keys()):
        raise ValueError(f"{', '.join(refused)}: an embedded server sets this itself")
    if settings.get("loglevel") in _QUIET:
        raise ValueError("loglevel: readiness is read from the log, which needs notice, verbose or debug")
    return settings


def rendered(settings: Mapping[str, Setting], directory: Path, names: Mapping[str, str]) -> str:
    """Return the settings as the text of a configuration file.

    settings: as `merged` returns them
    directory: where the server keeps its data
    names: what `{port}` and the like stand for inside values
    """
    ours: Mapping[str, Setting] = {"bind": LOOPBACK, "dir": directory, "daemonize": "no", "logfile": ""}
    lines = [" ".join([name, *_words(value)]) for name, value in ours.items()]
    lines += [" ".join([name, *(filled(word, names) for word in _words(value))]) for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def filled(text: str, names: Mapping[str, str]) -> str:
    """Return the text with each `{name}` that is in `names` replaced; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[0]), text)


def _words(value: Setting) -> list[str]:
    words = [value] if isinstance(value, str | int | float | Path) else value
    return ['"' + "".join(_ESCAPES.get(char, char) for char in str(word)) + '"' for word in words]
