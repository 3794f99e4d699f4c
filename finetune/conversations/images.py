"""Where a row of a conversation names its images: every form that is known, and a refusal of every other.

A row is never taught without its image: a name under a key that is not known, and a place in the text that no image
fills, are errors of the row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

IMAGE_KEYS = ("images", "image")
"""Keys of a row that name its images."""
_KEYS_OF_NAMES = ("image", "image_url", "path", "url", "file", "filename", "file_name")
"""Keys of an object that stands for an image, in the order in which they are tried."""
_ROW_KEYS = {"messages", "conversations", "images", "image", "objects", "id", "channel", "system", "tools"}
_LOOKS = re.compile(r"\.(png|jpe?g|tiff?|bmp|gif|webp|svs|ndpi)(\?[^\s]*)?$", re.IGNORECASE)
_OTHER_MEDIA = ("videos", "video", "audios", "audio")

_TAG = re.compile(r"(?:Picture\s+\d+\s*:\s*)?<img>(.*?)</img>\n?", re.DOTALL)
_SLOT = re.compile(r"<image>\n?|<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>\n?")
_LEFT_OVER = re.compile(
    r"</?img\b[^<>]*>?|<\|?/?(?:image|video|audio)[\w-]*\|?>|<\|vision_(?:start|end|pad)\|>|<(?:ImageHere|img_start|IMG_CONTEXT)>"
    r"|!\[[^\]]*\]\([^)]*\)|data:image/",
    re.IGNORECASE,
)


def named_images(row: Mapping[str, object], folder: Path) -> list[Path]:
    """The images that a row names beside its turns.

    Raises
    ------
    ValueError
        A name is none of a file that is here.
    """
    for key in _OTHER_MEDIA:
        if row.get(key):
            raise ValueError(f"{key} cannot be learned from")
    stated = [row[key] for key in IMAGE_KEYS if row.get(key) not in (None, "", [], {})]
    if len(stated) > 1:
        raise ValueError("'image' and 'images' are both there; keep one")
    if not stated:
        return []
    listed = stated[0] if isinstance(stated[0], list) else [stated[0]]
    return [file_of(each, folder) for each in listed]


def require_no_other(row: Mapping[str, object]) -> None:
    """Raise ValueError where a row of words alone names an image under a key that is not known."""
    for key, value in row.items():
        if key not in _ROW_KEYS and _seems_image(value):
            raise ValueError(f"{key!r} seems to name an image ({value!a:.80}); name it under 'images'")


def parts_of(content: object, role: str, folder: Path) -> list[dict[str, Any]]:
    """The parts of a turn: texts, and places of images, with `file` where the turn names it.

    Raises
    ------
    ValueError
        A part is of no known kind, or an image stands where none can be.
    """
    parts: list[dict[str, object]] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            if isinstance(content, list) and role == "user" and _seems_image(part):
                raise ValueError(f"{part!a:.60} seems to name an image; make it a part of type 'image'")
            parts += _of_text(part, role, folder)
        elif isinstance(part, Mapping):
            parts += _of_part(part, role, folder)
        else:
            raise ValueError(f"a part of a turn is {part!a:.60}")
    if role != "user" and any(part["type"] == "image" for part in parts):
        raise ValueError(f"an image in a turn of the {role}; only questions may have one")
    return parts


def file_of(value: object, folder: Path) -> Path:
    """The file that a name, an address `file://...` or an object `{"path": ...}` stands for.

    Raises
    ------
    ValueError
        It stands for none that is here.
    """
    for _ in range(3):
        if not isinstance(value, Mapping):
            break
        given = [value[key] for key in _KEYS_OF_NAMES if value.get(key) is not None]
        if not given:
            raise ValueError(f"an image without a path ({', '.join(map(str, value))[:60]}); save it as a file")
        value = given[0]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"an image named {value!a:.60}")
    name = value.strip()
    if name.lower().startswith("data:"):
        raise ValueError("an image inside the row (data:); save it as a file and name that")
    if re.match(r"(https?|s3|gs|ftp)://", name, re.IGNORECASE):
        raise ValueError(f"image {name!a:.100} is not fetched; download it and name the file")
    tried = [name]
    if name.lower().startswith("file:"):
        address = urlsplit(name)
        host = "" if address.netloc == "localhost" else address.netloc
        tried = [unquote(host + address.path), host + address.path, unquote(address.path)]
    tried += [each.replace("\\", "/") for each in tried]
    for each in tried:
        if "\0" in each or any(len(part.encode("utf-8", "replace")) > 255 for part in each.split("/")):
            raise ValueError(f"image {name!a:.100} is no name of a file")
        path = folder / each
        if path.is_file():
            return path
    raise ValueError(f"image {folder / tried[0]} does not exist")


def _of_part(part: Mapping[str, object], role: str, folder: Path) -> list[dict[str, object]]:
    kind = part.get("type")
    named = [key for key in _KEYS_OF_NAMES if part.get(key) is not None]
    if kind in ("image", "image_url", "input_image") or (kind is None and named):
        if any(part.get(key) is not None for key in ("base64", "bytes", "data")) and not named:
            raise ValueError("an image inside the row; save it as a file and name that")
        return [{"type": "image"} | ({"file": file_of(part, folder)} if named else {})]
    if kind in ("text", "input_text", "output_text", None):
        text = part.get("text", part.get("value", part.get("content")))
        if not isinstance(text, str):
            raise ValueError(f"a part without text or image ({', '.join(map(str, part))[:60]})")
        return _of_text(text, role, folder)
    raise ValueError(f"a part of type {kind!a:.40} cannot be learned from")


def _of_text(text: str, role: str, folder: Path) -> list[dict[str, object]]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its text is no valid text") from error
    parts: list[dict[str, Any]] = []
    at = 0
    for found in _TAG.finditer(text) if role == "user" else ():
        parts += _slots(text[at : found.start()])
        parts.append({"type": "image", "file": file_of(found[1], folder)})
        at = found.end()
    parts += _slots(text[at:]) if role == "user" else _texts(text[at:])
    for part in parts:
        left = _LEFT_OVER.search(part.get("text", "")) if role == "user" else _TAG.search(part.get("text", ""))
        if left:
            raise ValueError(f"{left[0]!a:.60} in its text is no place of an image that is known")
    return parts


def _slots(text: str) -> list[dict[str, Any]]:
    parts: list[dict[str, object]] = []
    for number, piece in enumerate(_SLOT.split(text)):
        parts += [{"type": "image"}] if number else []
        parts += _texts(piece)
    return parts


def _texts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _seems_image(value: object) -> bool:
    if isinstance(value, list):
        return any(_seems_image(each) for each in value[:5])
    if isinstance(value, Mapping):
        return any(_seems_image(value.get(key)) for key in _KEYS_OF_NAMES)
    return (
        isinstance(value, str)
        and len(value) < 500
        and (value.startswith("data:image/") or _LOOKS.search(value.strip()) is not None)
    )
