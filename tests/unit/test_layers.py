"""Imports point one way: faces → engine → core; the core does no I/O and reads no clock."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import redlock_cluster

ROOT = Path(redlock_cluster.__file__).parent
FORBIDDEN_IN_CORE = {"asyncio", "logging", "os", "random", "secrets", "socket", "threading", "time"}
PURE = {"core", "errors", "lua"}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, those under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
    return found


def own(path: Path) -> set[str]:
    """First components below the package of what a file imports from it."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("redlock_cluster.")}


def sources(part: str) -> list[Path]:
    found = sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]
    assert found
    return found


@pytest.mark.parametrize("path", sources("core"), ids=lambda p: p.name)
def test_the_core_is_pure(path: Path) -> None:
    assert own(path) <= PURE
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN_IN_CORE


@pytest.mark.parametrize("path", sources("engine"), ids=lambda p: p.name)
def test_the_engine_knows_no_face(path: Path) -> None:
    assert not own(path) & {"aio", "sync", "threads", "default", "handles", "cli", "testing"}


def test_only_engine_faces_portal_cli_and_testing_import_asyncio() -> None:
    allowed = {"aio.py", "default.py"}
    for path in ROOT.rglob("*.py"):
        top = path.relative_to(ROOT).parts[0]
        if top not in {"engine", "wire", "threads", "cli", "testing"} and path.name not in allowed:
            assert "asyncio" not in imports(path), path


def test_nothing_imports_the_command_line_and_only_it_imports_testing() -> None:
    for path in ROOT.rglob("*.py"):
        top = path.relative_to(ROOT).parts[0]
        assert top == "cli" or "cli" not in own(path), path
        assert top in {"cli", "testing"} or "testing" not in own(path), path


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = "import sys, redlock_cluster; print(sorted(m for m in sys.modules if m.startswith('redlock_cluster.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    for name in redlock_cluster.__all__:
        value = getattr(redlock_cluster, name)
        assert value.__doc__, name
    assert set(redlock_cluster.__all__) <= set(dir(redlock_cluster))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = redlock_cluster.nonsense
