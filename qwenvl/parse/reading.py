"""One answer's text, read once: what every task takes of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from qwenvl.parse.boxes.dialects import TagsFound, find_tags
from qwenvl.parse.json.values import FoundValue, find_values
from qwenvl.parse.spans import Origin, Span, moved
from qwenvl.parse.text.text import without_tool_calls


class TextReading:
    """An answer's text and what it writes; each grammar is read at most once, when it is first asked for.

    Parameters
    ----------
    text : str
        The answer part of a model's text.
    start : int
        Where it stands in the model's text.

    Attributes
    ----------
    whole : str
        The text as given.
    text : str
        The same with blanks where the model calls a tool.
    calls : bool
        Whether it does.
    """

    def __init__(self, text: str, start: int = 0) -> None:
        self.whole, self.start = text, start
        self.text, self.calls = without_tool_calls(text)

    @cached_property
    def values(self) -> FoundValue:
        """Its JSON values and tables."""
        return find_values(self.text)

    @cached_property
    def tags(self) -> TagsFound:
        """Its boxes and points in tags."""
        return find_tags(self.text, pairs=True)

    def places(self, span: Span, numbers: Sequence[Span | None], origin: Origin = 0) -> tuple[Span, tuple[Span, ...]]:
        """Where an object and its numbers stand in the model's text.

        Parameters
        ----------
        span : (int, int)
            The object's place in the stretch that `origin` is of.
        numbers : sequence of (int, int) or None
            The same of its numbers; where one is nowhere written as such, none has a place.
        origin : int or sequence of int
        """
        if not isinstance(origin, int):
            numbers = [place and moved(place, origin) for place in numbers]
            span, origin = moved(span, origin), 0
        shift = origin + self.start
        start, end = span
        if None in numbers:
            return (start + shift, end + shift), ()
        return (start + shift, end + shift), tuple([(at + shift, to + shift) for at, to in numbers])  # type: ignore[misc]
