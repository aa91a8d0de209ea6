"""What is wrong with a file of options: collected with paths, reported without values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from redlock_cluster.options.kinds import FROM_FILE

__all__ = ["BROKEN", "Path", "Problems", "showable", "spelled"]

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

BROKEN: Final = object()
"""Stands in the tree for a value that could not be read; its problem is already reported."""


def showable(key: str) -> bool:
    """Return whether a key may be shown: it looks like the name of an option, not like a misplaced value."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", key) is not None


def spelled(path: Path) -> str:
    """Return a path as problems show it: `cluster[1].servers`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


class Problems:
    """What is wrong, each with its path; listed in the order of the file."""

    def __init__(self) -> None:
        self.order: dict[Path, int] = {}
        self.found: list[tuple[Path, str]] = []

    def visit(self, path: Path) -> None:
        """Remember that this path comes next in the file."""
        self.order.setdefault(path, len(self.order))

    def report(self, path: Path, text: str) -> None:
        """Add one problem.

        path: of the option, () for the whole file
        text: what is wrong and how to correct it; never contains a value
        """
        self.found.append((path, text))

    def report_part(self, path: Path, name: str, text: str, url: bool) -> None:
        """Add a problem of one option of a server.

        path: of the server
        name: of the option
        text: as for `report`
        url: the server is written as a URL, so the problem has the path of the URL
        """
        self.report(*((path, f"{name}: {text}") if url else ((*path, name), text)))

    def has(self, path: Path) -> bool:
        """Return whether there is a problem at exactly this path."""
        return any(path == found for found, _ in self.found)

    def listed(self) -> list[tuple[str, str]]:
        """Return `(path, text)`, each once, in the order of the file."""
        ordered = sorted(self.found, key=lambda problem: self._position(problem[0]))
        return list(dict.fromkeys((spelled(path), text) for path, text in ordered))

    def _position(self, path: Path) -> int:
        """Return the position in the file of the path, or of the nearest above it."""
        return next((self.order[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.order), 0)

    def expect_map(self, node: object, path: Path, what: str) -> dict[str, object] | None:
        """Return the node if it is a map, else report what it should map and return None."""
        if isinstance(node, dict):
            return node
        if node is not BROKEN:
            self.report(path, f"write a map of {what}")
        return None

    def expect_list(self, node: object, path: Path, what: str) -> list[object] | None:
        """Return the node if it is a list, else report what it should list and return None."""
        if isinstance(node, list):
            return node
        if node is not BROKEN:
            self.report(path, f"write a list of {what}")
        return None

    def unknown(self, fields: Mapping[str, object], known: Collection[str], path: Path) -> set[str]:
        """Report unknown options.

        fields: the options that a map has
        known: the names that it may have
        path: of the map

        Returns the names that were probably meant.
        """
        guesses = set()
        for name in [name for name in fields if name not in known]:
            close = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(name.lower(), known, 1)
            guesses.update(close)
            if not showable(name) or (fields[name] is None and not close):
                self.report(path, "an unknown option that may be a value gone astray; write `name: value`")
            elif close:
                self.report((*path, name), f"unknown option, did you mean {close[0]}?")
            else:
                self.report((*path, name), "unknown option; remove it, or correct its name or its place")
        return guesses

    def model(
        self, model: type[Model], fields: dict[str, object], path: Path, url: bool = False
    ) -> tuple[Model | None, set[str]]:
        """Make a model of the fields, and report the fields that are wrong.

        model: the class of the model
        fields: the options that a map has; null counts as left out where the default is None
        path: of the map
        url: as for `report_part`

        Returns the model, or None when a field is wrong; and the names of the wrong fields.
        """
        optional = {name for name, field in model.model_fields.items() if field.default is None}
        known = {
            name: value
            for name, value in fields.items()
            if name in model.model_fields and not (value is None and name in optional)
        }
        try:
            return model.model_validate(known, context=FROM_FILE), set()
        except ValidationError as error:
            wrong = [(str(one["loc"][0]), one["msg"]) for one in error.errors(include_url=False, include_input=False)]
        for name, text in wrong:
            if url or not self.has((*path, name)):
                self.report_part(path, name, text, url)
        return None, {name for name, _ in wrong}
