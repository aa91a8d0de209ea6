"""`${NAME}` in texts: what stands in the environment, now or whenever it is asked again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

__all__ = ["Expanded", "escaped", "expanded"]


class Expanded(str):
    """A text in which variables stood.

    template: as it was written
    """

    template: str

    @classmethod
    def of(cls, text: str, template: str) -> Expanded:
        """The text that a template gave."""
        made = cls(text)
        made.template = template
        return made


def expanded(text: str, report: Callable[[str], None]) -> str:
    """The text with the environment's values in place of its variables; `$${` gives `${`.

    report: told what is wrong; without values
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name = match["name"]
        if name is None:
            report("write a variable as ${NAME}, and ${ that is no variable as $${")
        elif name not in os.environ:
            report(f"the environment variable {name} is not set")
        return os.environ.get(name or "", "")

    return re.sub(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\})?", value, text)


def escaped(text: str) -> str:
    """The template that gives just this text."""
    return text.replace("${", "$${")
