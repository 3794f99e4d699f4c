"""What reading one text came to, before it becomes an `Answer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwenvl.answer import Status, TileObject
from qwenvl.parse.boxes.objects import ParsedObjects
from qwenvl.parse.notes import mended


@dataclass(frozen=True, slots=True)
class ParseOutcome:
    """What one task made of the text; the fields of `Answer` that depend on the task, with unfolded codes."""

    status: Status
    codes: tuple[str, ...] = ()
    objects: tuple[TileObject, ...] = ()
    text: str | None = None
    value: Any = None
    scores: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def settled(codes: tuple[str, ...], unfinished: bool) -> Status:
    """The status of a text that holds an answer."""
    if unfinished:
        return Status.TRUNCATED
    return Status.REPAIRED if mended(codes) else Status.OK


def none_valid(parsed: ParsedObjects) -> ParseOutcome:
    """The outcome of a text that speaks of objects, none of which can be placed."""
    return ParseOutcome(Status.FAILED, parsed.codes, error=f"none of the {parsed.written} objects written is valid")
