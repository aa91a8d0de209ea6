"""What is wrong with a file of options: collected with paths, told without values."""

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
"""Stands in the tree where a value could not be had; its problem is already told."""


def showable(key: str) -> bool:
    """Tell whether a key may be repeated: it looks like the name of an option, not like a value gone astray."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", key) is not None


def spelled(path: Path) -> str:
    """Write a path as problems show it: `cluster[1].servers`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


class Problems:
    """What is wrong, each with its path; listed in the order of the file."""

    def __init__(self) -> None:
        self.order: dict[Path, int] = {}
        self.found: list[tuple[Path, str]] = []

    def visit(self, path: Path) -> None:
        """Remember the place of a path in the file."""
        self.order.setdefault(path, len(self.order))

    def add(self, path: Path, text: str) -> None:
        """Tell one problem."""
        self.found.append((path, text))

    def add_part(self, path: Path, name: str, text: str, url: bool) -> None:
        """Tell a problem of one option of a map, or of one part of a URL, whose path is the URL's."""
        self.add(*((path, f"{name}: {text}") if url else ((*path, name), text)))

    def has(self, path: Path) -> bool:
        """Tell whether there is a problem at exactly this path."""
        return any(path == found for found, _ in self.found)

    def listed(self) -> list[tuple[str, str]]:
        """Return `(path, text)`, each once, in the order of the file."""
        ordered = sorted(self.found, key=lambda problem: self._place(problem[0]))
        return list(dict.fromkeys((spelled(path), text) for path, text in ordered))

    def _place(self, path: Path) -> int:
        return next((self.order[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.order), 0)

    def expect_map(self, node: object, path: Path, what: str) -> dict[str, object] | None:
        """Return the node if it is a map, else None after telling what it should map."""
        if isinstance(node, dict):
            return node
        if node is not BROKEN:
            self.add(path, f"write a map of {what}")
        return None

    def expect_list(self, node: object, path: Path, what: str) -> list[object] | None:
        """Return the node if it is a list, else None after telling what it should list."""
        if isinstance(node, list):
            return node
        if node is not BROKEN:
            self.add(path, f"write a list of {what}")
        return None

    def unknown(self, fields: Mapping[str, object], known: Collection[str], path: Path) -> set[str]:
        """Tell unknown options; returns those that were probably meant."""
        guesses = set()
        for name in [name for name in fields if name not in known]:
            close = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(name.lower(), known, 1)
            guesses.update(close)
            if not showable(name) or (fields[name] is None and not close):
                self.add(path, "an unknown option that may be a value gone astray; write `name: value`")
            elif close:
                self.add((*path, name), f"unknown option, did you mean {close[0]}?")
            else:
                self.add((*path, name), "unknown option; remove it, or correct its name or its place")
        return guesses

    def model(
        self, model: type[Model], fields: dict[str, object], path: Path, url: bool = False
    ) -> tuple[Model | None, set[str]]:
        """Return the model made of the fields, or None; and the fields that are wrong, after telling what is.

        A field written as null is left out where that is the same.
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
                self.add_part(path, name, text, url)
        return None, {name for name, _ in wrong}
