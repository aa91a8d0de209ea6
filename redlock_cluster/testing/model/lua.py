"""Real Lua 5.1 for scripts, through `lupa`: one runtime for each version and process, without state between scripts.

Left out of what servers offer: `math.random`, `loadstring`, `cjson`, `cmsgpack`, `struct`, `bit`, `redis.setresp`.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from redlock_cluster.testing.model.replies import Failure, Pairs, Reply, Status, float_text
from redlock_cluster.testing.model.versions import ModelVersion
from redlock_cluster.testing.model.wording import NOT_A_WORD

__all__ = ["CompileError", "Interpreter", "Perform", "ScriptFailed", "ScriptFault", "interpreter", "load_lua"]

Perform: TypeAlias = Callable[[list[bytes]], Reply]
"""Runs a command for a script: its words to its reply; an error reply is a Failure, or raises ScriptFault."""


class ScriptFault(Exception):
    """The script called a command wrongly.

    text: the error in the words of the version
    """

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class CompileError(Exception):
    """A script is not valid Lua.

    text: the compiler's error
    """

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class ScriptFailed(Exception):
    """A script ended with an error.

    text: the error
    line: where it was raised in the script
    """

    def __init__(self, text: bytes, line: int) -> None:
        super().__init__(text, line)
        self.text = text
        self.line = line


class _Raised(Exception):
    """An error that `redis.call` raises in a script.

    text: what the script catches
    """

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


@cache
def interpreter(version: ModelVersion) -> Interpreter:
    """The runtime that all servers of a version share."""
    return Interpreter(version)


class Interpreter:
    """Compiles scripts and runs them, one at a time."""

    def __init__(self, version: ModelVersion) -> None:
        lupa = load_lua()
        runtime = lupa.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        source = pkgutil.get_data(__name__, "prelude.lua")
        assert source is not None
        self._lua_type = lupa.lua_type
        self._table = runtime.table_from
        self._version = version
        self._perform: Perform | None = None
        self._compiled: dict[bytes, Any] = {}
        # Functions of Python are on Lua's stack as those of C are, so a tail call of one keeps the script's line.
        library = {
            b"call": self._call,
            b"pcall": self._pcall,
            b"status_reply": lambda *texts: self._single(b"ok", texts),
            b"error_reply": lambda *texts: self._single(b"err", texts),
            b"sha1hex": self._sha1hex,
        }
        self._compile, self._run, self._line = runtime.execute(
            source, self._table(library), _text_of, not version.since_7, version.valkey
        )

    def compile(self, sha: bytes, source: bytes) -> None:
        """Compiles a script once; raises CompileError."""
        if sha not in self._compiled:
            script, complaint = self._compile(source)
            if script is None:
                raise CompileError(complaint)
            self._compiled[sha] = script

    def run(self, sha: bytes, keys: list[bytes], arguments: list[bytes], perform: Perform) -> Reply:
        """The reply of a compiled script; raises ScriptFailed."""
        self._perform = perform
        fine, result = self._run(self._compiled[sha], self._table(keys), self._table(arguments))
        if fine:
            return self._reply(result)
        if isinstance(result, BaseException):
            raise result
        text, line = result[1], result[2]
        raise ScriptFailed(text if isinstance(text, bytes) else b"ERR unknown error", line)

    def _call(self, *arguments: object) -> object:
        reply = self._performed(arguments)
        if isinstance(reply, Failure):
            raise _Raised(bytes(reply))
        return self._value(reply)

    def _pcall(self, *arguments: object) -> object:
        return self._value(self._performed(arguments))

    def _performed(self, arguments: tuple[object, ...]) -> Reply:
        assert self._perform is not None
        try:
            return self._perform([self._word(argument) for argument in arguments])
        except ScriptFault as fault:
            return Failure(self._with_line(fault.text))

    def _with_line(self, text: bytes) -> bytes:
        """The error of a wrong call by the script: before Redis 7 it names the line."""
        return text if self._version.since_7 else b"@user_script: %d: %b" % (self._line(), text)

    def _single(self, field: bytes, texts: tuple[object, ...]) -> object:
        code = b"ERR " if self._version.since_7 else b""
        if len(texts) != 1 or not isinstance(texts[0], bytes):
            return self._table({b"err": self._with_line(code + b"wrong number or type of arguments")})
        text = texts[0]
        if field == b"err" and self._version.since_7:
            text = text.removeprefix(b"-")
            text = text if b" " in text else b"ERR " + text
        return self._table({field: text})

    def _sha1hex(self, *texts: object) -> bytes:
        if len(texts) != 1:
            raise _Raised((b"ERR " if self._version.since_7 else b"") + b"wrong number of arguments")
        text = texts[0] if isinstance(texts[0], (bytes, int, float)) else b""
        text = text if isinstance(text, bytes) else b"%.14g" % text
        return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()

    def _word(self, argument: object) -> bytes:
        if isinstance(argument, bytes):
            return argument
        if isinstance(argument, bool) or not isinstance(argument, (int, float)):
            raise ScriptFault(NOT_A_WORD.of(self._version))
        return float_text(float(argument), self._version.since_7_2)

    def _value(self, reply: Reply) -> object:
        """A reply as scripts see it (RESP2): null is false, a status and an error are tables."""
        if reply is None:
            return False
        if isinstance(reply, float):
            return float_text(reply, self._version.since_7_2)
        if isinstance(reply, Status):
            return self._table({b"ok": bytes(reply)})
        if isinstance(reply, Failure):
            return self._table({b"err": bytes(reply)})
        if isinstance(reply, (int, bytes)):
            return reply
        return self._table([self._value(item) for item in reply])

    def _reply(self, value: Any) -> Reply:
        """What a script returned, as a reply: numbers lose their fraction, true is 1, false and nil are null."""
        if value is None or value is False:
            return None
        if isinstance(value, bytes):
            return value
        if isinstance(value, (bool, int, float)):
            return _whole(value)
        if self._lua_type(value) != "table":
            return None
        return self._reply_table(value)

    def _reply_table(self, table: Any) -> Reply:
        for name, kind in ((b"err", Failure), (b"ok", Status)):
            text = table[name]
            if isinstance(text, bytes):
                return kind(text)
        if isinstance(table[b"double"], (int, float)):
            return float(table[b"double"])
        if self._lua_type(table[b"map"]) == "table":
            return Pairs(self._reply(part) for item in table[b"map"].items() for part in item)
        items: list[Reply] = []
        while (item := table[len(items) + 1]) is not None:
            items.append(self._reply(item))
        return items


def _whole(number: float) -> int:
    """A number as a C compiler converts it: without its fraction; the lowest integer where it is too large."""
    return int(number) if -(2.0**63) <= number < 2.0**63 else -(2**63)


def _text_of(fault: object) -> bytes | None:
    """What `redis.call` raised, for the prelude; None for what ends the run unchanged."""
    return fault.text if isinstance(fault, _Raised) else None


def load_lua() -> Any:
    """The module that runs Lua. Raises ImportError without it."""
    try:
        return importlib.import_module("lupa.lua51")
    except ImportError as error:
        raise ImportError(
            "the model server needs `lupa` to run scripts: pip install 'redlock-cluster[simulation]'"
        ) from error
