"""One TIFF image (IFD): read any region by decoding only the tiles or strips it touches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from tifffile import TiffFrame, TiffPage

from wsi.errors import ReadError, UnsupportedSlideError
from wsi.readers import jpeg
from wsi.readers.source import Raw
from wsi.readers.storage import FileBytes, PieceCache

_UNCOMPRESSED, _JPEG = 1, 7
_STRIP_BYTES = 1 << 20
_MAX_GAP = 64 << 10
_REMEMBERED = 4096
_GDAL_NODATA = 42113
PIECE_LIMIT = 2 << 30
"""Bytes that one compressed tile or strip may have when decoded."""
_HEADER = 8  # bytes at the begin of every TIFF file
_READS_TO_KEEP = 64
_SAMPLED, _SAMPLED_BYTES = 8, 8 << 20  # tiles looked at to learn the colour space of an image
# Photometric interpretation -> colour space of JPEG data that the tag states.
_JPEG_SPACES = {0: jpeg.GRAYSCALE, 1: jpeg.GRAYSCALE, 2: jpeg.RGB, 6: jpeg.YCBCR}


class _Window(NamedTuple):
    """A region, and the sample where samples are stored apart."""

    x: int
    y: int
    width: int
    height: int
    sample: int


class TiffImage:
    """One image of a TIFF file.

    Parameters
    ----------
    page : TiffPage or TiffFrame
        Its directory entry.
    file : FileBytes
        The file that holds it.
    cache : PieceCache
        Shared memory of pieces that a region used only in part (its neighbour will want the rest).
    plane : int
        For uncompressed stacks that keep several planes behind one directory entry: which plane.

    Attributes
    ----------
    width, height, samples : int
        Size in px and samples per px (1 when the samples are stored apart).
    dtype : numpy dtype
        Of the stored samples.
    note : str or None
        What the file contradicts itself about, and what was taken.
    hole : int
        Value of px that the file does not hold.
    holes : int
        How many tiles or strips have no data: offset and length are zero.
    """

    note: str | None = None

    def __init__(
        self, page: TiffPage | TiffFrame, file: FileBytes, cache: PieceCache, plane: int = 0
    ) -> None:
        key: TiffPage = page.keyframe  # type: ignore[assignment]
        self._file, self._cache, self._id = file, cache, (str(file.path), page.offset, plane)
        self.width, self.height = key.imagewidth, key.imagelength
        self.apart = key.planarconfig == 2 and key.samplesperpixel > 1
        self.samples = 1 if self.apart else key.samplesperpixel
        self.dtype = np.dtype(key.dtype if key.dtype is not None else np.uint8)
        self.offsets: tuple[int, ...] = tuple(page.dataoffsets)
        self.counts: tuple[int, ...] = tuple(page.databytecounts)
        if len(self.offsets) != len(self.counts):
            raise UnsupportedSlideError(
                f"{file.path} names {len(self.offsets)} places and {len(self.counts)} lengths of tiles or strips: "
                "it is damaged, or its writer was interrupted. Write or copy it again."
            )
        self.hole = _value_of_holes(key)
        self.holes = sum(not o and not c for o, c in zip(self.offsets, self.counts, strict=True))
        self._tile = (key.tilewidth, key.tilelength) if key.is_tiled else None
        self._piece_width = key.tilewidth if key.is_tiled else key.imagewidth
        self._piece_height = key.tilelength if key.is_tiled else min(key.rowsperstrip, key.imagelength)
        decoded = self._piece_width * self._piece_height * self.samples * self.dtype.itemsize
        if key.compression != _UNCOMPRESSED and decoded > PIECE_LIMIT:
            raise UnsupportedSlideError(
                f"{file.path} states a compressed tile or strip of {self._piece_width}x{self._piece_height} px, "
                f"{decoded / 2**30:.1f} GiB when decoded; at most {PIECE_LIMIT >> 30} GiB are. Save it in tiles."
            )
        self._decode = self._codec(key, plane)
        self._recent: set[int] = set()  # pieces decoded and not kept; one that comes again tells of overlap
        self._overlapping = 0
        self._columns = -(-self.width // self._piece_width)
        self._pieces = self._columns * -(-self.height // self._piece_height)
        if not all(isinstance(n, int) and n >= 0 for n in (*self.offsets, *self.counts)):
            raise UnsupportedSlideError(
                f"{file.path}: its directory names places of tiles or strips that are no whole numbers. "
                "The file is damaged; copy it again."
            )
        needed = self._pieces * (key.samplesperpixel if self.apart else 1)
        if len(self.offsets) < needed or len(self.counts) < needed:
            raise UnsupportedSlideError(
                f"{file.path}: an image of {self.width}x{self.height} px needs {needed} tiles or strips, and its "
                f"directory names {min(len(self.offsets), len(self.counts))}. The file is damaged; copy it again."
            )

    @property
    def tile(self) -> tuple[int, int] | None:
        """Width and height of a tile in px; None where the image is stored in strips."""
        return self._tile

    def read(self, x: int, y: int, width: int, height: int, sample: int = 0) -> Raw:
        """A region inside the image: (height, width, samples), or (height, width) where samples is 1.

        `sample` picks one where samples are stored apart. Pieces without data (offset and length zero) read
        as `hole`. Raises ReadError, also where a piece has a place in the file and no length.
        """
        return self._read(_Window(x, y, width, height, sample), 1)

    def read_shrunk(self, x: int, y: int, width: int, height: int, factor: int) -> Raw | None:
        """A region with blocks of `factor` x `factor` px averaged, or None where tiles would cut blocks.

        The same as `read` followed by one area resampling; every tile is shrunk while it is still in the
        processor's cache.
        """
        sides = (x, y, width, height, self._piece_width, self._piece_height)
        if any(side % factor for side in sides) or self.samples not in (1, 3) or self.dtype != np.uint8:
            return None
        return self._read(_Window(x, y, width, height, 0), factor)

    def _read(self, at: _Window, factor: int) -> Raw:
        tail = (self.samples,) if self.samples > 1 else ()
        out = np.empty((at.height // factor, at.width // factor, *tail), self.dtype)
        first, last = at.x // self._piece_width, (at.x + at.width - 1) // self._piece_width
        top, bottom = at.y // self._piece_height, (at.y + at.height - 1) // self._piece_height
        self._overlapping -= 1
        for row in range(top, bottom + 1):
            self._fill(out, factor, at, row, first, last)
        return out

    def _fill(self, out: Raw, factor: int, at: _Window, row: int, first: int, last: int) -> None:
        """Put one row of pieces, columns `first` to `last`, where it belongs in the region."""
        tall, wide = self._piece_height, self._piece_width
        top = row * tall
        y1, y2 = max(at.y, top), min(at.y + at.height, top + tall)
        cut_row = y2 - y1 < min(tall, self.height - top)
        base = row * self._columns + at.sample * self._pieces
        decoded = {column: self._cache.get((self._id, base + column)) for column in range(first, last + 1)}
        stored = self._load([base + column for column, piece in decoded.items() if piece is None], at)
        for column, piece in decoded.items():
            left = column * wide
            x1, x2 = max(at.x, left), min(at.x + at.width, left + wide)
            if piece is None:
                cut = cut_row or x2 - x1 < min(wide, self.width - left)
                piece = self._piece(base + column, next(stored), cut, column in (first, last), at)
            target = out[
                (y1 - at.y) // factor : (y2 - at.y) // factor, (x1 - at.x) // factor : (x2 - at.x) // factor
            ]
            if piece is None:
                target[...] = self.hole
            elif factor == 1:
                target[...] = piece[y1 - top : y2 - top, x1 - left : x2 - left]
            else:
                part = piece[y1 - top : y2 - top, x1 - left : x2 - left]
                cv2.resize(part, target.shape[1::-1], dst=target, interpolation=cv2.INTER_AREA)

    def _load(self, wanted: list[int], at: _Window) -> Iterator[Any]:
        """Stored bytes of pieces in one row; those of neighbours in the file come in one read."""
        full = [i for i in wanted if self.counts[i]]
        if any(self.offsets[i] for i in wanted if not self.counts[i]):
            raise self._error(at, ValueError("a tile or strip has a place in the file and the length 0"))
        if any(self.offsets[i] < _HEADER for i in full):
            raise self._error(at, ValueError("a tile or strip has a length and no place in the file"))
        start = min((self.offsets[i] for i in full), default=0)
        end = max((self.offsets[i] + self.counts[i] for i in full), default=0)
        together = end - start <= sum(self.counts[i] for i in full) + _MAX_GAP
        try:
            whole = memoryview(self._file.read(start, end - start)) if together and full else None
            for i in wanted:
                offset, count = self.offsets[i], self.counts[i]
                if not count:
                    yield None
                elif whole is not None:
                    yield whole[offset - start : offset - start + count]
                else:
                    yield self._file.read(offset, count)
        except OSError as error:
            raise self._error(at, error) from error

    def _piece(self, index: int, data: Any, cut: bool, outer: bool, at: _Window) -> Raw | None:
        """A decoded tile or strip; it may change when this thread decodes the next one, unless it is kept.

        Kept are pieces that the region uses in part, because its neighbour wants the rest; and while regions
        are found to overlap, its first and last column, because tiles are mostly read row by row.
        """
        if data is None:
            return None
        keep = cut or (outer and self._overlapping > 0)
        try:
            piece = self._decode(data, index, keep)
        except Exception as error:  # codecs raise errors of many kinds
            raise self._error(at, error) from error
        if keep:
            self._cache.put((self._id, index), piece)
        else:
            if index in self._recent:
                self._overlapping = _READS_TO_KEEP
            elif len(self._recent) >= _REMEMBERED:
                self._recent.clear()
            self._recent.add(index)
        return piece

    def _error(self, at: _Window, error: Exception) -> ReadError:
        return ReadError(
            f"{self._file.path}: cannot read the region {at.width}x{at.height} at ({at.x}, {at.y}) of the "
            f"{self.width}x{self.height} image: {error or type(error).__name__}. The file is damaged there; "
            "copy it again from its source."
        )

    def _codec(self, key: TiffPage, plane: int) -> Callable[[Any, int, bool], Raw]:
        if key.compression == _UNCOMPRESSED and not any(self.counts) and all(self.offsets):
            # libtiff and Pillow read such files too: the length follows from the size.
            self.counts = tuple(self._plain_length(key, i) for i in range(len(self.offsets)))
        ends = [o + c for o, c in zip(self.offsets, self.counts, strict=True)]
        in_a_row = all(end == start for end, start in zip(ends, self.offsets[1:], strict=False))
        if (
            key.compression == _UNCOMPRESSED
            and not key.is_tiled
            and key.is_final
            and in_a_row
            and not self.apart
        ):
            return self._raw_rows(key, plane)
        space = _JPEG_SPACES.get(int(key.photometric))
        if self.apart and space == jpeg.YCBCR:
            raise UnsupportedSlideError(
                f"{self._file.path} stores YCbCr samples apart from each other; save it as RGB."
            )
        if self.apart and space == jpeg.RGB:
            space = jpeg.GRAYSCALE  # every sample is an image of its own
        plain = self.samples == (1 if space == jpeg.GRAYSCALE else 3)
        if key.compression == _JPEG and self.dtype == np.uint8 and space and plain:
            return self._jpeg(key, space)
        return self._other(key)

    def _jpeg(self, key: TiffPage, space: str) -> Callable[[Any, int, bool], Raw]:
        tall = self._piece_height
        decode = jpeg.JpegDecoder(key.jpegtables, space, self._piece_width, tall)
        self.note = decode.learn(self._samples(key.is_tiled))
        if key.is_tiled:
            return lambda data, index, keep: decode(data, tall, keep)
        return lambda data, index, keep: decode(data, self._rows(index), keep)

    def _rows(self, strip: int) -> int:
        """Rows of the image in a strip; the last one may hold fewer than the others."""
        per_sample = -(-self.height // self._piece_height)
        return min(self._piece_height, self.height - strip % per_sample * self._piece_height)

    def _samples(self, tiled: bool) -> Iterator[tuple[bytes, int]]:
        """Some tiles or strips, evenly spread, each with the rows of the image that it stands for."""
        full = [
            i
            for i, (o, n) in enumerate(zip(self.offsets, self.counts, strict=True))
            if 0 < n <= self._file.size - o
        ]
        left = _SAMPLED_BYTES
        for i in full[:: max(1, len(full) // _SAMPLED)][: _SAMPLED + 1]:
            if left > 0:
                left -= self.counts[i]
                yield (
                    self._file.read(self.offsets[i], self.counts[i]),
                    self._piece_height if tiled else self._rows(i),
                )

    def _other(self, key: TiffPage) -> Callable[[Any, int, bool], Raw]:
        tables = {"jpegtables": key.jpegtables} if key.jpegtables else {}

        def other(data: Any, index: int, keep: bool) -> Raw:
            pixels = key.decode(bytes(data), index, **tables)[0]
            if pixels is None:
                raise ValueError("a piece without data")
            return pixels[0] if self.samples > 1 else pixels[0, ..., 0]

        return other

    def _raw_rows(self, key: TiffPage, plane: int) -> Callable[[Any, int, bool], Raw]:
        """Cut uncompressed data into strips of about 1 MB, however large the strips of the file are."""
        row = self.width * self.samples * self.dtype.itemsize
        self._piece_height = rows = max(1, min(self.height, _STRIP_BYTES // row))
        start = self.offsets[0] + plane * row * self.height
        tops = range(0, self.height, rows)
        self.offsets = tuple(start + top * row for top in tops)
        self.counts = tuple(min(rows, self.height - top) * row for top in tops)
        stored = self.dtype.newbyteorder(key.parent.byteorder)
        tail = (self.samples,) if self.samples > 1 else ()

        def raw(data: Any, index: int, keep: bool) -> Raw:
            pixels = np.frombuffer(data, stored).reshape(-1, self.width, *tail)
            return pixels.astype(self.dtype, copy=False)

        return raw

    def _plain_length(self, key: TiffPage, index: int) -> int:
        """Bytes of an uncompressed piece."""
        row = -(-self._piece_width * self.samples * key.bitspersample // 8)
        rows = self._piece_height
        if not key.is_tiled:
            strips = -(-self.height // rows)
            rows = min(rows, self.height - index % strips * rows)
        return row * rows


def _value_of_holes(key: TiffPage) -> int:
    """What px without data read as: GDAL's tag 42113 says it; else colour is white, all else is zero."""
    if key.tags.valueof(_GDAL_NODATA) is not None:
        return int(key.nodata) if np.isfinite(key.nodata) else 0
    color = int(key.photometric) in (2, 6) and key.dtype is not None and np.dtype(key.dtype).kind == "u"
    return 2**key.bitspersample - 1 if color else 0
