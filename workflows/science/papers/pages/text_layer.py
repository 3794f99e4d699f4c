"""The text layer of a PDF page: signs with their places, words, and those that leave no ink."""

from __future__ import annotations

import ctypes
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workflows.science.papers.pages.page import Box, Printed, TextLayer, Word, union
from wsi.cleanup import cleaning_up

if TYPE_CHECKING:
    from pypdfium2 import PdfPage, PdfTextPage

Colour = tuple[int, int, int] | None

_HYPHEN = (0x02, 0xAD)  # what PDFium makes of a hyphen that breaks a word at a line's end, and the soft hyphen
_UNKNOWN = (0x00, 0xFFFD, 0xFFFE, 0xFFFF)
_LEAST_CONTRAST = 24
"""Grey values between the darkest and the brightest px of a word that can be seen."""
_TALLEST = 2.5
"""Heights of its ink that a sign's line may be high; fonts that claim more are wrong, and the ink counts."""


def read_print(page: PdfPage, picture: NDArray[np.uint8], scale: float) -> tuple[TextLayer, Printed]:
    """The words of a page that its picture shows.

    Parameters
    ----------
    page : pypdfium2.PdfPage
    picture : uint8 array (height, width, 3)
        Of the page as shown.
    scale : float
        px of the picture per pt.
    """
    textpage = page.get_textpage()
    with cleaning_up(textpage.close):
        signs, boxes, fills, lost = _signs(textpage, _to_shown(page))
    printed = _words(signs, boxes, fills, picture, scale)
    seen = sum(not sign.isspace() for sign in signs)
    if lost and lost >= seen:
        return TextLayer.UNREADABLE, Printed(hidden=printed.hidden)
    return (TextLayer.WORDS if printed.words else TextLayer.NONE), printed


def _to_shown(page: PdfPage) -> NDArray[np.float64]:
    """Matrix (3, 2) that takes x, y, 1 of the page's own user space to pt as shown: cropped, rotated, y down."""
    import pypdfium2.raw as pdfium

    width, height = page.get_size()
    fine = 1000  # PDFium answers in whole px: ask about a page of 1000 px per pt
    x, y = ctypes.c_int(), ctypes.c_int()
    shown = []
    for at in ((0.0, 0.0), (100.0, 0.0), (0.0, 100.0)):
        pdfium.FPDF_PageToDevice(page, 0, 0, round(width * fine), round(height * fine), 0, *at, x, y)
        shown.append((x.value / fine, y.value / fine))
    origin, along, up = np.array(shown)
    return np.stack([(along - origin) / 100, (up - origin) / 100, origin])


