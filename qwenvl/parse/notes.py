"""The short codes that say what was noticed in one answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_COUNTED = {
    "capped",
    "clipped",
    "corners",
    "duplicates",
    "kind",
    "label:assumed",
    "label:first",
    "label:missing",
    "label:unknown",
    "out_of_range",
    "tags",
}
_INFORMATIVE = {"fence", "text"}
"""Codes of well-formed answers: the families fence JSON by habit, and 'text' names the source of a score."""

CORRECTS = re.compile(
    r"\b(?:wait|actually|correction|corrected|mistake|error|apologi[sz]e|on second thought|scratch that|strike that"
    r"|let me (?:correct|redo|fix|revise|re-?check|re-?do|re-?examine)|revised|final answer|should be)\b"
    r"|更正|修正|纠正|改正|更新后|不对|应该是|应为|最终答案",
    re.IGNORECASE,
)
"""Words that take back what stands before them."""


def fold(codes: Sequence[str]) -> tuple[str, ...]:
    """Codes in order of first sight, each once; countable ones with their number.

    >>> fold(["fence", "clipped", "dropped:numbers", "clipped"])
    ('fence', 'clipped:2', 'dropped:1:numbers')
    """
    if not codes:
        return ()
    folded = []
    for code, count in Counter(codes).items():
        head, _, reason = code.partition(":")
        if head == "dropped":
            folded.append(f"dropped:{count}:{reason}")
        else:
            folded.append(f"{code}:{count}" if code in _COUNTED else code)
    return tuple(folded)


def mended(codes: Iterable[str]) -> bool:
    """True where a code speaks of something that was not as asked for."""
    return any(code not in _INFORMATIVE for code in codes)
