"""From the name a model gives to the label that was asked for."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from qwenvl.parse.text.text import clean

UNLABELLED = "unlabelled"
"""Label of an object whose model named none while several were asked for."""
MAX_LABEL = 80

_SEPARATORS = re.compile(r"[\s_\-/]++")
_EDGE = " \t\r\n\"'`*.,;:!?()[]{}<>|“”‘’。，：；！？#"
FOLDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("article", re.compile(r"^(?:an?|the|one|this|some)[\s_]+(?=\S)", re.IGNORECASE)),
    (
        "measure word",
        re.compile(r"^(?:[一这那每两三几]?(?:个|只|处|枚|颗|名)|一些|这些|第[0-9一二三四五六七八九十]{1,4}个)(?=\S)"),
    ),
    ("numbering", re.compile(r"^[#(]?[0-9]{1,4}[.):、]\s*(?=\S)")),
    ("plural in brackets", re.compile(r"\((?:s|es|e|i|a|ae)$", re.IGNORECASE)),
    ("percent", re.compile(r"[\s_:：=,(（@-]*+(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,6})?\s*[%％]$")),
    ("share", re.compile(r"[\s_:：=,(（@]++(?:0?\.[0-9]{1,6}|1\.0+)$")),
    ("number", re.compile(r"[\s_#(（:-]++(?:no\.?|nr\.?|id|#)?\s*[0-9]{1,4}$", re.IGNORECASE)),
    ("number without a space", re.compile(r"(?<=[^\W\d_]{4})[0-9]{1,4}$")),
    ("number without a space", re.compile(r"(?<=[\u4e00-\u9fff])[0-9]{1,4}(?:号)?$")),
    ("plural", re.compile(r"(?<=[\u4e00-\u9fff])(?:们|号)$")),
)
"""What counts for nothing in a name beside case, spaces, hyphens and plurals: taken off one at a time."""
_ENDINGS = ("es", "is", "us", "um", "ae", "on", "e", "s", "i", "a")
_REJECTS = re.compile(
    r"\b(?:false[\s_-]?(?:positives?|alarms?|detections?)|rejected|excluded|discarded|ignored|removed|negatives?)\b"
    r"|误检|假阳性|已?排除|忽略",
    re.IGNORECASE,
)
_DENYING = re.compile(
    r"(?:\b(?:not|no|non|never|neither|nor|without|excluding|except|false|isn't|aren't|pseudo)\b[\s\w-]{0,16}|不是|没有|非|无)$",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
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

    Compared without regard to case, spaces, hyphens, English and Latin plurals, and what `FOLDS` lists (an
    article, a number or percentage behind). Labels that only differ in such ways are distinguished by their exact form.
    """
    if name in labels:
        return name
    table = forms(labels)
    text = readable(name if name.isascii() else unicodedata.normalize("NFKC", name))
    for _ in range(4):
        match = table.get(folded(text)) or table.get(f"~{stem(text)}")
        if match:
            return match
        for _, pattern in FOLDS:
            shorter = pattern.sub("", text).strip(_EDGE)
            if shorter and shorter != text:
                text = shorter
                break
        else:
            return None
    return None


def label_of(written: object, hint: str | None, labels: tuple[str, ...]) -> tuple[str, str | None]:
    """An object's label and a code where it is not simply one of those asked for.

    Parameters
    ----------
    written : object
        What stands under the object's label key; None without one.
    hint : str or None
        A name from around the object: the key it stood under, the words before it. It counts where the object has
        none of its own.
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
            if hint and (_REJECTS.search(hint) or denies(hint, match)):
                return readable(hint) or UNLABELLED, "label:unknown"
            return match, "label:marks" if _odd_marks(str(written)) else code
        return name, "label:unknown" if labels else code
    if hint:
        match = canonical(hint, labels)
        return (match, None) if match else (readable(hint) or UNLABELLED, "label:unknown" if labels else None)
    if len(labels) == 1:
        return labels[0], "label:assumed"
    return UNLABELLED, "label:missing"


_ODD_MARK = re.compile(r"[\[\]{}<>|?？]")
_PRESENCE = frozenset({"present", "exists", "detected", "visible", "found", "valid", "is_present", "存在"})
_ABSENCE = frozenset(
    {"negative", "rejected", "false_positive", "is_false_positive", "absent", "excluded", "误检", "假阳性"}
)
_NO = frozenset({"false", "no", "0", "n", "否", "不是"})
_YES = frozenset({"true", "yes", "1", "y", "是"})


def is_taken_back(extra: Mapping[str, object], label: str) -> bool:
    """True where an object's own keys say that it is none.

    'present', 'is_mitosis' or 'mitosis' is false, 'no' or 0; 'rejected' is true; a short text denies the label.
    """
    for key, value in extra.items():
        if not isinstance(value, (bool, int, str)):
            continue
        name, text = key.casefold().strip(), str(value).casefold().strip(_EDGE)
        if text in _NO and (name in _PRESENCE or canonical(name.removeprefix("is").strip("_ "), (label,))):
            return True
        if text in _YES and name.replace(" ", "_") in _ABSENCE:
            return True
        if isinstance(value, str) and len(value) <= 80 and denies(value, label):
            return True
    return False


@lru_cache(maxsize=4096)
def _odd_marks(name: str) -> bool:
    """True for brackets, bars and question marks that belong to no name: what they say may be lost."""
    return _ODD_MARK.search(name) is not None or name.count("(") != name.count(")")


def denies(words: str, label: str) -> bool:
    """True where `words` say that something is not of `label`: 'non-mitoses', 'these are not mitoses'."""
    return any(
        _DENYING.search(words[max(0, start - 40) : start]) is not None for start, _, _ in mentioned(words, (label,))
    )


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
