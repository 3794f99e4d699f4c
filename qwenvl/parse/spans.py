"""Values as read from a text: each array, object and number knows where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

Span = tuple[int, int]
"""First character and the one behind the last."""
Origin = int | Sequence[int]
"""Where a stretch of text comes from: how far into the text it begins, or the place of each of its characters."""


class Number(float):
    """A number and where it is written. Arithmetic loses the place: its result is written nowhere."""

    __slots__ = ("span",)
    span: Span

    @classmethod
    def at(cls, value: float | str, span: Span | None) -> float:
        """`value` written at `span`; a plain float where that is None."""
        if span is None:
            return float(value)
        number = cls(value)
        number.span = span
        return number


def span_of(number: float) -> Span | None:
    """Where a number is written; None where it is nowhere written as such."""
    return number.span if type(number) is Number else None


class Items(list[Any]):
    """An array as read: `span` is its place in the text, `spans` has that of each element."""

    __slots__ = ("span", "spans")
    span: Span
    spans: Sequence[Span]


class FieldSpans(dict[str, Any]):
    """An object as read: `span` is its place in the text, `spans` has that of the value of each pair."""

    __slots__ = ("span", "spans")
    span: Span
    spans: Sequence[Span]


class CutList(Items):
    """An array that the text ended inside of: its elements were finished, the array was not."""

    __slots__ = ()


class CutDict(FieldSpans):
    """An object that the text ended inside of: it is not known what it was going to say."""

    __slots__ = ()


class SplitList(Items):
    """Several objects that the model wrote into one pair of braces, repeating its coordinate key."""

    __slots__ = ()


class RepeatedDict(FieldSpans):
    """An object in which a key stands twice; `pairs` has all of them, the dict the last."""

    __slots__ = ("pairs",)
    pairs: list[tuple[str, Any]]


_Kind = TypeVar("_Kind", Items, FieldSpans, CutList, CutDict, SplitList, RepeatedDict)


def written_as(kind: type[_Kind], parts: Iterable[Any], span: Span, spans: Sequence[Span]) -> _Kind:
    """An array or object of `parts` with its places."""
    made = kind(parts)
    made.span, made.spans = span, spans
    return made


def moved(span: Span, origin: Origin) -> Span:
    """A span of a stretch of text as one of the text that the stretch comes from."""
    start, end = span
    if isinstance(origin, int):
        return start + origin, end + origin
    return origin[start], origin[end - 1] + 1


def behind(origin: Origin, start: int) -> Origin:
    """The origin of what stands from character `start` on in a stretch of this origin."""
    return origin + start if isinstance(origin, int) else origin[start:]
