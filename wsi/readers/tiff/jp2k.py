"""JPEG 2000 tiles of TIFF files (ITU-T T.800), through imagecodecs' OpenJPEG."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np

from wsi.readers.source import Raw

APERIO_YCBCR = 33003
"""TIFF compression of Aperio's tiles that store YCbCr without saying so in the stream."""
CODES = (APERIO_YCBCR, 33004, 33005, 34712)
_SIZE = b"\xff\x4f\xff\x51"
# Decoding takes 12 bytes per px. An empty tile of any size is a few bytes, so that only large ones are checked.
_UNCHECKED_PX, _PX_PER_BYTE = 1 << 24, 1024
# Red, green and blue from Y, Cb, Cr (ITU-T T.871).
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
_TO_RGB = np.hstack([_TO_RGB, -128 * _TO_RGB[:, 1:].sum(1, keepdims=True)]).astype(np.float32)


class Jp2kHeader(NamedTuple):
    """What the SIZ marker of a code stream says."""

    width: int
    height: int
    components: tuple[tuple[int, int, int], ...]
    """Ssiz (bits less one, 128 added where signed) and the steps along x and y of each component."""


def read_head(data: bytes) -> Jp2kHeader:
    """The head of a code stream, by itself or in a JP2 file. Raises ValueError where there is none."""
    at = data.find(_SIZE, 0, 4096) + 2
    if at < 2 or len(data) < at + 43:
        raise ValueError("a tile does not begin like JPEG 2000 data")
    x1, y1, x0, y0 = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (6, 10, 14, 18))
    count = int.from_bytes(data[at + 38 : at + 40], "big")
    stated = data[at + 40 : at + 40 + 3 * count]
    if len(stated) < 3 * count or x1 <= x0 or y1 <= y0:
        raise ValueError("the head of a tile's JPEG 2000 data is damaged")
    steps = tuple((stated[i], stated[i + 1], stated[i + 2]) for i in range(0, 3 * count, 3))
    return Jp2kHeader(x1 - x0, y1 - y0, steps)


class Jp2kDecoder:
    """Decodes the tiles of one image; safe to use from several threads.

    Parameters
    ----------
    ycbcr : bool
        Three components are YCbCr, whatever the stream says. Otherwise they are taken as they are.
    width, height, samples : int
        Size of a tile in px, and samples per px.
    dtype : numpy dtype
        Of the samples.
    """

    def __init__(self, ycbcr: bool, width: int, height: int, samples: int, dtype: np.dtype) -> None:
        self._ycbcr, self._dtype = ycbcr, dtype
        self._width, self._height, self._samples = width, height, samples

    def __call__(self, data: bytes) -> Raw:
        """Pixels of one tile, (height, width, samples), or (height, width) for one sample.

        Raises
        ------
        ValueError, imagecodecs.Jpeg2kError
            The data is damaged, ends early, is of another size or holds other samples than the file states.
            JPEG 2000 has no checksums: bits that are changed inside a code block give other colours.
        """
        head = read_head(data)
        if (head.width, head.height) != (self._width, self._height):
            raise ValueError(f"a tile measures {head.width}x{head.height} px, not {self._width}x{self._height}")
        if len(head.components) != self._samples:
            raise ValueError(f"a tile holds {len(head.components)} components, the file states {self._samples}")
        area = head.width * head.height
        if area > _UNCHECKED_PX and area > len(data) * _PX_PER_BYTE:
            raise ValueError(f"a tile of {len(data)} bytes cannot hold the {head.width}x{head.height} px it states")
        smaller = any(component[1:] != (1, 1) for component in head.components)
        if smaller and not (self._ycbcr and head.components[0][1:] == (1, 1)):
            raise ValueError("a tile stores some components smaller than others, which only YCbCr may")
        pixels = imagecodecs.jpeg2k_decode(data, numthreads=1)
        shape = (self._height, self._width, self._samples)[: 2 + (self._samples > 1)]
        if pixels.shape != shape or pixels.dtype != self._dtype:
            raise ValueError(f"a tile holds {pixels.dtype.name} samples of shape {pixels.shape}, not {shape}")
        if self._ycbcr and not smaller:  # smaller chroma is enlarged and converted by OpenJPEG's own rule
            return np.asarray(cv2.transform(pixels, _TO_RGB), pixels.dtype)
        return pixels
