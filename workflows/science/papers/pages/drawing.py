"""Pictures of pages with the boxes of their values, coloured by how far each can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workflows.report.images.colours import PALETTE, RGBColour
from workflows.science.papers.pages.page import Page
from workflows.science.papers.paper import Paper
from workflows.science.papers.values.placing import Anchor
from workflows.store.folder import replace_whole

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

COLOURS: dict[Anchor, RGBColour] = {Anchor.ANCHORED: (0, 130, 60), Anchor.MODEL: (200, 110, 0)}
"""Green: printed there. Orange, dashed: box from the model only. Other values have no place of their own to show."""
_DOUBT: RGBColour = (200, 0, 0)


_DOUBTFUL = (Anchor.ELSEWHERE, Anchor.MISSING)


def page_picture(page: Page, paper: Paper) -> NDArray[np.uint8]:
    """The picture of a page with the values that stand on it, and the number of each record before its first.

    A record's number is red where one of its values was not found, or where it contradicts another one.

    Returns
    -------
    uint8 array (height, width, 3)
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(np.ascontiguousarray(page.picture))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9.0, 6.0 * page.scale))
    tags: dict[tuple[int, int], list[int]] = {}
    doubted: set[int] = set()
    for record in paper.records:
        shown = [
            (value.anchor, box)
            for value in record.fields.values()
            if value.page == page.number and value.anchor in COLOURS
            for box in value.boxes_px
        ]
        for anchor, box in shown:
            around = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
            if anchor is Anchor.ANCHORED:
                draw.rectangle(around, outline=COLOURS[anchor], width=max(1, round(0.6 * page.scale)))
            else:
                _dashed(draw, around, COLOURS[anchor])
        if not shown:
            continue
        first = shown[0][1]  # of the record's first property; a unit may be shared by a whole table
        tags.setdefault((round(first[0]), round(first[1])), []).append(record.record)
        if record.contradicts or any(value.anchor in _DOUBTFUL for value in record.fields.values()):
            doubted.add(record.record)
    for (x, y), numbers in tags.items():
        colour = _DOUBT if doubted & set(numbers) else COLOURS[Anchor.ANCHORED]
        draw.text((x - 3, y - 1), " ".join(map(str, numbers)), fill=colour, font=font, anchor="ra")
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

    replace_whole(path, lambda partial: Image.fromarray(picture).save(partial, format="PNG"))


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
