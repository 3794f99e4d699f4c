"""Photographs with what was read drawn on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from workflows.inputs.reopening import tell
from workflows.science.instruments.errors import PhotographError
from workflows.science.instruments.photograph import Pixels, load_photograph
from workflows.science.instruments.report import PICTURES, InstrumentReport, PhotographReport
from workflows.science.instruments.values.values import Reading, ValueStatus
from wsi.errors import SlideChangedError
from wsi.files.identity import FileWatch
from wsi.files.names import path_of

_COLOURS = {
    ValueStatus.READ: (30, 160, 60),
    ValueStatus.INVALID: (215, 60, 40),
    ValueStatus.EMPTY: (120, 120, 120),
    ValueStatus.FAILED: (190, 120, 0),
}
_WIDTH = 480


def draw_report(photograph: PhotographReport, pixels: Pixels) -> Pixels:
    """The photograph, at least 480 px wide, with a box per value and a line of words per field below it."""
    factor = max(1.0, _WIDTH / pixels.shape[1])
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    canvas = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)
    line = max(18, size[0] // 24)
    words = np.full((line * len(photograph.readings) + line // 2, size[0], 3), 255, np.uint8)
    thick = max(2, size[0] // 240)
    for number, (name, one) in enumerate(photograph.readings.items()):
        colour = _COLOURS[one.status]
        if one.box is not None:
            x0, y0, x1, y1 = (round(v * factor) for v in one.box)
            cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, thick)
        _write(words, _sentence(name, one), (line // 2, line * number + line // 4), line, colour)
    return np.asarray(np.vstack([canvas, words]), np.uint8)


def save_pictures(report: InstrumentReport, folder: Path, say: Callable[[str], None] | None = None) -> int:
    """Write a JPEG per photograph into `pictures/`.

    Left out are photographs that could not be read, and those that have another content by now.

    Parameters
    ----------
    say : callable, optional
        Gets why a photograph that was read is left out; by default it is logged.

    Returns
    -------
    int
        Pictures written.
    """
    from PIL import Image

    written = 0
    (folder / PICTURES).mkdir(exist_ok=True)
    for number, photograph in enumerate(report.photographs):
        if photograph.width is None:
            continue
        path = path_of(photograph.path)
        try:
            watch = FileWatch.of(path)
            if watch.fingerprint != photograph.fingerprint:
                raise PhotographError(f"{path} has another content than was read")
            with watch.held():
                pixels = load_photograph(path)
        except (OSError, PhotographError, SlideChangedError) as error:
            tell(f"{photograph.name} is not drawn: {error}", say)
            continue
        drawn = draw_report(photograph, pixels)
        Image.fromarray(drawn).save(folder / PICTURES / f"{number:04d}_{Path(photograph.name).stem}.jpg", quality=90)
        written += 1
    return written


def _sentence(name: str, one: Reading) -> str:
    if one.status is ValueStatus.READ:
        score = "" if one.score is None else f"  ({one.score:.2f})"
        return f"{name}: {one.text} {one.unit or ''}{score}"
    return f"{name}: {one.status}" + (f", {one.reasons[0]}" if one.reasons else "")


def _write(canvas: Pixels, words: str, at: tuple[int, int], height: int, colour: tuple[int, int, int]) -> None:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(canvas)
    ImageDraw.Draw(picture).text(at, words, fill=colour, font=ImageFont.load_default(max(11, height * 2 // 3)))
    canvas[:] = np.asarray(picture)
