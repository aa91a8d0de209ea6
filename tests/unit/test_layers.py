"""The layers of docs/architecture.md: imports point one way, no file is in a circle, each state has one writer."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import redlock_cluster

ROOT = Path(redlock_cluster.__file__).parent
PACKAGE = "redlock_cluster"

MAY_IMPORT = {
    "errors": {"core"},
    "fencing": {"fencing", "errors"},
    "lua": set(),
    "core": {"core", "lua"},
    "options": {"options", "core", "errors"},
    "wire": {"wire", "core", "options"},
    "engine": {"engine", "wire", "core", "lua", "options", "errors"},
    "results": {"errors"},
    "handles": {"handles", "engine", "core", "errors", "results"},
    "threads": {"threads", "engine", "core", "options", "errors"},
    "aio": {"handles", "engine", "core", "errors", "results"},
    "sync": {"threads", "handles", "engine", "core", "options", "errors", "results"},
    "default": {"aio", "sync", "threads", "engine", "options", "errors"},
}
"""What each part of the package may import; `cli` and `testing` stand above all of these."""

IMPURE = {"asyncio", "logging", "os", "random", "secrets", "socket", "ssl", "threading", "_thread", "time"}
LOCK_WORDS = {
    "acquire",
    "fence",
    "lease",
    "lock",
    "locked",
    "mutex",
    "release",
    "resource",
    "token",
    "tokens",
}
FACES_ONLY = {"deployments", "engine", "operation"}
ONE_WRITER = {
    "wire/connection.py": "Connection",
    "core/lease_record.py": "LeaseRecord",
    "core/tally.py": "AcquisitionTally",
}
"""Where the fields of a class are written, and nowhere else."""

EVERY_FILE = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in EVERY_FILE}


def imports(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports, those under TYPE_CHECKING and in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def own(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == PACKAGE}


def part_of(module: str) -> str:
    """The first component below the package."""
    return module.split(".")[1]


def sources(part: str) -> list[Path]:
    return [path for path in EVERY_FILE if path.relative_to(ROOT).with_suffix("").parts[0] == part]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle in order, the first again at the end; empty when there is none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            for imported in sorted(graph[module]):
                found = visit(imported, [*way, module])
                if found:
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def test_no_file_is_in_an_import_circle() -> None:
    # The package itself names everything for type checkers, and loads it when it is used.
    graph = {name: own(path) & MODULES.keys() - {PACKAGE} for name, path in MODULES.items() if name != PACKAGE}
    assert " -> ".join(circle(graph)) == ""


def test_a_circle_is_found_and_named() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == ["b", "c", "b"]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_each_part_imports_only_what_lies_below_it(part: str) -> None:
    files = sources(part)
    assert files
    for path in files:
        assert {part_of(name) for name in own(path) if name != PACKAGE} <= MAY_IMPORT[part], path


def test_every_part_has_its_place_in_the_layers() -> None:
    parts = {path.relative_to(ROOT).with_suffix("").parts[0] for path in EVERY_FILE}
    assert parts - {"__init__"} == MAY_IMPORT.keys() | {"cli", "testing"}


@pytest.mark.parametrize("path", sources("core") + sources("lua"), ids=lambda path: path.name)
def test_the_core_does_no_input_or_output(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE


@pytest.mark.parametrize("path", sources("wire"), ids=lambda path: path.name)
def test_the_wire_knows_no_locks(path: Path) -> None:
    """By its names: what is called, passed, kept or defined there."""
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    words = {word for name in names for word in name.lower().split("_")}
    assert sorted(words & LOCK_WORDS) == []
    assert {part_of(name) for name in own(path)} <= {"wire", "core", "options"}
    modules = {name.rpartition(".")[2] for name in own(path) if part_of(name) == "core"}
    assert modules <= {"decision", "dialect", "meta", "replies", "server_clock", "text", "timing"}


@pytest.mark.parametrize("path", sources("threads"), ids=lambda path: path.name)
def test_threads_know_no_rounds(path: Path) -> None:
    assert {name.rpartition(".")[2] for name in own(path) if part_of(name) == "engine"} <= FACES_ONLY


@pytest.mark.parametrize(
    "name",
    [
        "aio",
        "default",
        "sync",
        "handles.election",
        "handles.events",
        "handles.lease",
        "handles.many",
        "handles.mutex",
        "handles.upkeep",
    ],
)
def test_faces_know_operations_and_no_rounds(name: str) -> None:
    found = {name.rpartition(".")[2] for name in own(MODULES[f"{PACKAGE}.{name}"]) if part_of(name) == "engine"}
    assert found <= FACES_ONLY | {"acquire_all", "bulk", "force", "listing", "quarantine", "snapshot", "status"}


def test_nothing_imports_the_command_line_and_only_it_imports_testing() -> None:
    for name, path in MODULES.items():
        parts = {part_of(imported) for imported in own(path) if imported != PACKAGE}
        part = "" if name == PACKAGE else part_of(name)
        assert part == "cli" or "cli" not in parts, path
        assert part in {"cli", "testing"} or "testing" not in parts, path


def fields(path: Path, name: str) -> set[str]:
    """The names in the `__slots__` of a class and of those in the same file that it derives from."""
    classes = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}
    found: set[str] = set()
    while name in classes:
        for node in classes[name].body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
                found |= set(ast.literal_eval(node.value))
        bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
        name = bases[0] if bases else ""
    return found


def written(path: Path) -> Iterator[tuple[str, str, int]]:
    """What is written to in a file: the object's name, the field, the line; not what an object writes of itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name != "self":
                yield name, node.attr, node.lineno


@pytest.mark.parametrize("home", ONE_WRITER)
def test_only_its_own_module_writes_the_fields_of_a_record(home: str) -> None:
    mine = fields(ROOT / home, ONE_WRITER[home])
    assert len(mine) > 8
    owners = {"connection", "record", "lease", "tally", "votes"}
    for part in ("wire", "engine", "handles", "threads", "core"):
        for path in sources(part):
            if path != ROOT / home:
                foreign = [place for place in written(path) if place[0] in owners and place[1] in mine]
                assert not foreign, path


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
