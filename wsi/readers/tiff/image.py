"""One TIFF image (IFD): read any region by decoding only the tiles or strips it touches."""

from __future__ import annotations

from collections.abc import Collection
from operator import add
from typing import NamedTuple

import cv2
import numpy as np
from tifffile import TiffFrame, TiffPage

from wsi.errors import ReadError
from wsi.readers.source import Raw
from wsi.readers.tiff.codecs import TORN, EncodedPieces
from wsi.readers.tiff.storage import FileBytes, PieceStore

_MAX_GAP = 64 << 10
_REMEMBERED = 4096
_READS_TO_KEEP = 64
_GDAL_NODATA = 42113
_HEADER = 8  # bytes at the begin of every TIFF file


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
    store : PieceStore
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

    def __init__(self, page: TiffPage | TiffFrame, file: FileBytes, store: PieceStore, plane: int = 0) -> None:
        key: TiffPage = page.keyframe  # type: ignore[assignment]
        self._file, self._store = file, store
        self.width, self.height = key.imagewidth, key.imagelength
        self.apart = key.planarconfig == 2 and key.samplesperpixel > 1
        self.hole = _value_of_holes(key)
        self.holes = sum(not o and not c for o, c in zip(page.dataoffsets, page.databytecounts, strict=False))
        self._tile = (key.tilewidth, key.tilelength) if key.is_tiled else None
        pieces = EncodedPieces.of(page, self.apart, file, store, plane)
        self.samples, self.dtype, self.note = pieces.samples, pieces.dtype, pieces.note
        self.offsets, self.counts = pieces.offsets, pieces.counts
        self._wide, self._tall, self._decode = pieces.width, pieces.height, pieces.decode
        self._row = pieces.row
        self._kept: dict[int, Raw] = {}
        self._recent: set[int] = set()  # pieces decoded and not kept; one that comes again tells of overlap
        self._overlapping = 0
        self._columns = -(-self.width // self._wide)
        self._pieces = self._columns * -(-self.height // self._tall)

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
        sides = (x, y, width, height, self._wide, self._tall)
        if any(side % factor for side in sides) or self.samples not in (1, 3) or self.dtype != np.uint8:
            return None
        return self._read(_Window(x, y, width, height, 0), factor)

    def _read(self, at: _Window, factor: int) -> Raw:
        tail = (self.samples,) if self.samples > 1 else ()
        out = np.empty((at.height // factor, at.width // factor, *tail), self.dtype)
        self._overlapping -= 1
        top, bottom = at.y // self._tall, (at.y + at.height - 1) // self._tall
        for row in range(top, bottom + 1):
            self._fill(out, factor, at, row, row in (top, bottom))
        return out

    def _fill(self, out: Raw, factor: int, at: _Window, row: int, outer_row: bool) -> None:
        """Put one row of pieces where it belongs in the region.

        Kept are pieces that the region uses in part, because its neighbour wants the rest; and while regions are
        found to overlap, its outer pieces, because the next region wants them again. What is not kept may change
        when this thread decodes the next piece. This loop runs for every tile: it is written to be short.
        """
        wide, kept, decode = self._wide, self._kept, self._decode
        top = row * self._tall
        below = min(top + self._tall, self.height)
        y1, y2 = max(at.y, top), min(at.y + at.height, below)
        rows_used = y2 - y1
        cut_row = rows_used < below - top
        out1, out2 = (y1 - at.y) // factor, (y2 - at.y) // factor
        y1, y2 = y1 - top, y2 - top
        x, right, last_column = at.x, at.x + at.width, self.width
        first, last = x // wide, (right - 1) // wide
        begin = row * self._columns + at.sample * self._pieces + first
        end = begin + last - first + 1
        end_of_row = (last + 1) * wide
        offsets, counts = self.offsets[begin:end], self.counts[begin:end]
        found = [kept.get(i) for i in range(begin, end)] if kept else None
        outer = self._overlapping > 0
        try:
            together, start = self._load(offsets, counts, found)
            left = first * wide
            whole = not (cut_row or found or outer or factor > 1) and x == left and right == end_of_row
            if whole and together is not None and self._row is not None and 0 not in counts:
                begins = [offset - start for offset in offsets]
                tiles = self._row(together, begins, list(map(add, begins, counts)))
                if tiles is not None and tiles.shape[1] == rows_used:
                    out[out1:out2].reshape(rows_used, len(tiles), -1)[...] = tiles.transpose(1, 0, 2)
                    self._remember(range(begin, end))
                    return
            for index, offset, count in zip(range(begin, end), offsets, counts, strict=True):
                border = left + wide if left + wide < last_column else last_column
                x1, x2 = (x if x > left else left), (right if right < border else border)
                target = out[out1:out2, (x1 - x) // factor : (x2 - x) // factor]
                piece = found[index - begin] if found else None
                if piece is None:
                    if not count:
                        target[...] = self._empty(offset)
                        left += wide
                        continue
                    keep = cut_row or x2 - x1 < border - left
                    if outer and not keep:
                        keep = outer_row or index in (begin, end - 1)
                    if together is None:
                        piece = decode(self._file.read(offset, count), 0, count, index, keep)
                    else:
                        piece = decode(together, offset - start, offset - start + count, index, keep)
                    if keep:
                        self._store.keep(kept, index, piece)
                    else:
                        self._remember((index,))
                if len(piece) != rows_used or piece.shape[1] != x2 - x1:
                    piece = piece[y1:y2, x1 - left : x2 - left]
                if factor == 1:
                    target[...] = piece
                else:
                    cv2.resize(piece, target.shape[1::-1], dst=target, interpolation=cv2.INTER_AREA)
                left += wide
        except Exception as error:  # codecs raise errors of many kinds
            raise self._error(at, error) from error

    def _remember(self, indexes: Collection[int]) -> None:
        """Notice pieces that are decoded again and were not kept."""
        recent = self._recent
        if not recent.isdisjoint(indexes):
            self._overlapping = _READS_TO_KEEP
        if len(recent) >= _REMEMBERED:
            recent.clear()
        recent.update(indexes)

    def _load(
        self, offsets: tuple[int, ...], counts: tuple[int, ...], found: list[Raw | None] | None
    ) -> tuple[bytes | None, int]:
        """Bytes of a row of pieces, and where in the file they begin; None where they lie too far apart."""
        if found or 0 in counts:
            missing = found or [None] * len(counts)
            wanted = [(o, n) for o, n, piece in zip(offsets, counts, missing, strict=True) if n and piece is None]
            if not wanted:
                return None, 0
            offsets, counts = tuple(o for o, _ in wanted), tuple(n for _, n in wanted)
        start, stop = min(offsets), max(map(add, offsets, counts))
        if start < _HEADER:
            raise ValueError("a tile or strip has a length and no place in the file")
        if stop - start > sum(counts) + _MAX_GAP:
            return None, 0
        return self._file.read(start, stop - start), start

    def _empty(self, offset: int) -> int:
        """What a piece of length zero reads as."""
        if offset == TORN:
            raise ValueError("a tile or strip has data for some of its colours only")
        if offset:
            raise ValueError("a tile or strip has a place in the file and the length 0")
        return self.hole

    def _error(self, at: _Window, error: Exception) -> ReadError:
        return ReadError(
            f"{self._file.path}: cannot read the region {at.width}x{at.height} at ({at.x}, {at.y}) of the "
            f"{self.width}x{self.height} image: {error or type(error).__name__}. The file is damaged there; "
            "copy it again from its source."
        )


def _value_of_holes(key: TiffPage) -> int:
    """What px without data read as: GDAL's tag 42113 says it; else colour is white, all else is zero."""
    if key.tags.valueof(_GDAL_NODATA) is not None:
        return int(key.nodata) if np.isfinite(key.nodata) else 0
    color = int(key.photometric) in (2, 6) and key.dtype is not None and np.dtype(key.dtype).kind == "u"
    return 2**key.bitspersample - 1 if color else 0
