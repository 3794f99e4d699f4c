"""JPEG tiles and strips of TIFF files, decoded to the same bits as OpenSlide does.

Which colour space the samples are in is said in up to five places: the TIFF tag PhotometricInterpretation, a JFIF
marker (always YCbCr: ITU-T T.871), an Adobe marker (Adobe Technical Note 5116, section 18), component ids ('R', 'G',
'B') and chroma that is stored smaller, which only YCbCr has. Every tile is judged by its own markers:

* All that is said agrees: that. Tags of Aperio say RGB about tiles without any marker, and are right.
* It does not agree: the image is decoded under both readings, and the one counts whose colours are possible and whose
  background is neutral (`settle`).
* That does not decide either: JFIF means YCbCr, then the tag where it says RGB, else the stream. This is tifffile's
  rule, which is libjpeg's default (jdapimin.c) except that a tag RGB beats an Adobe marker; OpenSlide follows the tag
  alone, and so shows as raw YCbCr what QuPath and Bio-Formats write (tag RGB, tiles JFIF). Chroma that is stored
  smaller is YCbCr against both, unless marker or ids say RGB too: no encoder stores RGB that way.

libjpeg learns the outcome from an Adobe marker that takes the place of the tile's own.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsi.readers.source import Raw
from wsi.readers.tiff.storage import SCRATCH_BYTES, scratch

GRAYSCALE, RGB, YCBCR = "GRAYSCALE", "RGB", "YCBCR"
_START, _END = b"\xff\xd8", b"\xff\xd9"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_TRANSFORM = {RGB: b"\x00", YCBCR: b"\x01"}
_SOS, _DHT, _JPG, _DAC, _DNL = 0xDA, 0xC4, 0xC8, 0xCC, 0xDC
_APP0, _APP14, _COMMENT = 0xE0, 0xEE, 0xFE
# libjpeg's word for bytes before a marker: a few are padding by the writer, many are damage.
_PADDING = re.compile(r"(\d+) extraneous bytes before marker")
_HARMLESS = 16
_PLAIN = repeat(False), repeat(False), repeat(0), repeat(0), repeat(1)  # the parameters before `buffer`
# A block of 8x8 px takes at least one bit. Small tiles are decoded without this check.
_UNCHECKED_PX, _PX_PER_BYTE = 1 << 22, 64 * 8
_LETTERS = (ord("R"), ord("G"), ord("B"))
# `settle`: a value is impossible that far beyond 0 to 255 (rounding and smaller chroma stay well below);
# px are neutral up to this difference of their samples; shares of px that decide.
_BEYOND, _NEUTRAL = 40, 24
_SHARE_BEYOND, _SHARE_NEUTRAL, _TIMES = 0.05, 0.02, 4


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG stream says about itself before its first scan.

    Attributes
    ----------
    width, height, precision : int
        Size in px and bits per sample.
    ids : tuple of int
        Component ids.
    subsampled : bool
        Some components are stored smaller than the first one.
    jfif : bool
        A JFIF marker is there.
    adobe : int or None
        Transform of the Adobe marker: 0 none, 1 YCbCr, 2 YCCK.
    scan : int
        Where the first scan begins, in bytes.
    kept : bytes
        The head without application markers and comments.
    """

    width: int
    height: int
    precision: int
    ids: tuple[int, ...]
    subsampled: bool
    jfif: bool
    adobe: int | None
    scan: int
    kept: bytes


