"""One tile's text to its `Answer`: what each task takes as an answer, and how far it can be trusted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import words
from qwenvl.parse._counting import MAX_COUNT, number_in
from qwenvl.parse._keys import LABEL_KEYS
from qwenvl.parse._notes import fold, mended
from qwenvl.parse._text import body_of, clean
from qwenvl.parse._values import find_values
from qwenvl.parse.extracted import extract
from qwenvl.parse.objects import ParsedObjects, parse_objects
from qwenvl.request import Request, Task

_LIMITS = ("length", "loop")
_ANSWER_KEYS = ("answer", "result", "response", "value", "答案", "结果")
_COUNT_KEYS = ("count", "number", "total", "num", "n", "数量", *_ANSWER_KEYS)
_TAGS = re.compile(
    r"<\|?(box|quad|point)(?:_start)?\|?>[^<]*+<(?:/\1|\|\1_end\|)>|<\|[a-z_]{1,24}\|>|</?(?:ref|box|quad)>"
)


@dataclass(frozen=True, slots=True)
class _Read:
    """What one task made of the text."""

    status: Status
    codes: tuple[str, ...] = ()
    objects: tuple[TileObject, ...] = ()
    text: str | None = None
    value: Any = None
    scores: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def parse_answer(
    text: str,
    request: Request,
    *,
    dialect: str,
    space: CoordinateSpace,
    frame: PictureFrame,
    finish_reason: str = "stop",
    thinking: tuple[str, str] | None = None,
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
    frame : PictureFrame
        The tile's picture; objects come back in its px.
    finish_reason : str
        'stop', 'length', 'loop' or 'error', as the engine saw it.
    thinking : tuple of str or None
        Opening and closing marker of the reasoning where the model was let think.
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
        read = _Read(Status.FAILED, error="the engine stopped with an error")
    elif body.cut and not body.text:
        read = _Read(Status.TRUNCATED, ("thinking",))
    elif not body.text:
        read = _Read(Status.TRUNCATED if unfinished else Status.FAILED, error="the answer is empty")
    else:
        places = {"dialect": dialect, "space": space, "frame": frame}
        read = _read(body.text, request, unfinished or body.cut, places)
    fields = {
        "status": read.status, "objects": read.objects, "text": read.text, "value": read.value,
        "scores": dict(read.scores), "raw": raw, "reasoning": body.reasoning, "notes": fold(read.codes),
        "finish_reason": finish_reason, "error": read.error,
    }  # fmt: skip
    return Answer(**(fields | measures))


def _read(text: str, request: Request, unfinished: bool, places: dict[str, Any]) -> _Read:
    match request.task:
        case Task.DETECT | Task.POINT:
            return _objects(text, request, unfinished, places)
        case Task.COUNT:
            return _count(text, request, unfinished, places)
        case Task.CLASSIFY:
            return _classify(text, request, unfinished)
        case Task.SCORE:
            return _score(text)
        case Task.EXTRACT:
            status, value, codes, error = extract(text, request.output_schema or {}, unfinished=unfinished)
            if status is Status.FAILED and words.is_refusal(text):
                return _Read(Status.REFUSED, codes, error=error)
            return _Read(status, codes, value=value, error=error)
        case _:
            return _words(text, request, unfinished, places)


def _settled(codes: tuple[str, ...], unfinished: bool) -> Status:
    if unfinished:
        return Status.TRUNCATED
    return Status.REPAIRED if mended(codes) else Status.OK


def _objects(text: str, request: Request, unfinished: bool, places: dict[str, Any]) -> _Read:
    parsed = parse_objects(text, request, **places)
    if parsed.objects:
        status = _settled(parsed.codes, unfinished or parsed.cut or parsed.capped)
        return _Read(status, parsed.codes, parsed.objects)
    if not parsed.written and words.is_refusal(text):
        if not unfinished and words.is_negative(text, request.labels):
            return _Read(Status.EMPTY, (*parsed.codes, "prose"))
        return _Read(Status.REFUSED, parsed.codes)
    if unfinished or parsed.cut:
        # An unfinished text has not said that there is nothing more to come, not even after '[]'.
        return _Read(Status.TRUNCATED, parsed.codes)
    if parsed.written:
        return _none_valid(parsed)
    if parsed.empty:
        return _Read(Status.EMPTY, tuple(code for code in parsed.codes if code != "single"))
    if words.is_negative(text, request.labels):
        return _Read(Status.EMPTY, ("prose",))
    return _Read(Status.FAILED, parsed.codes, error="no object, empty list or clear negative could be read")


def _none_valid(parsed: ParsedObjects) -> _Read:
    return _Read(Status.FAILED, parsed.codes, error=f"none of the {parsed.written} objects written is valid")


def _count(text: str, request: Request, unfinished: bool, places: dict[str, Any]) -> _Read:
    parsed = parse_objects(text, request, **places, bare=False)
    if parsed.written or parsed.empty or parsed.cut:
        if parsed.written and not parsed.objects:
            return _none_valid(parsed)
        stopped = unfinished or parsed.cut or parsed.capped
        value = None if parsed.cut and not parsed.objects else len(parsed.objects)
        codes = (*parsed.codes, "listed")
        return _Read(_settled(codes, stopped), codes, parsed.objects, value=value)
    number, codes = _counted_in_json(text, request.labels)
    if number is None and not codes:
        if words.is_refusal(text):
            return _Read(Status.REFUSED)
        number, codes = number_in(text, request.labels)
    if number is None:
        return _Read(
            Status.TRUNCATED if unfinished else Status.FAILED, codes, error="no number could be read"
        )
    if unfinished and text[-1:].isalnum():
        # The cut may have gone through the number.
        return _Read(Status.TRUNCATED, codes, value=number)
    return _Read(_settled(codes, False), codes, value=number)


def _counted_in_json(text: str, labels: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """A count under a key such as 'count', or one per label; codes tell that there was JSON."""
    if "{" not in text:
        return None, ()
    found = find_values(text)
    for item in found.values:
        if not isinstance(item.value, dict) or found.cut:
            continue
        numbers = {str(key).casefold().strip(): _whole(value, labels) for key, value in item.value.items()}
        for key in _COUNT_KEYS:
            if numbers.get(key) is not None:
                return numbers[key], (*found.codes, "keys")
        known = [number for number in numbers.values() if number is not None]
        if known and len(known) == len(numbers):
            codes = ("keys", "summed") if len(known) > 1 else ("keys",)
            return sum(known), (*found.codes, *codes)
    return None, ("keys",) if found.values else ()


def _whole(value: Any, labels: tuple[str, ...]) -> int | None:
    if isinstance(value, str):
        return number_in(value, labels)[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value // 1 and 0 <= value <= MAX_COUNT else None


def _said(text: str, keys: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The one string that JSON around a short answer holds, or the text itself."""
    if "{" not in text and "[" not in text and '"' not in text and "```" not in text:
        return text, ()
    found = find_values(text)
    value = found.values[0].value if len(found.values) == 1 and not found.cut else None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        folded = {str(key).casefold().strip(): part for key, part in value.items()}
        value = next((folded[key] for key in keys if key in folded), None)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return (value, (*found.codes, "keys")) if isinstance(value, str) else (text, ())


