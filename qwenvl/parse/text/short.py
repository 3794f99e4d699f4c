"""Short answers: a number, one of several classes, yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenvl.answer import Status
from qwenvl.parse.boxes.keys import LABEL_KEYS
from qwenvl.parse.boxes.labels import canonical
from qwenvl.parse.boxes.objects import parse_objects
from qwenvl.parse.outcome import ParseOutcome, none_valid, settled
from qwenvl.parse.reading import TextReading
from qwenvl.parse.text import words
from qwenvl.parse.text.counting import MAX_COUNT, number_in
from qwenvl.request import Request

_ANSWER_KEYS = ("answer", "result", "response", "value", "答案", "结果")
_COUNT_KEYS = ("count", "number", "total", "num", "n", "数量", *_ANSWER_KEYS)


def count(reading: TextReading, request: Request, unfinished: bool, places: dict[str, Any]) -> ParseOutcome:
    """The number stated, or the length of the list where the model answered with objects. 0 is a number."""
    text = reading.whole
    parsed = parse_objects(reading, request, **places, bare=False)
    number, codes = (None, ()) if parsed.objects else _counted_in_json(reading, request.labels)
    if number is None and (parsed.written or parsed.empty or parsed.cut):
        if parsed.written and not parsed.objects:
            return none_valid(parsed)
        stopped = unfinished or parsed.cut or parsed.capped
        value = None if stopped and not parsed.objects else len(parsed.objects)
        codes = (*parsed.codes, "listed")
        return ParseOutcome(settled(codes, stopped), codes, parsed.objects, value=value)
    if number is None and not codes:
        if words.is_refusal(text):
            return ParseOutcome(Status.REFUSED)
        number, codes = number_in(text, request.labels)
    if number is None:
        return ParseOutcome(Status.TRUNCATED if unfinished else Status.FAILED, codes, error="no number could be read")
    if unfinished and text[-1:].isalnum():
        # The cut may have gone through the number.
        return ParseOutcome(Status.TRUNCATED, codes, value=number)
    return ParseOutcome(settled(codes, False), codes, value=number)


def _counted_in_json(reading: TextReading, labels: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """Counts under a key such as 'count', or under the labels, added up; codes tell that there was JSON."""
    if "{" not in reading.text:
        return None, ()
    found = reading.values
    if found.cut or not found.values:
        return None, ("keys",) if found.values else ()
    items: list[Any] = []
    for value in found.values:
        items.extend(value.value if isinstance(value.value, list) else [value.value])
    counts = [count for item in items if isinstance(item, dict) for count in _counts(item, labels)]
    if not counts or not all(isinstance(item, dict) for item in items):
        return None, ("keys",)
    return sum(counts), (*found.codes, "keys", *(("summed",) if len(counts) > 1 else ()))


def _counts(item: Mapping[str, object], labels: tuple[str, ...]) -> list[int]:
    """The count of one dict, or one per label; empty where it holds anything else."""
    numbers = {str(key).casefold().strip(): _whole(value, labels) for key, value in item.items()}
    for key in _COUNT_KEYS:
        stated = numbers.get(key)
        if stated is not None:
            return [stated]
    known = [number for number in numbers.values() if number is not None]
    return known if len(known) == len(numbers) and all(canonical(str(key)[:120], labels) for key in item) else []


def _whole(value: object, labels: tuple[str, ...]) -> int | None:
    if isinstance(value, str):
        return number_in(value, labels)[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value // 1 and 0 <= value <= MAX_COUNT else None


def _said(reading: TextReading, keys: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The one string that JSON around a short answer holds, or the text itself."""
    text = reading.whole
    if "{" not in text and "[" not in text and '"' not in text and "```" not in text:
        return text, ()
    found = reading.values
    value = found.values[0].value if len(found.values) == 1 and not found.cut else None
    keyless = isinstance(value, str)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        folded = {str(key).casefold().strip(): part for key, part in value.items()}
        value = next((folded[key] for key in keys if key in folded), None)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if not isinstance(value, str):
        return text, ()
    return value, found.codes if keyless else (*found.codes, "keys")


def classify(reading: TextReading, request: Request, unfinished: bool) -> ParseOutcome:
    """The one label chosen; several named, or one denied, is no choice."""
    said, codes = _said(reading, (*LABEL_KEYS, *_ANSWER_KEYS))
    label, word_codes = words.class_in(said, request.labels)
    codes += word_codes
    if label is None:
        if "ambiguous" not in codes and words.is_refusal(reading.whole):
            return ParseOutcome(Status.REFUSED, codes)
        status = Status.TRUNCATED if unfinished else Status.FAILED
        reason = "several labels, or a denied one" if "ambiguous" in codes else "none of the labels"
        return ParseOutcome(status, codes, error=f"the answer names {reason}")
    longer = any(other != label and other.casefold().startswith(label.casefold()) for other in request.labels)
    # A short limit is usual here: a label in full is an answer unless it may go on to another.
    return ParseOutcome(settled(codes, unfinished and (longer or bool(word_codes))), codes, text=label)


def score(reading: TextReading) -> ParseOutcome:
    """1 for yes and 0 for no, for engines that cannot give a probability."""
    said, codes = _said(reading, (*_ANSWER_KEYS, *LABEL_KEYS))
    answer, word_codes = words.yes_or_no(said)
    codes += word_codes
    if answer is None:
        if words.is_refusal(reading.whole):
            return ParseOutcome(Status.REFUSED, codes)
        return ParseOutcome(Status.FAILED, codes, error="the answer is neither yes nor no")
    codes += ("text",)
    status = settled(codes, False)
    return ParseOutcome(status, codes, text="yes" if answer else "no", scores=(("yes", float(answer)),))
