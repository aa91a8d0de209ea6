"""Reads options from a YAML file or a mapping: plain YAML only, with `${VAR}` from the environment.

A message of PyYAML may quote the file, and with it a password (`password: *hunter2` is an alias that nothing defines).
So its messages and exceptions are never passed on: problems are reported after the exceptions were handled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path as File
from typing import Final

import yaml

from redlock_cluster.errors import OptionsError
from redlock_cluster.options.build import Builder
from redlock_cluster.options.model import EXTENSION, Options
from redlock_cluster.options.problems import BROKEN, Path, Problems, showable
from redlock_cluster.options.variables import Expanded, expanded

__all__ = ["load_options"]

DEEPEST: Final = 16
"""Steps of a path; options need 7. More means that a file or mapping contains itself."""
LARGEST: Final = 100_000
"""Values of a file; more means aliases of aliases."""
TOO_MUCH: Final = "nested too deeply or too large for options: does a part contain itself?"
YAML: Final = "tag:yaml.org,2002:"


def load_options(source: str | os.PathLike[str] | Mapping[str, object]) -> Options:
    """Read and check the options of a YAML file, or of a mapping of the same form.

    source: the path of the file, or the mapping

    Returns the options; durations are seconds.

    Raises OptionsError, which lists every problem with its path and contains no password.
    """
    problems = Problems()
    name, tree = (None, source) if isinstance(source, Mapping) else _read(source, problems)
    options = None
    plain = BROKEN if tree is BROKEN else _Plain(problems).tree(tree, ())
    if ((), TOO_MUCH) not in problems.found:
        options = Builder(problems).options(plain)
    if options is None or problems.found:
        raise OptionsError(problems.listed(), name)
    return options


def _read(source: object, problems: Problems) -> tuple[str | None, object]:
    """Return the name of the file and its tree; BROKEN if there is none, after reporting why."""
    if not isinstance(source, str | os.PathLike):
        problems.report((), "options are the path of a YAML file, or a mapping")
        return None, BROKEN
    name = os.fsdecode(source)
    if "\n" in name or "://" in name:  # not shown: a URL may contain a password
        problems.report((), "options are the path of a YAML file, or a mapping such as {'servers': [url]}")
        return None, BROKEN
    try:
        content = File(name).read_bytes()
    except OSError as error:
        problem = f"the options file can't be read: {error.strerror}"
    except ValueError:
        problem = "the options file can't be read: its path has a null character"
    else:
        return name, _parse(content, problems)
    problems.report((), problem)
    return name, BROKEN


def _parse(content: bytes, problems: Problems) -> object:
    try:
        if problem := _not_plain(content):
            problems.report((), problem)
            return BROKEN
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            return None
        _report_repeated(node, (), problems, set())
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = _yaml_problem(error)
    problems.report((), problem)
    return BROKEN


def _not_plain(content: bytes) -> str:
    """Return what makes a file more than plain YAML, before it is loaded; "" if nothing does."""
    depth = 0
    for event in yaml.parse(content, _Loader):
        if getattr(event, "tag", None) not in (None, f"{YAML}str"):
            where = _where(event.start_mark)
            return f"only plain YAML is allowed: a tag (!...){where}; quote a value that begins with !"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            return TOO_MUCH
    return ""


class _Loader(yaml.SafeLoader):
    """Plain YAML: what is a number, true, false or null follows YAML 1.2.

    PyYAML's YAML 1.1 reads 71:01 as 4261, 0777 as 511, 2024-01-31 as a date and yes as true; here they are text, which
    the options then accept or refuse.
    """


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"{YAML}{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _report_repeated(node: yaml.Node, path: Path, problems: Problems, visited: set[int]) -> None:
    """Report keys that one map has twice; PyYAML would use the last of them."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _report_repeated(item, (*path, index), problems, visited)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            line, known = key.start_mark.line + 1, (key.tag, str(key.value))
            at = (*path, known[1]) if known[0] == f"{YAML}str" and showable(known[1]) else path
            if known in lines and key.tag != f"{YAML}merge":
                problems.report(at, f"given twice, in lines {lines[known]} and {line}; keep one")
            lines[known] = line
            _report_repeated(value, at, problems, visited)


def _where(mark: object) -> str:
    return f" in line {mark.line + 1}, column {mark.column + 1}" if isinstance(mark, yaml.error.Mark) else ""


def _yaml_problem(error: Exception) -> str:
    where = _where(error.problem_mark) if isinstance(error, yaml.MarkedYAMLError) else ""
    match error:
        case yaml.composer.ComposerError(context=str()):
            return f"not valid YAML: a second document (---) begins{where}; keep one"
        case yaml.composer.ComposerError():
            return f"not valid YAML: nothing defines the alias (*...){where}; quote a value that begins with *"
        case RecursionError():
            return TOO_MUCH
        case yaml.reader.ReaderError() | UnicodeError():
            return "not valid YAML: there are bytes that are not UTF-8 text, or control characters"
    return f"not valid YAML{where}; look for wrong indentation, no space after a colon, an open quote or bracket"


class _Plain:
    """Copies a tree into dicts, lists and scalars, with the variables of the environment in its texts.

    What stands below `x-...` at the top is left out: parts of it count where an alias or a merge puts them.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def tree(self, node: object, path: Path) -> object:
        """Return the copy of a node; BROKEN if there can be none, after reporting why."""
        self.problems.visit(path)
        if len(path) > DEEPEST or len(self.problems.order) > LARGEST:
            self.problems.report((), TOO_MUCH)
            return BROKEN
        match node:
            case str():
                return self._expanded(node, path)
            case os.PathLike():
                return self._expanded(os.fsdecode(node), path)
            case Mapping():
                return self._map(node, path)
            case list() | tuple():
                return [self.tree(item, (*path, index)) for index, item in enumerate(node)]
        return node

    def _map(self, node: Mapping[Hashable, object], path: Path) -> dict[str, object]:
        copy = {}
        for name, value in node.items():
            if isinstance(name, str):
                if not path and name.startswith(EXTENSION):
                    continue
                copy[name] = self.tree(value, (*path, name))
            else:
                self.problems.report(
                    path, "a name is not text; put names that look like numbers, true or null in quotes"
                )
        return copy

    def _expanded(self, text: str, path: Path) -> object:
        if "${" not in text:
            return text
        broken = len(self.problems.found)
        filled = expanded(text, lambda problem: self.problems.report(path, problem))
        return Expanded.of(filled, text) if len(self.problems.found) == broken else BROKEN
