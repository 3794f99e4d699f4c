"""Printed words on instruments, plates and labels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from recipes.instruments.scene import Box, Pixels


@lru_cache(maxsize=64)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def draw_text(mask: Pixels, text: str, at: tuple[float, float], height: float, *, scale: int) -> Box:
    """Write into a mask that is `scale` times as large as the picture.

    Parameters
    ----------
    at : tuple of float
        Left and top of the characters' ink in px of the picture.
    height : float
        Of a capital letter in px of the picture.

    Returns
    -------
    Box
        Around the ink, in px of the picture.
    """
    from PIL import Image, ImageDraw

    font = _font(max(6, round(height * scale * 1.38)))
    left, top, right, bottom = (int(v) for v in font.getbbox(text))
    word = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(word).text((-left, -top), text, fill=255, font=font)
    ink = np.asarray(word, np.uint8)
    x, y = round(at[0] * scale), round(at[1] * scale)
    place = mask[max(0, y) : y + ink.shape[0], max(0, x) : x + ink.shape[1]]
    np.maximum(place, ink[: place.shape[0], : place.shape[1]], out=place)
    return x / scale, y / scale, (x + ink.shape[1]) / scale, (y + ink.shape[0]) / scale
