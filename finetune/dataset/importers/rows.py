"""Rows of annotation files, read one by one: a bad one names itself, the others are used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from finetune.dataset.importers.found import FoundLabels
from finetune.errors import LabelFileError
from wsi.regions.qupath import MAX_NAME

ROW_ERRORS = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError)
"""What a value of another kind than expected raises."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_FAR = 1e9
"""px; no image is as large."""


class Rows:
    """What was read of a file, and what was refused."""

    def __init__(self) -> None:
        self.found: list[FoundLabels] = []
        self.refused: list[str] = []
        self.incomplete: set[str | None] = set()

    @contextmanager
    def row(self, where: str, *pictures: str | None) -> Iterator[None]:
        """Refuse the row read in this block where it cannot be read; the images it may be of are incomplete then."""
        try:
            yield
        except ROW_ERRORS as error:
            self.refuse(where, str(error) if type(error) is ValueError else f"cannot be read ({error!r:.120})")
            self.incomplete.update(pictures)

    def refuse(self, where: str, reason: str) -> None:
        """Note a row that is left out."""
        self.refused.append(f"{where}: {reason}")


def number(value: object, what: str = "coordinate") -> float:
    """A finite number in px, of JSON or in words.

    Raises
    ------
    ValueError
        It is none; it says what stands there.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} {short(value)} is no number")
    if not abs(value) < _FAR:
        raise ValueError(f"{what} {short(value)} lies in no image")
    return float(value)


def name_of(value: object) -> str:
    """A class, '' where there is none.

    Raises
    ------
    ValueError
        It is no name.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"its class {short(value)} is no name")
    name = str(value).strip()
    if len(name) > MAX_NAME:
        raise ValueError(f"its class has {len(name)} characters")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"its class {short(name)} is no text") from error
    return name


def file_name(value: object) -> str:
    """Name of an image as a file states it, with the slashes of this system.

    Raises
    ------
    ValueError
        It is no name of a file.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > 4000:
        raise ValueError(f"its image {short(value)} is no name of a file")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"its image {short(value)} is no name of a file") from error
    name = value.strip().replace("\\", "/")
    if any(len(part.encode()) > 255 for part in name.split("/")):
        raise ValueError(f"its image {short(value)} is no name of a file")
    return name


def size_of(width: object, height: object) -> tuple[int, int]:
    """Size of an image as a file states it; (0, 0) where it states none."""
    try:
        found = (int(number(width)), int(number(height)))
    except ROW_ERRORS:
        return (0, 0)
    return found if min(found) > 0 else (0, 0)


def short(value: object) -> str:
    """A value for a message, whatever it is."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "of more than 30 digits"
    if isinstance(value, list | dict):
        text = ascii(value) if len(value) < 8 else f"a {type(value).__name__} of {len(value)}"
    else:
        text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def load_json(path: Path) -> object:
    """The JSON value of a file, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises
    ------
    LabelFileError
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LabelFileError(f"{path} is not JSON: {error}; export it again") from error


def load_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises
    ------
    LabelFileError
    """
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        raise LabelFileError(f"{path} is not XML: {error}; export it again") from error


def root_tag(path: Path) -> str:
    """Name of the root element of an XML file, whatever stands before it; '' where it is no XML."""
    if not path.is_file() or path.suffix.lower() != ".xml":
        return ""
    try:
        with path.open("rb") as stream:
            for _, element in ElementTree.iterparse(stream, events=("start",)):
                return element.tag.rpartition("}")[2]
    except (ElementTree.ParseError, OSError, ValueError, LookupError):
        return ""
    return ""
