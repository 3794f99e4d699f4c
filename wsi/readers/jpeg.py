"""JPEG tiles of TIFF files, decoded to the same bits as OpenSlide does.

The colour space is the one that the TIFF tag PhotometricInterpretation states. libjpeg guesses it from
markers inside the data instead, so a tile gets an Adobe marker (Adobe Technical Note 5116, section 18) that
says what the tag says; tiles whose own markers contradict the tag go to a decoder that can be told.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg

from wsi.readers.source import Raw

Decode = Callable[[Any, bool], Raw]
"""From the bytes of a tile, and whether the result has to outlive the thread's next call, to its pixels."""

GRAYSCALE, RGB, YCBCR = "GRAYSCALE", "RGB", "YCBCR"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_START, _END = b"\xff\xd8", b"\xff\xd9"
_HEAD = 1024
# libjpeg's word for bytes before a marker: a few are padding by the writer, many are damage.
_PADDING = re.compile(r"(\d+) extraneous bytes before marker")
_HARMLESS = 16


def decoder(tables: bytes | None, space: str, width: int, height: int, sample: bytes) -> Decode:
    """A decoder for the tiles of one image.

    Parameters
    ----------
    tables : bytes or None
        Value of the JPEGTables tag: a JPEG stream with only tables in it.
    space : str
        Colour space of the stored samples: 'GRAYSCALE', 'RGB' or 'YCBCR'. Colour comes out as RGB.
    width, height : int
        Tile size in px.
    sample : bytes
        The beginning of one tile.

    Returns
    -------
    Decode
        Gives uint8 (height, width, 3), or (height, width) for gray. It raises an error where the data is
        damaged or ends early, which libjpeg by itself fills with gray.
    """
    if space == GRAYSCALE:
        return _told(tables, space, space, (height, width))
    told = _told(tables, space, RGB, (height, width, 3))
    if _contradicts(sample[:_HEAD], space):
        return told
    complete = not tables and (b"Adobe" in sample[:_HEAD] or (space == YCBCR and b"JFIF\0" in sample[:_HEAD]))
    return _fast(None if complete else _prefix(tables, space), (height, width, 3), told)


def _contradicts(head: bytes, space: str) -> bool:
    """Whether a tile's own markers state another colour space than `space`."""
    at = head.find(b"Adobe")
    if at >= 0 and head[at + 11 : at + 12] != (b"\x01" if space == YCBCR else b"\x00"):
        return True
    return space == RGB and b"JFIF\0" in head


def _prefix(tables: bytes | None, space: str) -> bytes:
    """What a tile's data has to begin with to stand by itself: marker and tables."""
    inner = tables[2:-2] if tables and tables.endswith(_END) else (tables or b"")[2:]
    return b"".join((_START, _ADOBE, b"\x01" if space == YCBCR else b"\x00", inner))


def _fast(prefix: bytes | None, shape: tuple[int, ...], told: Decode) -> Decode:
    here = threading.local()

    def decode(data: Any, keep: bool) -> Raw:
        if data[:2] != _START:
            raise ValueError("a tile does not begin like JPEG data")
        if keep:
            buffer = np.empty(shape, np.uint8)
        else:
            try:
                buffer = here.buffer
            except AttributeError:  # one per thread: fresh memory for every tile costs page faults
                buffer = here.buffer = np.empty(shape, np.uint8)
        try:
            whole = data if prefix is None else b"".join((prefix, data[2:]))
            pixels = simplejpeg.decode_jpeg(whole, buffer=buffer)
        except ValueError as error:
            padding = _PADDING.search(str(error))
            if padding and int(padding[1]) <= _HARMLESS:
                return told(data, keep)
            raise
        if pixels.shape != shape:
            raise ValueError(
                f"a tile measures {pixels.shape[1]}x{pixels.shape[0]} px, not {shape[1]}x{shape[0]}"
            )
        return pixels

    return decode


def _told(tables: bytes | None, space: str, out_space: str, shape: tuple[int, ...]) -> Decode:
    def decode(data: Any, keep: bool) -> Raw:
        if data[-2:] != _END and _END not in bytes(data):
            raise ValueError("the JPEG data of a tile ends too early")
        pixels = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace=out_space)
        if pixels.shape != shape:
            raise ValueError(
                f"a tile measures {pixels.shape[1]}x{pixels.shape[0]} px, not {shape[1]}x{shape[0]}"
            )
        return pixels

    return decode
