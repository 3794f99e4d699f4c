"""One tile's text to its `Answer`: what each task takes as an answer, and how far it can be trusted."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from qwenvl.answer import Answer, Status
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse.boxes.objects import ParsedObjects, parse_objects
from qwenvl.parse.json.extracted import extracted
from qwenvl.parse.json.grounded import grounded
from qwenvl.parse.ledger import holds_places
from qwenvl.parse.notes import fold
from qwenvl.parse.outcome import ParseOutcome, none_valid, settled
from qwenvl.parse.reading import TextReading
from qwenvl.parse.text import words
from qwenvl.parse.text.short import classify, count, score
from qwenvl.parse.text.text import body_of, clean
from qwenvl.request import Request, Task

_NOWHERE = PictureFrame.same(1000, 1000)
_LIMITS = ("length", "loop")
_TAGS = re.compile(
    r"<\|?(box|quad|point)(?:_start)?\|?>[^<]*+<(?:/\1|\|\1_end\|)>|<\|[a-z_]{1,24}\|>|</?(?:ref|box|quad)>"
)


def parse_answer(
    text: str,
    request: Request,
    *,
    dialect: str,
    space: CoordinateSpace,
    frame: PictureFrame | None,
    finish_reason: str = "stop",
    thinking: tuple[str, str] | None = None,
    image: tuple[int, int] = (0, 1),
    **measures: Any,
) -> Answer:
    """Read one tile's answer out of a model's text. Never raises for what the text holds.

    Parameters
    ----------
    text : str
        The model's text as decoded, special tokens of the dialect included.
    request : Request
        What was asked.
    dialect : str
        'json', 'tags_v1' or 'tags_v2': the family's own grounding grammar. The others are tried after it.
    space : CoordinateSpace
        What the family's numbers mean.
    frame : PictureFrame or None
        The tile's picture; objects come back in its px. None where the question had no picture: places in its
        answer mean nothing, and are dropped with the note 'unplaced'.
    finish_reason : str
        'stop', 'length', 'loop' or 'error', as the engine saw it.
    thinking : tuple of str or None
        Opening and closing marker of the reasoning where the model was let think.
    image : (int, int)
        Place of the tile's picture among those of the question, from 0, and their number. Objects that say to lie in
        another one are dropped with the note 'dropped:n:other_image'.
    **measures
        `prompt_tokens`, `new_tokens`, `seconds` and `error` of the answer.

    Returns
    -------
    Answer
        With the raw text always kept. `docs/parsing.md` lists what becomes of each malformed shape.

    Raises
    ------
    ValueError
        The dialect is unknown.
    """
    raw = clean(text)
    body = body_of(raw, thinking=thinking, finished=finish_reason not in _LIMITS)
    unfinished = finish_reason in _LIMITS
    if finish_reason == "error":
        read = ParseOutcome(Status.FAILED, error="the engine stopped with an error")
    elif body.cut and not body.text:
        read = ParseOutcome(Status.TRUNCATED, ("thinking",))
    elif not body.text:
        read = ParseOutcome(Status.TRUNCATED if unfinished else Status.FAILED, error="the answer is empty")
    else:
        places = {"dialect": dialect, "space": space, "frame": frame or _NOWHERE, "image": image}
        read = _read(TextReading(body.text, body.start), request, unfinished or body.cut, places)
        if frame is None and read.objects:
            status = settled((*read.codes, "unplaced"), read.status is Status.TRUNCATED)
            read = replace(read, objects=(), codes=(*read.codes, "unplaced"), status=status)
            if not read.text and read.value is None:
                read = replace(read, status=Status.FAILED, error="the answer holds places, but there is no picture")
    if holds_places(body.behind) and read.status in (Status.OK, Status.REPAIRED, Status.EMPTY):
        empty = read.status is Status.EMPTY
        read = replace(
            read,
            status=Status.FAILED if empty else Status.REPAIRED,
            codes=(*read.codes, "leftover"),
            error="something stands behind the end of an empty answer" if empty else read.error,
        )
    fields = {
        "status": read.status,
        "objects": read.objects,
        "text": read.text,
        "value": read.value,
        "scores": dict(read.scores),
        "raw": raw,
        "reasoning": body.reasoning,
        "notes": fold(read.codes),
        "finish_reason": finish_reason,
        "error": read.error,
    }
    return Answer(**(fields | measures))


def _read(reading: TextReading, request: Request, unfinished: bool, places: dict[str, Any]) -> ParseOutcome:
    match request.task:
        case Task.DETECT | Task.POINT:
            return _objects(reading, request, unfinished, places)
        case Task.COUNT:
            return count(reading, request, unfinished, places)
        case Task.CLASSIFY:
            return classify(reading, request, unfinished)
        case Task.SCORE:
            return score(reading)
        case Task.EXTRACT:
            read = extracted(reading, request.output_schema or {}, unfinished=unfinished)
            if read.status is Status.FAILED and words.is_refusal(reading.whole):
                return ParseOutcome(Status.REFUSED, read.codes, error=read.error)
            objects, placing = grounded(read.written, reading, **places) if read.written is not None else ((), ())
            status = settled(placing, unfinished=False) if placing and read.status is Status.OK else read.status
            return ParseOutcome(status, (*read.codes, *placing), objects, value=read.value, error=read.error)
        case _:
            return _words(reading, request, unfinished, places)


def _objects(reading: TextReading, request: Request, unfinished: bool, places: dict[str, Any]) -> ParseOutcome:
    parsed, text = parse_objects(reading, request, **places), reading.whole
    if parsed.objects:
        status = settled(parsed.codes, unfinished or parsed.cut or parsed.capped)
        return ParseOutcome(status, parsed.codes, parsed.objects)
    if not parsed.written and words.is_refusal(text):
        if not unfinished and words.is_negative(text, request.labels):
            return ParseOutcome(Status.EMPTY, (*parsed.codes, "prose"))
        return ParseOutcome(Status.REFUSED, parsed.codes)
    if unfinished or parsed.cut:
        # An unfinished text has not said that there is nothing more to come, not even after '[]'.
        return ParseOutcome(Status.TRUNCATED, parsed.codes)
    if parsed.written:
        return none_valid(parsed)
    if parsed.empty and "prose" in parsed.codes and words.hedges(text, request.labels):
        return ParseOutcome(Status.FAILED, parsed.codes, error="the words around the empty list do not agree with it")
    if parsed.empty:
        return ParseOutcome(Status.EMPTY, tuple(code for code in parsed.codes if code != "single"))
    if words.is_negative(text, request.labels):
        return ParseOutcome(Status.EMPTY, ("prose",))
    if "tool_call" in parsed.codes:
        return ParseOutcome(Status.FAILED, parsed.codes, error="the model called a tool instead of an answer")
    return ParseOutcome(Status.FAILED, parsed.codes, error="no object, empty list or clear negative could be read")


def _words(reading: TextReading, request: Request, unfinished: bool, places: dict[str, Any]) -> ParseOutcome:
    """Describe and ask: the words, and any places that the model grounded in them."""
    parsed, text = ParsedObjects(), reading.whole
    if "<" in text or "{" in text:
        parsed = parse_objects(reading, request, **places, bare=False)
    spoken = " ".join(_TAGS.sub(" ", text).split()) if "<" in text else text
    codes = parsed.codes if parsed.written else ()
    codes = tuple(code for code in codes if code not in ("prose", "single", "lines", "merged", "leftover"))
    if not parsed.written and words.is_refusal(text):
        return ParseOutcome(Status.REFUSED, codes, text=spoken)
    if not spoken and not parsed.objects:
        return ParseOutcome(Status.FAILED, codes, error="the answer holds no words")
    status = settled(codes, unfinished or (parsed.capped and bool(parsed.written)))
    return ParseOutcome(status, codes, parsed.objects, text=spoken)
