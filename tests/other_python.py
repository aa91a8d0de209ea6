"""Prints the newest Python that pyproject.toml declares and this machine has, other than the one that runs this.

Looks at pyenv's and at those on PATH; prints nothing if there is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def declared() -> list[int]:
    """The minor versions of Python 3 that pyproject.toml declares, newest first."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    found = [re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", line) for line in classifiers]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def candidates(minor: int, environment: Mapping[str, str]) -> Iterator[Path]:
    """Where an interpreter of this version may be: its newest release first, those on PATH last."""
    pyenv = Path(environment.get("PYENV_ROOT") or Path.home() / ".pyenv")
    releases = (pyenv / "versions").glob(f"3.{minor}.*")
    yield from (
        release / "bin" / f"python3.{minor}" for release in sorted(releases, key=lambda path: _numbers(path.name))[::-1]
    )
    yield from (Path(place) / f"python3.{minor}" for place in environment.get("PATH", "").split(os.pathsep) if place)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def works(python: Path, minor: int) -> bool:
    """Whether it is that version (a shim of pyenv may be none at all) and can make virtual environments."""
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    return (done.returncode, done.stdout) == (0, f"3 {minor}\n")


def newest_other(own: int = sys.version_info.minor, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The newest one.

    own: the minor version that is not wanted
    environment: names `PATH`, and perhaps `PYENV_ROOT`
    """
    others = (minor for minor in declared() if minor != own)
    return next((path for minor in others for path in candidates(minor, environment) if works(path, minor)), None)


if __name__ == "__main__":
    print(newest_other() or "")
