"""What OpenSlide gives as premultiplied ARGB, shown over a background."""

from __future__ import annotations

import numpy as np
import pytest

from wsi.readers.vendor.openslide import _over

BACKGROUND = np.array([200, 100, 0], np.uint16)


@pytest.mark.parametrize(
    ("argb", "shown"),
    [
        (0xFF102030, (0x10, 0x20, 0x30)),
        (0x00000000, (200, 100, 0)),
        (0x80402010, (0x40 + 100, 0x20 + 50, 0x10)),  # half: 200 and 100 by 127/255
        (0xFFFFFFFF, (255, 255, 255)),
    ],
)
def test_alpha(argb: int, shown: tuple[int, int, int]) -> None:
    alone = np.full((2, 3), argb, np.uint32)
    beside = np.array([[argb, 0]], np.uint32)
    np.testing.assert_array_equal(_over(alone, BACKGROUND), np.full((2, 3, 3), shown, np.uint8))
    np.testing.assert_array_equal(_over(beside, BACKGROUND)[0], [shown, (200, 100, 0)])