def _classify(text: str, request: Request, unfinished: bool) -> _Read:
    said, codes = _said(text, (*LABEL_KEYS, *_ANSWER_KEYS))
    label, word_codes = words.class_in(said, request.labels)
    codes += word_codes
    if label is None:
        if "ambiguous" not in codes and words.is_refusal(text):
            return _Read(Status.REFUSED, codes)
        status = Status.TRUNCATED if unfinished else Status.FAILED
        reason = "several labels, or a denied one" if "ambiguous" in codes else "none of the labels"
        return _Read(status, codes, error=f"the answer names {reason}")
    longer = any(other != label and other.casefold().startswith(label.casefold()) for other in request.labels)
    # A short limit is usual here: a label in full is an answer unless it may go on to another.
    return _Read(_settled(codes, unfinished and (longer or bool(word_codes))), codes, text=label)


def _score(text: str) -> _Read:
    said, codes = _said(text, (*_ANSWER_KEYS, *LABEL_KEYS))
    answer, word_codes = words.yes_or_no(said)
    codes += word_codes
    if answer is None:
        if words.is_refusal(text):
            return _Read(Status.REFUSED, codes)
        return _Read(Status.FAILED, codes, error="the answer is neither yes nor no")
    codes += ("text",)
    status = _settled(codes, False)
    return _Read(status, codes, text="yes" if answer else "no", scores=(("yes", float(answer)),))


def _words(text: str, request: Request, unfinished: bool, places: dict[str, Any]) -> _Read:
    """Describe and ask: the words, and any places that the model grounded in them."""
    parsed = ParsedObjects()
    if "<" in text or "{" in text:
        parsed = parse_objects(text, request, **places, bare=False)
    spoken = " ".join(_TAGS.sub(" ", text).split()) if "<" in text else text
    codes = parsed.codes if parsed.written else ()
    codes = tuple(code for code in codes if code not in ("prose", "single", "lines", "merged"))
    if not parsed.written and words.is_refusal(text):
        return _Read(Status.REFUSED, codes, text=spoken)
    if not spoken and not parsed.objects:
        return _Read(Status.FAILED, codes, error="the answer holds no words")
    status = _settled(codes, unfinished or (parsed.capped and bool(parsed.written)))
    return _Read(status, codes, parsed.objects, text=spoken)