def shown_boxes(page: PdfPage, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes (n, 4) of a page's user space (left, bottom, right, top) as boxes in pt as shown."""
    return _shown(boxes, _to_shown(page))


def _shown(boxes: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    boxes = boxes.reshape(-1, 4)
    one = boxes[:, :2] @ matrix[:2] + matrix[2]
    two = boxes[:, 2:] @ matrix[:2] + matrix[2]
    return np.hstack([np.minimum(one, two), np.maximum(one, two)])


def _signs(
    textpage: PdfTextPage, matrix: NDArray[np.float64]
) -> tuple[list[str], NDArray[np.float64], dict[int, Colour], int]:
    """Signs, their boxes in pt (NaN for spaces), the colours that words begin with, and how many mean nothing."""
    import pypdfium2.raw as pdfium

    signs: list[str] = []
    fills: dict[int, Colour] = {}
    boxes: list[Box | None] = []
    lost, last = 0, None
    for index in range(textpage.count_chars()):
        code = pdfium.FPDFText_GetUnicode(textpage, index)
        if code in _UNKNOWN or pdfium.FPDFText_HasUnicodeMapError(textpage, index) == 1:
            lost += 1
            continue
        if 0xD800 <= code < 0xE000:  # half of a pair; signs beyond the first plane are rare in print
            continue
        if code in _HYPHEN:
            signs += ["-", "\n"]
            boxes += [_sign_box(textpage, index), None]
            continue
        sign = chr(code)
        if sign.isspace() or not sign.isprintable():
            end = sign in "\r\n"
            if signs and (signs[-1] != "\n") and not (not end and signs[-1] == " "):
                signs.append("\n" if end else " ")
                boxes.append(None)
            continue
        place = _sign_box(textpage, index)
        # PDFium forgets some ends of lines, such as those of a column of single numbers.
        if last is not None and signs[-1] != "\n" and not _level(textpage, index, last, place):
            if signs[-1] == " ":
                signs[-1] = "\n"
            else:
                signs.append("\n")
                boxes.append(None)
        last = place
        if not signs or signs[-1].isspace():
            fills[len(signs)] = _fill(textpage, index)
        for part in unicodedata.normalize("NFKC", sign):  # a ligature's letters share its place
            if not part.isspace():
                signs.append(part)
                boxes.append(place)
    array = np.array([(np.nan,) * 4 if box is None else box for box in boxes], np.float64).reshape(-1, 4)
    return signs, _shown(array, matrix), fills, lost


def _fill(textpage: PdfTextPage, index: int) -> Colour:
    import pypdfium2.raw as pdfium

    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    if not pdfium.FPDFText_GetFillColor(textpage, index, red, green, blue, alpha):
        return None
    return red.value, green.value, blue.value


def _level(textpage: PdfTextPage, index: int, last: Box, place: Box) -> bool:
    """Whether a sign stands on the line of the one before it, in the direction that it is written in."""
    import pypdfium2.raw as pdfium

    angle = pdfium.FPDFText_GetCharAngle(textpage, index)
    turned = round(angle / (np.pi / 2))
    if abs(angle - turned * np.pi / 2) > 0.1:
        return True  # slanted: boxes say nothing of its line
    axis = 1 if turned % 2 == 0 else 0
    shared = min(last[axis + 2], place[axis + 2]) - max(last[axis], place[axis])
    return shared > 0.2 * min(last[axis + 2] - last[axis], place[axis + 2] - place[axis])


def _sign_box(textpage: PdfTextPage, index: int) -> Box:
    ink, line = textpage.get_charbox(index), textpage.get_charbox(index, loose=True)
    high = max(ink[3] - ink[1], ink[2] - ink[0], 1.0)
    left, bottom, right, top = line if max(line[3] - line[1], line[2] - line[0]) <= _TALLEST * high * 2 else ink
    return left, bottom, right, top


def _words(
    signs: list[str], boxes: NDArray[np.float64], fills: dict[int, Colour], picture: NDArray[np.uint8], scale: float
) -> Printed:
    """Parts signs into words, and leaves out those that cannot be seen in the picture."""
    words: list[Word] = []
    hidden: list[str] = []
    kept: list[int] = []
    text: list[str] = []
    line, start = 0, 0
    count = len(signs)
    while start < count:
        if signs[start].isspace():
            if text and text[-1] != "\n" and (signs[start] == "\n" or text[-1] != " "):
                text.append(signs[start])
                kept.append(start)
                line += signs[start] == "\n"
            start += 1
            continue
        stop = start
        while stop < count and (
            not signs[stop].isspace()
            or (signs[stop] == "\n" and stop > start and signs[stop - 1] == "-" and _broken(signs, stop))
        ):
            stop += 1
        places, begun = [], start
        for end in (*(i for i in range(start, stop) if signs[i] == "\n"), stop):
            if (box := union(boxes[begun:end])) is not None:
                places.append(box)
            begun = end + 1
        written = "".join(signs[start:stop]).replace("\n", "")
        if places and all(_seen(place, fills.get(start), picture, scale) for place in places):
            words.append(Word(written, tuple(places), len(text), len(text) + stop - start, line))
            text += signs[start:stop]
            kept += range(start, stop)
            line += signs[start:stop].count("\n")
        else:
            hidden.append(written)
        start = stop
    return Printed("".join(text), boxes[kept], tuple(words), tuple(hidden))


def _broken(signs: list[str], end: int) -> bool:
    """Whether the newline at `end`, after a hyphen, lies within a word."""
    return end + 1 < len(signs) and signs[end + 1].isalnum() and signs[end - 2].isalnum()


def _seen(box_pt: Box, fill: Colour, picture: NDArray[np.uint8], scale: float) -> bool:
    """Whether the picture holds ink where a word should be, of another colour than the paper."""
    height, width = picture.shape[:2]
    inset = 0.2 * (box_pt[3] - box_pt[1])  # neighbouring lines reach into a sign's box
    x_min, x_max = max(0, int(box_pt[0] * scale)), min(width, round(box_pt[2] * scale) + 1)
    y_min = max(0, int((box_pt[1] + inset) * scale))
    y_max = min(height, round((box_pt[3] - inset) * scale) + 1)
    if x_max <= x_min or y_max <= y_min:
        return False
    part = picture[y_min:y_max, x_min:x_max]
    if all(int(np.ptp(part[..., channel])) < _LEAST_CONTRAST for channel in range(3)):
        return False
    paper = np.median(part[::2, ::2].reshape(-1, 3), axis=0)
    return fill is None or float(np.abs(paper - fill).max()) >= _LEAST_CONTRAST
