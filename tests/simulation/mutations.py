"""Shows that the simulation can fail: it must notice an engine that was broken on purpose.

Each mutant is a copy of the package in a temporary directory with some text replaced, and runs in a process of its
own. A text that isn't found (exactly once) is an error: a mutant that changes nothing proves nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redlock_cluster

from .mutants import MUTANTS, Mutant

HERE = Path(__file__).parent
PACKAGE = Path(redlock_cluster.__file__).parent
LEAVE_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "test_*.py")


class NotFound(LookupError):
    """The text to be replaced isn't in the source (any more), or more than once."""


def hunt(mutant: Mutant, processes_seeds: int | None = None) -> tuple[int, str]:
    """The number of seeds it took to notice a mutant, and what was noticed. Raises AssertionError when nothing was."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        mutate(copy, mutant)
        bound = processes_seeds or mutant.bound
        command = [sys.executable, "-m", "tests.simulation", "--hunt", "--seeds", str(bound)]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"mutant {mutant.name} did not run:\n{done.stderr[-3000:]}")
        place, seeds, found = done.stdout.splitlines()[0].split("\t")
        if not Path(place).is_relative_to(copy.resolve()):
            raise AssertionError(f"mutant {mutant.name}: the engine of {place} ran, not the broken one")
        if not found:
            raise AssertionError(f"mutant {mutant.name} ({mutant.what}) was not noticed in {seeds} histories")
        return int(seeds), found


def mutate(copy: Path, mutant: Mutant) -> None:
    """Puts a broken package, and the simulation, into a directory. Raises NotFound."""
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=LEAVE_OUT)
    shutil.copytree(HERE, copy / "tests" / HERE.name, ignore=LEAVE_OUT)
    for edit in mutant.edits:
        path = copy / PACKAGE.name / edit.file
        source = path.read_text()
        if source.count(edit.old) != 1:
            raise NotFound(f"mutant {mutant.name}: {edit.file} has {source.count(edit.old)} times {edit.old!r}")
        path.write_text(source.replace(edit.old, edit.new))


def table() -> Iterator[str]:
    """The table of mutants in Markdown: how many seeds each takes, and what is noticed first."""
    yield "| mutant | the engine is broken so that | seeds needed | noticed as |"
    yield "| --- | --- | --- | --- |"
    for mutant in MUTANTS:
        seeds, found = hunt(mutant)
        yield f"| {mutant.name} | {mutant.what} | {seeds} | {found} |"
