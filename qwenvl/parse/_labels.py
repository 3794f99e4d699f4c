"""From the name a model gives to the label that was asked for."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from qwenvl.parse._text import clean

UNLABELLED = "unlabelled"
"""Label of an object whose model named none while several were asked for."""
MAX_LABEL = 80

_SEPARATORS = re.compile(r"[\s_\-/]++")
_EDGE = " \t\r\n\"'`*.,;:!?()[]{}<>|“”‘’。，：；！？#"
_ORDINAL = re.compile(r"[\s_#(]*+\b[0-9]{1,4}\)?$")
_ENDINGS = ("es", "is", "us", "um", "ae", "on", "e", "s", "i", "a")


def readable(name: str) -> str:
    """One line of at most 80 characters, without quotes, markup and punctuation around it."""
    return clean(" ".join(name[:400].split()).strip(_EDGE)[:MAX_LABEL].strip())


def folded(name: str) -> str:
    """`name` without regard to case, width, spaces, underscores and hyphens."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", name).casefold())


def stem(name: str) -> str:
    """`folded` without the plural of its last word (English and Latin), and with 'tumor' for 'tumour'."""
    word = folded(name).replace("our", "or")
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


@lru_cache(maxsize=256)
def forms(labels: tuple[str, ...]) -> dict[str, str]:
    """Folded names and unambiguous stems (marked with '~'), each with its canonical label."""
    stems = Counter(stem(label) for label in labels)
    table = {f"~{stem(label)}": label for label in labels if stems[stem(label)] == 1}
    for label in reversed(labels):
        table[folded(label)] = label
    return table


@lru_cache(maxsize=4096)
def canonical(name: str, labels: tuple[str, ...]) -> str | None:
    """The requested label that `name` means, or None.

    Compared without regard to case, spaces, hyphens, English and Latin plurals; a trailing number
    ('nucleus 3') counts nothing. Labels that only differ in such ways are told apart by their exact form.
    """
    if name in labels:
        return name
    table = forms(labels)
    for candidate in (readable(name), readable(_ORDINAL.sub("", readable(name)))):
        if candidate:
            match = table.get(folded(candidate)) or table.get(f"~{stem(candidate)}")
            if match:
                return match
    return None


def label_of(written: object, hint: str | None, labels: tuple[str, ...]) -> tuple[str, str | None]:
    """An object's label and a code where it is not simply one of those asked for.

    Parameters
    ----------
    written : object
        What stands under the object's label key; None without one.
    hint : str or None
        A name from around the object: the key it stood under, the words before it.
    labels : tuple of str
        The request's labels; empty where the request names none.
    """
    code = None
    if isinstance(written, (list, tuple)):
        names = [readable(item) for item in written[:20] if isinstance(item, str)]
        matches = [name for name in names if canonical(name, labels)]
        written = next(iter(matches or names), None)
        code = "label:first"
    if isinstance(written, (int, float)) and not isinstance(written, bool):
        written = str(written)
    name = readable(written) if isinstance(written, str) else ""
    if name.casefold() in ("", "none", "null", "n/a", "nan"):
        name = ""
    if name:
        match = canonical(name, labels)
        if match:
            return match, code
        return name, "label:unknown" if labels else code
    match = canonical(hint, labels) if hint else None
    if match:
        return match, None
    if len(labels) == 1:
        return labels[0], "label:assumed"
    return UNLABELLED, "label:missing"


def mentioned(text: str, labels: Iterable[str]) -> list[tuple[int, int, str]]:
    """Where `text` names labels as whole words, in any number and case: (start, end, label).

    Of labels that overlap the longest is taken.
    """
    spans: list[tuple[int, int, str]] = []
    for label in sorted(labels, key=len, reverse=True):
        for match in _mention(label).finditer(text):
            if all(match.end() <= start or match.start() >= end for start, end, _ in spans):
                spans.append((match.start(), match.end(), label))
    return sorted(spans)


_PLURALS = (("us", "us|i|uses"), ("is", "is|es"), ("um", "um|a"), ("a", "a|ae|as"), ("y", "y|ies"))


@lru_cache(maxsize=512)
def _mention(label: str) -> re.Pattern[str]:
    words = [re.escape(word) for word in _SEPARATORS.split(label.strip()) if word]
    if not words:
        return re.compile(r"(?!)")
    last = _SEPARATORS.split(label.strip())[-1]
    root = re.escape(last)
    for ending, others in _PLURALS:
        if last.casefold().endswith(ending) and len(last) > len(ending) + 2:
            root = f"{re.escape(last[: -len(ending)])}(?:{others})"
            break
    else:
        plural = {"i": "us", "es": "is", "s": ""}
        single = next((s for s in plural if last.casefold().endswith(s) and len(last) > len(s) + 2), None)
        if single:
            root = f"(?:{root}|{re.escape(last[: -len(single)])}{plural[single]})"
        root = f"{root}(?:e?s)?"
    words[-1] = root
    pattern = r"[\s_\-]{0,3}".join(words).replace("our", "ou?r")
    edge = r"(?![^\W_])" if last[-1].isalnum() and last[-1].isascii() else ""
    start = r"(?<![^\W_])" if label[0].isalnum() and label[0].isascii() else ""
    return re.compile(start + pattern + edge, re.IGNORECASE)
