"""Which words beside an object are its name: a key's value, a group's key, a heading, the words before a tag.

Words that only speak of answering ('here are the boxes:') name nothing. Any other words do, and where they are not
one of the labels asked for, the object is of an unknown class: 'non-mitosis' is no mitosis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from qwenvl.parse.boxes.keys import LABEL_KEYS, NOT_NAMES, SCORE_KEYS
from qwenvl.parse.boxes.labels import canonical, mentioned, readable

_GENERIC_ENGLISH = """
    a above all also am an and annotation annotations answer answers are area as assistant at bbox bboxes be below
    bounding box boxes by can certainly coordinate coordinates coords corrected correction corresponding could d data
    detect detected detecting detection detections each entities entity every expected final find finding findings first
    following follows for format found frame from given group groups have here i identified identify image in instance
    instances is it item items its javascript js json jsonl label labels labelled labeled let list listed located
    location locations locate look me my n normalised normalized now object objects of okay on one or our output
    page per photo picture pixel pixels point points position positions prediction predictions present px python
    region regions request requested respectively response result results rect rectangle rectangles revised second see
    seen set should shown slide sorry spotted step structure structures sure target targets text that the their them
    there these they this those tile to total up view visible wait was we were where which with xml yaml you your
    yes none null nan undefined unlabelled unlabeled detectable actually annotated instead rows row entry
    hope helps help know need anything else further assist
    geometry roi bounds loc aabb extent window
    entries obj objs value values key keys sentence describes described expression phrase query action click start
"""
_GENERIC = frozenset(_GENERIC_ENGLISH.split())
_GENERIC_CHINESE = re.compile(
    r"以下|如下|下面|下列|这些|这个|那些|这|那|我|已|检测|识别|标注|找到|发现|看到|给出|输出|结果|答案|回答|目标|对象|物体|实例"
    r"|边界框|包围框|检测框|框|坐标|位置|图片|图像|图中|图|所有|全部|中|里|内|的|是|为|有|在|到|出|和|与|个|共|各|列表|分别|如|请|看"
)
_BEHIND = " \t-–—:=()<>←→,;.|*`]}"
"""What may stand between an object and the name behind it."""
_IS_A = re.compile(r"^(?:is|are|was|shows)\s+(?:an?|the)?\b\s*", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_NAMING = re.compile(
    r"name|class|categor|type|label|object|finding|cls|kind|cell|entity|\btag|title|species|target|structure|diagnos"
    r"|caption|feature|phenotype|element|concept|what|名|类|标签|对象|目标|种|结构",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def has_content(words: str) -> bool:
    """True where `words` hold more than what announces an answer."""
    text = words if words.isascii() else _GENERIC_CHINESE.sub(" ", words)
    return any(
        (len(word) > 1 or not word.isascii()) and word.casefold() not in _GENERIC for word in _WORD.findall(text)
    )


@lru_cache(maxsize=4096)
def name_in(words: str, labels: tuple[str, ...]) -> str | None:
    """The name that words beside an object give it.

    Returns
    -------
    str or None
        A requested label where the words name that and nothing else; the words themselves where they name something
        else; None where they name nothing ('here are the boxes:'), or several labels at once.
    """
    words = words[:400].strip()
    if not words:
        return None
    match = canonical(words, labels)
    if match or not has_content(words):
        return match
    spans = mentioned(words, labels)
    if spans:
        rest, last = [], 0
        for start, end, _ in spans:
            rest.append(words[last:start])
            last = end
        rest.append(words[last:])
        joined = any(part.endswith(("-", "–")) for part in rest[:-1]) or any(
            part.startswith(("-", "–")) for part in rest[1:]
        )
        if not joined and not any(has_content(part) for part in rest):
            found = {label for _, _, label in spans}
            return found.pop() if len(found) == 1 else None
    return readable(words) or None


def named_behind(between: Sequence[str], tail: str) -> list[str] | None:
    """The words behind each object where these name it: '[..] - lymphocyte'; None where words stand before it.

    Parameters
    ----------
    between : sequence of str
        The text before each object, since the one before it.
    tail : str
        The text behind the last.

    Returns
    -------
    list of str or None
        One text per object. Every object must be followed by a few words on its own line, and none precede the first.
    """
    if not between or has_content(between[0][-400:]):
        return None
    words = [text.lstrip(_BEHIND)[:80].partition("\n")[0].rstrip(_BEHIND) for text in (*between[1:], tail)]
    rest = [text.lstrip(_BEHIND)[:400].partition("\n")[2] for text in between[1:]]
    short = all(len(text) <= 40 and len(text.split()) <= 6 and has_content(text) for text in words)
    return [_IS_A.sub("", text) for text in words] if short and not any(map(has_content, rest)) else None


def sounds_like_name(key: str) -> bool:
    """True for a case-folded key under which a name is expected."""
    return key in LABEL_KEYS or (key not in NOT_NAMES and key not in SCORE_KEYS and bool(_NAMING.search(key)))


def name_of(folded: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The key that names an object, and what stands there; (None, None) where no key does.

    Parameters
    ----------
    folded : mapping
        The object with case-folded keys. A key that is known comes first; then one that sounds like a name; then
        any other that holds words, for words beside a box that nobody expected may well be its name.
    """
    for key in LABEL_KEYS:
        if folded.get(key) not in (None, "", []):
            return key, _plain(folded[key])
    others = [
        (key, value)
        for key, value in folded.items()
        if key not in NOT_NAMES and key not in SCORE_KEYS and not isinstance(value, bool)
    ]
    for key, value in others:
        if not _NAMING.search(key):
            continue
        found = _plain(value)
        if isinstance(found, str) and _WORD.search(found):
            return key, found
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            return key, value
        if isinstance(value, int) and key.endswith(("id", "cls", "class", "idx", "index")):
            return key, str(value)
    for key, value in others:
        if isinstance(value, str) and _WORD.search(value):
            return key, value
    return None, None


def _plain(value: Any) -> Any:
    """The name in a nested one: {'name': 'mitosis'}, {'en': ..}, {'mitosis': 0.9}, or a list of these."""
    for _ in range(4):
        if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            names = list(dict.fromkeys(str(name) for part in value[:20] if (name := _plain(part))))
            return " / ".join(names) or None
        if not isinstance(value, Mapping):
            return value
        folded = {str(key).casefold().strip(): part for key, part in value.items()}
        known = next((folded[key] for key in LABEL_KEYS if folded.get(key)), None)
        parts = [part for part in folded.values() if isinstance(part, (str, Mapping)) and part]
        value = known or (parts[0] if parts else " / ".join(map(str, value)))
    return None
