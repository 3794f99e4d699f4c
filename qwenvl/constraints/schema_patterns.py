"""Regular expressions of a user's schema, matched in bounded time.

Patterns go to an engine without backtracking (Rust's, which pydantic brings along): its time grows with the
text alone. Look-around and back-references need another one; that one has a time limit.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

import regex
from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from qwenvl.errors import RequestError

LONGEST = 1_000
"""Most characters of a pattern."""

_SECONDS = 1.0
_MOST_STEPS = 20_000  # places of a pattern after its repetitions are written out
_DEEPEST = 50
_LOOKAROUND = re.compile(r"\(\?<?[=!]")
# What Rust's syntax reads in another way: sets within classes, and its own escapes.
_DIFFERS = re.compile(r"\[|\\[<>]|\\b\{")
_PLAIN_CLASS = re.compile(r"\[\^?(?:[^][\\&~-]|\\[^bBcux]|-(?!-))+\]")
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|.", re.DOTALL)
_REPEAT = re.compile(r"\{(\d*)(,?)(\d*)\}")


class PatternTimeoutError(Exception):
    """Matching took longer than the limit."""


def looks_around(pattern: str) -> bool:
    """True where a pattern has a lookahead or lookbehind, which no grammar of answers can keep to."""
    return _LOOKAROUND.search(pattern) is not None


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that cannot be matched in bounded time and memory.

    Raises
    ------
    RequestError
        It is no regular expression, too long, nested too deep, or its repetitions multiply too far.
    """
    shown = repr(pattern[:60])
    if len(pattern) > LONGEST:
        raise RequestError(f"the pattern {shown}... has {len(pattern)} characters; use at most {LONGEST}")
    if _steps(pattern) > _MOST_STEPS:
        raise RequestError(
            f"the repetitions of the pattern {shown} multiply to more than {_MOST_STEPS} places; use smaller ones, "
            "or minLength and maxLength"
        )
    _matcher(pattern)


def matches(pattern: str, text: str) -> bool:
    """True where a pattern is found somewhere in a text, as JSON Schema has it.

    Raises
    ------
    PatternTimeoutError
        It takes longer than a second.
    RequestError
        It is no regular expression.
    """
    return _matcher(pattern)(text)


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], bool]:
    return _linear(pattern) or _limited(pattern)


def _linear(pattern: str) -> Callable[[str], bool] | None:
    """A matcher without backtracking, or None where the pattern needs it or would mean something else."""
    if _DIFFERS.search(_PLAIN_CLASS.sub("", pattern)):
        return None
    try:
        adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError:
        return None

    def found(text: str) -> bool:
        try:
            adapter.validate_python(text)
        except ValidationError:
            return False
        return True

    return found


def _limited(pattern: str) -> Callable[[str], bool]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise RequestError(f"{pattern[:60]!r} is no regular expression: {error}") from None

    def found(text: str) -> bool:
        try:
            return compiled.search(text, timeout=_SECONDS) is not None
        except TimeoutError:
            raise PatternTimeoutError(
                f"the pattern {pattern[:60]!r} takes more than {_SECONDS:g} s on {text[:40]!r}; write it without "
                "nested repetitions"
            ) from None

    return found


def _steps(pattern: str) -> int:
    """Places of a pattern once its counted repetitions are written out."""
    stack, last, at = [0], 0, 0
    while at < len(pattern):
        repeat = _REPEAT.match(pattern, at)
        if repeat is not None and (repeat.group(1) or repeat.group(3)):
            count = min(int((repeat.group(3) or repeat.group(1))[:9]), 10**9)
            stack[-1] += last * max(0, count - 1)
            last *= max(1, count)
            at = repeat.end()
            continue
        atom = _ATOM.match(pattern, at)
        assert atom is not None
        at = atom.end()
        if atom.group() == "(":
            stack.append(0)
            if len(stack) > _DEEPEST:
                raise RequestError(f"the pattern {pattern[:60]!r} is nested more than {_DEEPEST} deep")
        elif atom.group() == ")" and len(stack) > 1:
            last = max(1, stack.pop())
            stack[-1] += last
        elif atom.group() not in "*+?|":
            last = 1
            stack[-1] += 1
    return sum(stack)
