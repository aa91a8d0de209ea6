"""What a build may compile: nothing with coroutines, and nothing that is not there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"][
    "mypyc"
]


@pytest.mark.parametrize("file", HOOK["include"])
def test_a_compiled_module_has_no_coroutines(file: str) -> None:
    """mypyc 2.4 lost a CancelledError in one that awaits inside `try`."""
    found = [
        node.lineno for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert not found
