"""Which of several images an object says it lies in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NUMBERED = ("image", "img", "image_number", "image_no", "picture", "pic", "photo", "图", "图片", "图像")
_INDEXED = ("img_idx", "image_idx", "image_index", "img_index", "picture_index")
IMAGE_KEYS = (*_NUMBERED, *_INDEXED, "image_id", "frame", "page")
"""Keys that say in which image an object lies."""
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_COUNTS = {
    name: number for names in (_ORDINALS, "一二三四五六七八九十", "ABCDEFGHIJ") for number, name in enumerate(names, 1)
}
_WORDS = re.compile(
    r"(?<![^\W_])(?:(?:(image|img|picture|pic|photo)|frame|tile|page)[\s_#]{0,3}(?:no\.?\s?)?([0-9]{1,4})"
    r"|(图[片像]?|第)\s?([0-9]{1,4})(?:[张幅](?:图[片像]?)?)?)(?![0-9]|\s?[x×,&\-–]\s?[0-9]|\.[0-9]|\s(?:and|to)\s[0-9]|\s?px)"
    rf"|\b({'|'.join(_ORDINALS)})\s(?:image|img|picture|photo)\b"
    r"|(?:第|图[片像]?)([一二三四五六七八九十])(?:[张幅]|(?=[:：\s]))"
    r"|\b(?:image|picture|photo)\s(?-i:([A-J]))(?![^\W_])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Image:
    """What an object states of its image.

    Attributes
    ----------
    name : str
        As written.
    number : int or None
        Its number among the images of the question; None where the name is no such number (a file, a page).
    indexed : bool
        Whether the key speaks of an index, which may begin at 0.
    """

    name: str
    number: int | None = None
    indexed: bool = False


def image_of(extra: Mapping[str, object]) -> Image | None:
    """The image that an object's own keys name."""
    for key, value in extra.items():
        name = key.casefold().strip()
        if name not in IMAGE_KEYS or isinstance(value, bool) or value in ("", None):
            continue
        if isinstance(value, (int, float, str)):
            text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
            if text.isdecimal() and len(text) < 5 and name in (*_NUMBERED, *_INDEXED):
                return Image(text, int(text), name in _INDEXED)
            return image_in(text) or Image(text, _COUNTS.get(text.casefold()))
    return None


def image_in(words: str) -> Image | None:
    """The image that words before objects name last: 'Image 2:', 'Objects in picture 2'."""
    named = [] if not words or words.isspace() else list(_WORDS.finditer(words[-1000:]))
    if not named:
        return None
    last = named[-1]
    counted = last[5] or last[6] or last[7]
    if counted:
        return Image(counted, _COUNTS[counted.casefold() if last[5] else counted.upper()])
    number = last[2] or last[4]
    return Image(number, int(number) if last[1] or last[3] else None)


def elsewhere(stated: Sequence[Image | None], image: tuple[int, int]) -> list[bool]:
    """Which objects lie, or may lie, in another image than the one asked about.

    Parameters
    ----------
    stated : sequence of (Image or None)
        What each object of an answer states.
    image : (int, int)
        Place of the image asked about, from 0, and how many the question has.

    Returns
    -------
    list of bool
        Images are numbered from 1, as in the prompts, or from 0 where an object states 0; an index may be either where
        both fit. Of several names that are no numbers nothing says which is the one asked about. An object that states
        nothing lies in it.
    """
    if not any(stated):
        return [False] * len(stated)
    at, count = image
    zero = any(each and each.number == 0 for each in stated)
    names = {each.name for each in stated if each and each.number is None}
    others = []
    for each in stated:
        if each is None or each.number is None:
            others.append(each is not None and len(names) > 1)
            continue
        bases = (0,) if zero else (0, 1) if each.indexed else (1,)
        places = {each.number - base for base in bases if 0 <= each.number - base < count}
        others.append(places != {at})
    return others