def read_head(data: bytes) -> JpegHeader:
    """The head of a JPEG stream (ITU-T T.81, B.2). Raises ValueError where there is none."""
    frame: bytes | None = None
    jfif, adobe, kept, at = False, None, [], 2
    if bytes(data[:2]) != _START:
        raise ValueError("a tile does not begin like JPEG data")
    for marker, begin, end in _segments(data):
        body = bytes(data[begin + 4 : end])
        if marker == _SOS:
            at = begin
            break
        if marker == _APP0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif 0xC0 <= marker <= 0xCF and marker not in (_DHT, _JPG, _DAC):
            frame = body
        if not (_APP0 <= marker <= 0xEF or marker == _COMMENT):
            kept.append(bytes(data[begin:end]))
    else:
        raise ValueError("the JPEG data of a tile ends before its first scan")
    if frame is None or len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise ValueError("the JPEG data of a tile does not state its size")
    sampling = frame[7 : 6 + 3 * frame[5] : 3]
    return JpegHeader(
        width=int.from_bytes(frame[3:5], "big"),
        height=int.from_bytes(frame[1:3], "big"),
        precision=frame[0],
        ids=tuple(frame[6 : 6 + 3 * frame[5] : 3]),
        subsampled=any(factors != sampling[0] for factors in sampling),
        jfif=jfif,
        adobe=adobe,
        scan=at,
        kept=b"".join(kept),
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment after the start of the image."""
    at, size = 2, len(data)
    while at + 4 <= size:
        if data[at] != 0xFF:
            raise ValueError("the head of a tile's JPEG data is damaged")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if end < at + 4 or end > size or marker in (0x00, 0xD8, 0xD9):
            raise ValueError("the head of a tile's JPEG data is damaged")
        yield marker, at, end
        at = end


def colour_space(head: JpegHeader, stated: str) -> tuple[str, bool]:
    """Colour space of three components, RGB or YCBCR, and whether all that is said agrees on it.

    `stated` is what the tag says. Where it is contradicted, the space is the one to take if the colours
    themselves do not tell; see the module.
    """
    letters = head.ids == _LETTERS
    ycbcr = head.jfif or head.adobe in (1, 2) or head.subsampled or stated == YCBCR
    rgb = head.adobe == 0 or (letters and head.adobe is None and not head.jfif) or stated == RGB
    if ycbcr != rgb:
        return (YCBCR if ycbcr else RGB), True
    meant = stated == RGB and (head.adobe == 0 or (letters and head.adobe is None))
    return (YCBCR if head.jfif or (head.subsampled and not meant) else RGB), False


def _by_default(head: JpegHeader) -> str:
    """The colour space that libjpeg takes three components for (jdapimin.c); empty where it warns."""
    if head.adobe not in (None, 0, 1):
        return ""
    if head.jfif or head.adobe == 1:
        return YCBCR
    return RGB if head.adobe == 0 or head.ids == _LETTERS else YCBCR


def settle(as_rgb: Raw, as_ycbcr: Raw) -> str | None:
    """Which of two readings of the same samples is right: RGB, YCBCR, or None where the colours do not tell.

    Parameters
    ----------
    as_rgb, as_ycbcr : uint8 array (height, width, 3)
        The samples taken for RGB (so as they are stored), and taken for YCbCr and converted to RGB.

    Taken for YCbCr, samples that are RGB give colours that do not exist (beyond 0 to 255: white, black). Glass and
    dark background are neutral under one reading and strongly coloured under the other.
    """
    y, blue, red = (as_rgb[::2, ::2, i].astype(np.float32) for i in range(3))
    red, blue = red - 128, blue - 128
    converted = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue])
    beyond = np.maximum(-converted, converted - 255).max(0)
    impossible = float((beyond > _BEYOND).mean()) > _SHARE_BEYOND
    neutral_rgb, neutral_ycbcr = (
        float((np.ptp(pixels[::2, ::2].astype(np.int16), axis=-1) <= _NEUTRAL).mean()) for pixels in (as_rgb, as_ycbcr)
    )
    if impossible and neutral_ycbcr <= _TIMES * neutral_rgb:
        return RGB
    if not impossible and neutral_ycbcr > max(_SHARE_NEUTRAL, _TIMES * neutral_rgb):
        return YCBCR
    return None


class JpegDecoder:
    """Decodes the tiles or strips of one image; safe to use from several threads.

    Parameters
    ----------
    tables : bytes or None
        Value of the JPEGTables tag: a JPEG stream with only tables in it.
    stated : str
        Colour space that the tag states: 'GRAYSCALE', 'RGB' or 'YCBCR'.
    width, height : int
        Size of a tile or strip in px.
    room : callable, optional
        From a shape to uint8 memory for a tile that is kept.

    Attributes
    ----------
    contradicted : str or None
        How contradicting statements were settled by the colours of the image; see `learn`.
    """

    def __init__(
        self,
        tables: bytes | None,
        stated: str,
        width: int,
        height: int,
        room: Callable[[tuple[int, ...]], NDArray[np.uint8]] | None = None,
    ) -> None:
        inner = tables[2:-2] if tables and tables.endswith(_END) else (tables or b"")[2:]
        self._tables, self._stated, self._width, self._height = inner, stated, width, height
        self._out, self._samples = ("GRAY", 1) if stated == GRAYSCALE else ("RGB", 3)
        self._shape = (height, width, self._samples)
        self._room = room or (lambda shape: np.empty(shape, np.uint8))
        self.contradicted: str | None = None
        self._last: tuple[bytes, bytes | None] = (b"no tile begins so", b"")
        self._here = threading.local()

    def __call__(self, data: bytes, begin: int, end: int, index: int, keep: bool, rows: int | None = None) -> Raw:
        """Pixels of one tile, uint8 (height, width, 3), or (height, width) for gray.

        Parameters
        ----------
        data, begin, end : bytes, int, int
            The tile is what lies between the two places.
        index : int
            Not used; every tile is judged by itself.
        keep : bool
            The result has to outlive this thread's next call.
        rows : int, optional
            Rows that the image has here: the last strip may be stored with only these.

        Raises
        ------
        ValueError
            The data is damaged, ends early (which libjpeg by itself fills with gray), is of another size or holds
            other samples than the tag states.
        """
        head, start = self._last
        if not data.startswith(head, begin):
            head, start, height = self._begin(data[begin:end], rows or self._height)
            if height != self._height:
                short = np.empty((height, *self._shape[1:]), np.uint8)
                return self._decode((head if start is None else start) + data[begin + len(head) : end], short)
            self._last = head, start
        stream = memoryview(data)[begin:end] if start is None else start + data[begin + len(head) : end]
        if keep:
            return self._decode(stream, self._room(self._shape))
        try:
            buffer = self._here.buffer
        except AttributeError:
            buffer = self._here.buffer = scratch(self._shape)
        return self._decode(stream, buffer)

    def row(self, data: bytes, begins: list[int], ends: list[int]) -> Raw | None:
        """Pixels of several tiles that lie side by side, uint8 (tiles, height, width * samples).

        They last until this thread's next call. One call for a row of tiles instead of one for each keeps libjpeg in
        the processor's caches, 3 % of the time. None where the tiles need a look one by one, damage included.
        """
        head, start = self._last
        if not all(data.startswith(head, begin) for begin in begins):
            return None
        shape = (len(begins), *self._shape)
        if math.prod(shape) > SCRATCH_BYTES:
            return None
        tiles = scratch(shape)
        if start is None:
            whole = memoryview(data)
            streams: list[bytes | memoryview] = [whole[begin:end] for begin, end in zip(begins, ends, strict=True)]
        else:
            skip = len(head)
            streams = [start + data[begin + skip : end] for begin, end in zip(begins, ends, strict=True)]
        try:
            for _ in map(simplejpeg.decode_jpeg, streams, repeat(self._out), *_PLAIN, tiles):
                pass
        except ValueError:
            return None
        return tiles.reshape(len(begins), self._height, -1)

    def _decode(self, stream: bytes | memoryview, buffer: NDArray[np.uint8]) -> Raw:
        try:
            simplejpeg.decode_jpeg(stream, self._out, buffer=buffer)
        except ValueError as error:
            padding = _PADDING.search(str(error))
            if not padding or int(padding[1]) > _HARMLESS:
                raise
            simplejpeg.decode_jpeg(stream, self._out, buffer=buffer, strict=False)
        return buffer if self._samples > 1 else buffer[..., 0]

    def _begin(self, tile: bytes, rows: int) -> tuple[bytes, bytes | None, int]:
        """The head of a tile, what libjpeg gets in its place (None for the head as it is), and the stored rows."""
        head = self._checked(tile, rows)
        space = self._stated
        if space != GRAYSCALE:
            space, agreed = colour_space(head, self._stated)
            space = space if agreed else self.contradicted or space
        as_it_is = not self._tables and space in (GRAYSCALE, _by_default(head))
        start = None if as_it_is else self._start(head, space)
        return tile[: head.scan], start, head.height

    def _start(self, head: JpegHeader, space: str) -> bytes:
        adobe = b"" if space == GRAYSCALE else _ADOBE + _TRANSFORM[space]
        return b"".join((_START, adobe, self._tables, head.kept))

    def _checked(self, data: bytes, rows: int) -> JpegHeader:
        head = read_head(data)
        if head.precision != 8:
            raise ValueError(f"a tile holds {head.precision} bits per sample, the file states 8")
        if len(head.ids) != self._samples:
            kind = {1: "gray", 2: "two components", 3: "colour", 4: "CMYK or YCCK"}.get(len(head.ids), "none")
            raise ValueError(f"a tile holds {len(head.ids)} components ({kind}), the file states {self._samples}")
        if head.width != self._width or head.height not in (self._height, rows):
            raise ValueError(f"a tile measures {head.width}x{head.height} px, not {self._width}x{self._height}")
        area = head.width * head.height
        if area > _UNCHECKED_PX and area > (len(data) + 1) * _PX_PER_BYTE:
            raise ValueError(f"a tile of {len(data)} bytes cannot hold the {head.width}x{head.height} px it states")
        return head

    def learn(self, tiles: Iterator[tuple[bytes, int]]) -> str | None:
        """Settle contradicting statements by the colours of some tiles, given with the rows they stand for.

        Returns what was found, in words, or None where nothing contradicts. Damaged tiles are passed over.
        """
        if self._stated == GRAYSCALE:
            return None
        pairs, heads = [], []
        for data, rows in tiles:
            try:
                head = self._checked(data, rows)
                if colour_space(head, self._stated)[1]:
                    continue
                shape = (head.height, *self._shape[1:])
                pairs.append(
                    [
                        self._decode(self._start(head, space) + data[head.scan :], np.empty(shape, np.uint8))
                        for space in (RGB, YCBCR)
                    ]
                )
            except ValueError:
                continue
            heads.append(head)
        if not pairs:
            return None
        self.contradicted = settle(*(np.concatenate(tiles) for tiles in zip(*pairs, strict=True)))
        by = "colours" if self.contradicted else "markers"
        taken = self.contradicted or colour_space(heads[0], self._stated)[0]
        self._last = (b"no tile begins so", b"")
        return f"the tag states {self._stated}, JPEG tiles contradict it: read as {taken} by their {by}"
