"""Objects of text whose brackets are beyond repair: a coordinate key, its numbers, and the next label."""

from __future__ import annotations

import re

from qwenvl.parse.boxes.candidates import Candidate
from qwenvl.parse.boxes.coordinates import numbers_at
from qwenvl.parse.boxes.images import Image, image_in
from qwenvl.parse.boxes.labels import canonical
from qwenvl.parse.boxes.names import has_content, name_in

_SALVAGE_NAME = re.compile(
    r"(?<![\w])(?!bbox|box|point|conf|score|prob|coord)([^\W\d][\w ]{0,40}?)[\"'*]{0,3}\s*+[:=]"
    r"\s*+[\"']?([^\W\d_][^\"'\n,;\]}\[{(:=]{0,79})",
    re.IGNORECASE,
)
_SALVAGE = re.compile(
    r"\b(?:bbox_2d|bbox|box_2d|bounding_box|point_2d|point)\b[\"'*]{0,3}\s*+[:=]\s*+[\[(]?\s*+"
    r"([-+]?[0-9.]{1,12}(?:\s*+,\s*+[-+]?[0-9.]{1,12}){1,5})",
    re.IGNORECASE,
)
_SALVAGE_LABEL = re.compile(
    r"\b(?:label|class|name|category|type)\b[\"'*]{0,3}\s*+[:=]\s*+[\"']?([^\"'\n,;\]}]{1,80})", re.IGNORECASE
)


def salvaged(text: str, labels: tuple[str, ...]) -> tuple[Candidate, ...]:
    """Objects of text whose brackets are beyond repair: a coordinate key, its numbers, and the next label.

    Only for text that was not cut off, because a cut cannot be told from a damage here. A label that the text
    ends with counts only where it is one of `labels`, for it may be the beginning of another word.
    """
    matches = list(_SALVAGE.finditer(text))
    found: list[Candidate] = []
    image: Image | None = None
    for index, match in enumerate(matches):
        stop = matches[index + 1].start() if index + 1 < len(matches) else len(text)
        label = _SALVAGE_LABEL.search(text, match.end(), min(stop, match.end() + 160))
        hint: str | None = None
        if not label:
            after = _SALVAGE_NAME.search(text, match.end(), min(stop, match.end() + 160))
            before = text[matches[index - 1].end() if index else 0 : match.start()][-200:]
            lines = [line for line in before.splitlines() if has_content(line)]
            known = _SALVAGE_LABEL.search(before) or _SALVAGE_NAME.search(before)
            words = after[2] if after else known[known.lastindex or 1] if known else lines[-1] if lines else ""
            hint = name_in(words, labels)
            if hint is None and found and found[-1].hint and not words:
                hint = found[-1].hint
        if label and label.end() == len(text) and labels and not canonical(label[1], labels):
            continue
        numbers = tuple(numbers_at(match[1], match.span(1)))
        sound = len(numbers) == match[1].count(",") + 1
        codes = ("salvaged",) if sound else ("dropped:numbers",)
        span = (match.start(), max(match.end(), label.end() if label else 0))
        image = image_in(text[max(0, match.start() - 200) : match.start()]) or image
        found.append(
            Candidate(numbers if sound else None, label[1] if label else None, hint, {}, codes, span, 0, image)
        )
    return tuple(found)
