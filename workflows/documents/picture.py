"""Pictures of pages with the boxes of their values, coloured by how far each can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workflows._folder import PARTIAL
from workflows.colours import PALETTE, RGBColour
from workflows.documents.page import Page
from workflows.documents.paper import Paper
from workflows.documents.placing import Anchor

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

COLOURS: dict[Anchor, RGBColour] = {
    Anchor.ANCHORED: (0, 130, 60),
    Anchor.MODEL: (200, 110, 0),
    Anchor.ELSEWHERE: (200, 0, 0),
}
"""Green: printed there. Orange, dashed: box from the model only. Red, dashed: printed, but not beside its record."""


def page_picture(page: Page, paper: Paper) -> NDArray[np.uint8]:
    """The picture of a page with the values that stand on it, each with its property and record.

    Returns
    -------
    uint8 array (height, width, 3)
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(np.ascontiguousarray(page.picture))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9.0, 6.5 * page.scale))
    named: list[tuple[float, float, float, float]] = []
    for record in paper.records:
        for path, value in record.fields.items():
            if value.page != page.number or value.anchor not in COLOURS:
                continue
            colour = COLOURS[value.anchor]
            for number, box in enumerate(value.boxes_px):
                around = (box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2)
                if value.anchor is Anchor.ANCHORED:
                    draw.rectangle(around, outline=colour, width=2)
                else:
                    _dashed(draw, around, colour)
                if number:
                    continue
                name = f"{record.record} {path}" + ("!" if record.contradicts else "")
                left, top, right, bottom = draw.textbbox((box[0], box[1] - 2), name, font=font, anchor="lb")
                place = (left - 1, top - 1, right + 1, bottom + 1)
                if any(_overlap(place, other) for other in named):
                    continue  # where names would cover each other, the box alone is shown
                named.append(place)
                draw.rectangle(place, fill=(255, 255, 255))
                draw.text((box[0], box[1] - 2), name, fill=colour, font=font, anchor="lb")
    return np.asarray(image)


def layout_picture(page: Page) -> NDArray[np.uint8]:
    """The picture of a page with its words, tables with their rows, and figures."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.ascontiguousarray(page.picture))
    draw = ImageDraw.Draw(image)
    for word in page.printed.words:
        for box in word.boxes_pt:
            draw.rectangle(page.to_px(box), outline=(170, 190, 210))
    for table in page.tables:
        for row in table.rows:
            draw.rectangle(page.to_px(row), outline=PALETTE[1])
        draw.rectangle(page.to_px(table.box_pt), outline=PALETTE[0], width=3)
    for figure in page.figures:
        draw.rectangle(page.to_px(figure.box_pt), outline=PALETTE[2], width=3)
    captions = [table.caption for table in page.tables] + [figure.caption for figure in page.figures]
    for caption in captions:
        if caption is not None:
            draw.rectangle(page.to_px(caption.box_pt), outline=PALETTE[3], width=2)
    return np.asarray(image)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a PNG, whole or not at all."""
    from PIL import Image

    partial = path.with_name(path.name + PARTIAL)
    try:
        Image.fromarray(picture).save(partial, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _dashed(draw: ImageDraw, box: tuple[float, float, float, float], colour: RGBColour) -> None:
    x_min, y_min, x_max, y_max = box
    for start, end in (
        ((x_min, y_min), (x_max, y_min)),
        ((x_min, y_max), (x_max, y_max)),
        ((x_min, y_min), (x_min, y_max)),
        ((x_max, y_min), (x_max, y_max)),
    ):
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        for at in np.arange(0, length, 9):
            part = [(at / length if length else 0), min(1.0, (at + 5) / length) if length else 0]
            line = [tuple(s + p * (e - s) for s, e in zip(start, end, strict=True)) for p in part]
            draw.line(line, fill=colour, width=2)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return (
        min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])
    )  # fmt: skip
