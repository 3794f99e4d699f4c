"""A sheet of crops with their sentences: what was found, to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIDE, _TEXT, _GAP = 144, 66, 10
_INK, _PAPER = (30, 30, 34), (255, 255, 255)


def sheet(
    crops: Sequence[NDArray[np.uint8]], words: Sequence[str], *, columns: int = 5, headings: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Crops in rows with words below each.

    Parameters
    ----------
    crops : sequence of uint8 arrays (height, width, 3)
    words : sequence of str
        As many; wrapped, cut where they do not fit.
    columns : int
    headings : sequence of str
        Written above each row, where given.

    Returns
    -------
    uint8 array (height, width, 3)
    """
    from PIL import Image, ImageDraw, ImageFont

    rows = -(-len(crops) // columns)
    head = 22 if headings else 0
    cell_w, cell_h = _SIDE + _GAP, _SIDE + _TEXT + _GAP + head
    picture = Image.new("RGB", (columns * cell_w + _GAP, rows * cell_h + _GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    small, larger = ImageFont.load_default(11), ImageFont.load_default(14)
    for number, (crop, said) in enumerate(zip(crops, words, strict=True)):
        row, column = divmod(number, columns)
        x, y = _GAP + column * cell_w, _GAP + row * cell_h
        if column == 0 and row < len(headings):
            draw.text((x, y), headings[row], fill=_INK, font=larger)
        shown = Image.fromarray(crop).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        picture.paste(shown, (x, y + head))
        lines = textwrap.wrap(said, 25)[:5]
        draw.multiline_text((x, y + head + _SIDE + 3), "\n".join(lines), fill=_INK, font=small, spacing=1)
    return np.asarray(picture)
