"""Functions whose calls are made under a lock, which is named by a template: `synchronized`, for both faces.

A template has the syntax of `str.format`, with the names of the function's parameters: `order:{order.id}`. It is
checked when the function is decorated. Each call fills it from its arguments, and makes a handle of its own for that
resource.
"""

from __future__ import annotations

import enum
import inspect
import re
import string
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from functools import wraps
from typing import Any, Final, Literal, ParamSpec, TypeVar

from redlock_cluster.core.text import quoted
from redlock_cluster.errors import Contended, WouldDeadlock
from redlock_cluster.handles.mutex import AsyncMutex, Mutex

__all__ = ["NO_DEFAULT", "NoDefault", "synchronized", "synchronized_async"]

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")


class Default(enum.Enum):
    """NO_DEFAULT: none was given."""

    NO_DEFAULT = "no default"


NO_DEFAULT: Final = Default.NO_DEFAULT

NoDefault = Literal[Default.NO_DEFAULT]

_STEP: Final = re.compile(r"\.(?P<attribute>[^.\[\]]+)|\[[^\]]+\]")
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def synchronized(
    template: str, make: Callable[[str], Mutex], default: D | NoDefault
) -> Callable[[Callable[P, R]], Callable[P, R | D]]:
    """Has each call of a plain function made in the body of a handle.

    template: names the resource
    make: makes the handle for a resource; raises what is wrong with the other arguments
    default: what a call returns when somebody else keeps the lock; NO_DEFAULT: Contended is raised

    The decorator raises TypeError for what is no plain function or has no such parameter, ValueError for a template
    that is wrong in itself.
    """
    _require_template(template)
    make("checked")

    def decorate(function: Callable[P, R]) -> Callable[P, R | D]:
        filled = _Template(template, function)
        if _is_async(function):
            raise TypeError(f"{filled.whose} is async; use AsyncRedlock or an AsyncSupervisor to decorate it")

        @wraps(function)
        def call(*args: P.args, **named: P.kwargs) -> R | D:
            handle = make(filled.resource(args, named))
            with ExitStack() as body:
                try:
                    body.enter_context(handle)
                except Contended as refusal:
                    if default is NO_DEFAULT or isinstance(refusal, WouldDeadlock):
                        raise
                    return default
                result = function(*args, **named)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(f"{filled.whose} has returned a coroutine, which would run without its lock")
                return result

        return call

    return decorate


def synchronized_async(
    template: str, make: Callable[[str], AsyncMutex], default: D | NoDefault
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R | D]]]:
    """Has each call of an async function made in the body of a handle; otherwise as `synchronized`."""
    _require_template(template)
    make("checked")

    def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R | D]]:
        filled = _Template(template, function)
        if not _is_async(function):
            raise TypeError(f"{filled.whose} is not async; use Redlock or a Supervisor to decorate it")

        @wraps(function)
        async def call(*args: P.args, **named: P.kwargs) -> R | D:
            handle = make(filled.resource(args, named))
            async with AsyncExitStack() as body:
                try:
                    await body.enter_async_context(handle)
                except Contended as refusal:
                    if default is NO_DEFAULT or isinstance(refusal, WouldDeadlock):
                        raise
                    return default
                return await function(*args, **named)

        return call

    return decorate


def _require_template(template: object) -> None:
    """Raises TypeError for a function: the decorator was written without parentheses."""
    if not isinstance(template, str):
        kind = type(template).__name__
        raise TypeError(f"synchronized takes a template, not a {kind}: @redlock.synchronized('name:{{argument}}')")


class _Template:
    """How one function's calls name their resources.

    whose: how messages name template and function

    Raises TypeError or ValueError, as `synchronized`.
    """

    def __init__(self, template: str, function: Callable[..., object]) -> None:
        _require_function(function)
        self._template, self._signature = template, inspect.signature(function)
        name = getattr(function, "__qualname__", None) or repr(function)
        self.whose = f"{name}{self._signature}, synchronized by {quoted(template)},"
        if not template:
            raise ValueError(f"{self.whose} needs a name for its lock")
        try:
            fields = [*_fields(template)]
        except ValueError as error:
            raise ValueError(f"{self.whose} has no valid template: {error}") from None
        for field in fields:
            self._check(field)

    def _check(self, field: str) -> None:
        """Raises TypeError or ValueError for what must not stand between braces."""
        name = re.split(r"[.\[]", field, maxsplit=1)[0]
        steps = field[len(name) :]
        if not name.isidentifier():
            raise ValueError(f"{self.whose} must name a parameter between braces, not {field!r}")
        if name not in self._signature.parameters:
            raise TypeError(f"{self.whose} has no parameter {name!r}")
        if self._signature.parameters[name].kind in _VARIADIC and not steps.startswith("["):
            raise TypeError(f"{self.whose} must choose one of {name}: {{{name}[...]}}")
        found = [*_STEP.finditer(steps)]
        if "".join(step[0] for step in found) != steps:
            raise ValueError(f"{self.whose} has no valid template: {{{field}}}")
        if any((step["attribute"] or "").startswith("__") for step in found):
            raise ValueError(f"{self.whose} must not ask for internals of Python: {{{field}}}")

    def resource(self, args: tuple[object, ...], named: Mapping[str, object]) -> str:
        """The resource of a call.

        Raises TypeError for arguments that do not fit the function, ValueError for those that make no name.
        """
        bound = self._signature.bind(*args, **named)
        bound.apply_defaults()
        try:
            resource = _FORMATTER.vformat(self._template, (), bound.arguments)
        except Exception as error:
            raise ValueError(f"{self.whose} can't be named: {type(error).__name__}: {error}") from error
        if not resource:
            raise ValueError(f"{self.whose} can't be named: the arguments of this call leave the name empty")
        return resource


class _Formatter(string.Formatter):
    """As `str.format`, but refuses what other processes would not say in the same way."""

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """The value that is formatted. Raises ValueError."""
        kind: Any = type(value)
        if all(getattr(kind, each) is getattr(object, each) for each in ("__repr__", "__str__", "__format__")):
            raise ValueError(f"a {kind.__name__} has no text but its address in memory; name an attribute of it")
        if isinstance(value, (set, frozenset)):
            raise ValueError("the order of a set differs from process to process")
        return super().convert_field(value, conversion)


_FORMATTER: Final = _Formatter()


def _fields(template: str) -> Iterator[str]:
    """What stands between its braces, also within format specs. Raises ValueError for wrong syntax."""
    for _, field, spec, conversion in _FORMATTER.parse(template):
        if field is None:
            continue
        if conversion not in (None, "", "r", "s", "a"):
            raise ValueError(f"unknown conversion !{conversion}")
        yield field
        yield from _fields(spec or "")


def _require_function(function: object) -> None:
    """Raises TypeError for what can't be decorated."""
    if isinstance(function, (staticmethod, classmethod, property)):
        raise TypeError(f"put @synchronized below @{type(function).__name__}, next to the def")
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"@synchronized decorates functions, not {function!r}; with arguments: @synchronized('name')")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{name} is a generator, whose body runs after the call: lock inside it, by `with mutex(...)`")


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
