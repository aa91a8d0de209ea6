"""The contestants, and the virtual environment that each needs: peers pin different versions of the same client."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "BARE",
    "OURS",
    "PEERS",
    "PLAIN",
    "PLOTS",
    "Contestant",
    "InstallFailed",
    "command",
    "environment",
    "variables",
]

_HERE: Final = Path(__file__).resolve().parent
_ROOT: Final = _HERE.parent


@dataclass(frozen=True)
class Contestant:
    """A library that is measured.

    name: in the results
    script: the file in `contestants/`; for Rust the folder there, which is a crate
    requirements: the file in `requirements/` for its environment; "" for this library and for Rust
    """

    name: str
    script: str
    requirements: str = ""

    @property
    def rust(self) -> bool:
        """Whether it is written in Rust."""
        return not self.script.endswith(".py")


OURS: Final = Contestant("redlock-cluster", "run_redlock_cluster.py")
PLAIN: Final = Contestant("redlock-cluster, not compiled", "run_redlock_cluster.py")
BARE: Final = Contestant("bare connections", "run_bare.py")
PEERS: Final = {
    "redlock-py": Contestant("redlock-py", "run_redlock_py.py", "redlock-py.txt"),
    "redlock-ng": Contestant("redlock-ng", "run_redlock_ng.py", "redlock-ng.txt"),
    "aioredlock": Contestant("aioredlock", "run_aioredlock.py", "aioredlock.txt"),
    "pottery": Contestant("pottery", "run_pottery.py", "pottery.txt"),
    "redis": Contestant("redis Lock", "run_redis.py", "redis.txt"),
    "python-redis-lock": Contestant("python-redis-lock", "run_python_redis_lock.py", "python-redis-lock.txt"),
    "redlock_batched": Contestant("redlock_batched (Rust)", "redlock_batched"),
}
PLOTS: Final = "plots.txt"


class InstallFailed(Exception):
    """An environment could not be made; says what was tried and how it ended."""


def command(contestant: Contestant) -> list[str]:
    """The command that runs the contestant; what it needs is installed on first use.

    Raises InstallFailed.
    """
    if contestant.rust:
        return [str(_built(contestant.script))]
    python = environment(contestant.requirements) if contestant.requirements else sys.executable
    return [str(python), "-W", "ignore", str(_HERE / "contestants" / contestant.script)]


def variables(contestant: Contestant, tree: str) -> dict[str, str]:
    """The environment variables of a contestant's process; peers can't import this library.

    tree: the folder of this library, relative to this checkout
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if contestant.requirements or contestant.rust:
        return inherited
    return {**inherited, "PYTHONPATH": str(_ROOT if contestant is PLAIN else _ROOT / tree)}


def environment(requirements: str) -> Path:
    """The interpreter of an environment; it is made on first use.

    requirements: the file in `requirements/` that names its packages

    Raises InstallFailed.
    """
    source = _HERE / "requirements" / requirements
    folder = _HERE / ".venvs" / Path(requirements).stem
    python = folder / "bin" / "python"
    stamp, wanted = folder / "installed", hashlib.sha256(f"{sys.version}\n{source.read_text()}".encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(source))
    stamp.write_text(wanted)
    return python


def _built(crate: str) -> Path:
    """The program of a crate in `contestants/`; cargo knows whether it is to be built anew."""
    cargo = shutil.which("cargo") or shutil.which("cargo", path=Path.home() / ".cargo" / "bin")
    if cargo is None:
        raise InstallFailed("there is no cargo on PATH")
    manifest, target = _HERE / "contestants" / crate / "Cargo.toml", _HERE / ".venvs" / crate
    _run(cargo, "build", "--release", "--locked", "--quiet", f"--manifest-path={manifest}", f"--target-dir={target}")
    return target / "release" / crate


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallFailed(f"{type(error).__name__} in `{' '.join(command[1:3])}`") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error:") and "://" not in line]
        raise InstallFailed(f"`{' '.join(command[1:4])}` ended with {done.returncode}: {' '.join(lines[-1:])}")
