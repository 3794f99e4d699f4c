"""One TIFF image (IFD): read any region by decoding only the tiles or strips it touches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tifffile import TiffFrame, TiffPage

from wsi.errors import ReadError
from wsi.readers import jpeg
from wsi.readers.source import Raw
from wsi.readers.storage import FileBytes, PieceCache

_UNCOMPRESSED, _JPEG = 1, 7
_STRIP_BYTES = 1 << 20
_MAX_GAP = 64 << 10
# Photometric interpretation -> colour space of the JPEG data; the tag decides, as in OpenSlide.
_JPEG_SPACES = {0: jpeg.GRAYSCALE, 1: jpeg.GRAYSCALE, 2: jpeg.RGB, 6: jpeg.YCBCR}


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
    """

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
        self._piece_width = key.tilewidth if key.is_tiled else key.imagewidth
        self._piece_height = key.tilelength if key.is_tiled else min(key.rowsperstrip, key.imagelength)
        self._decode = self._codec(key, plane)
        self._columns = -(-self.width // self._piece_width)
        self._pieces = self._columns * -(-self.height // self._piece_height)

    @property
    def has_holes(self) -> bool:
        """Whether the file declares some tiles as empty (length zero)."""
        return 0 in self.counts

    @property
    def file_size(self) -> int:
        """Length of the file in bytes."""
        return self._file.size

    def bytes_needed(self) -> int:
        """The file must be at least this long to hold all the pixels."""
        return max((o + c for o, c in zip(self.offsets, self.counts, strict=True) if c), default=0)

    def read(self, x: int, y: int, width: int, height: int, sample: int = 0) -> Raw:
        """A region inside the image: (height, width, samples), or (height, width) where samples is 1.

        `sample` picks one where samples are stored apart. Pieces that the file declares empty (length zero)
        are left at the largest value, white, for colour and at zero otherwise. Raises ReadError.
        """
        tail = (self.samples,) if self.samples > 1 else ()
        out = np.empty((height, width, *tail), self.dtype)
        first, last = x // self._piece_width, (x + width - 1) // self._piece_width
        rows = range(y // self._piece_height, (y + height - 1) // self._piece_height + 1)
        for row in rows:
            self._fill(out, row, first, last, (x, y, width, height), sample)
        return out

    def _fill(
        self, out: Raw, row: int, first: int, last: int, at: tuple[int, int, int, int], sample: int
    ) -> None:
        """Put one row of pieces, columns `first` to `last`, where it belongs in the region `at`."""
        x, y, width, height = at
        tall, wide = self._piece_height, self._piece_width
        top = row * tall
        y1, y2 = max(y, top), min(y + height, top + tall)
        base = row * self._columns + sample * self._pieces
        for index, data in self._load(base + first, base + last, at):
            left = (index - base) * wide
            x1, x2 = max(x, left), min(x + width, left + wide)
            target = out[y1 - y : y2 - y, x1 - x : x2 - x]
            partly = x2 - x1 < min(wide, self.width - left) or y2 - y1 < min(tall, self.height - top)
            piece = self._piece(index, data, partly, at)
            if piece is None:
                target[...] = np.iinfo(self.dtype).max if self.samples >= 3 else 0
            else:
                target[...] = piece[y1 - top : y2 - top, x1 - left : x2 - left]

    def _load(self, first: int, last: int, at: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
        """Index and stored bytes of a run of pieces: bytes of neighbours in the file come in one read."""
        wanted = range(first, last + 1)
        start = min((self.offsets[i] for i in wanted if self.counts[i]), default=0)
        end = max((self.offsets[i] + self.counts[i] for i in wanted if self.counts[i]), default=0)
        together = end - start <= sum(self.counts[first : last + 1]) + _MAX_GAP
        try:
            whole = memoryview(self._file.read(start, end - start)) if together and end else None
            for i in wanted:
                offset, count = self.offsets[i], self.counts[i]
                if not count:
                    yield i, None
                elif whole is not None:
                    yield i, whole[offset - start : offset - start + count]
                else:
                    yield i, self._file.read(offset, count)
        except OSError as error:
            raise self._error(at, error) from error

    def _piece(self, index: int, data: Any, keep: bool, at: tuple[int, ...]) -> Raw | None:
        """A decoded tile or strip; valid until this thread decodes the next one unless `keep` is set."""
        if data is None:
            return None
        key = (self._id, index)
        piece = self._cache.get(key) if keep else None
        if piece is None:
            try:
                piece = self._decode(data, index, keep)
            except Exception as error:  # codecs raise errors of many kinds
                raise self._error(at, error) from error
            if keep:
                self._cache.put(key, piece)
        return piece

    def _error(self, at: tuple[int, ...], error: Exception) -> ReadError:
        x, y, width, height = at
        return ReadError(
            f"{self._file.path}: cannot read the region {width}x{height} at ({x}, {y}) of the "
            f"{self.width}x{self.height} image: {error or type(error).__name__}. The file is damaged there; "
            "copy it again from its source."
        )

    def _codec(self, key: TiffPage, plane: int) -> Callable[[Any, int, bool], Raw]:
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
        plain = self.samples == (1 if space == jpeg.GRAYSCALE else 3)
        if key.compression == _JPEG and key.is_tiled and self.dtype == np.uint8 and space and plain:
            return self._jpeg(key, space)
        return self._other(key)

    def _jpeg(self, key: TiffPage, space: str) -> Callable[[Any, int, bool], Raw]:
        first = next((i for i, count in enumerate(self.counts) if count), None)
        sample = b""
        if first is not None and self.offsets[first] + self.counts[first] <= self._file.size:
            sample = self._file.read(self.offsets[first], min(self.counts[first], 1024))
        decode = jpeg.decoder(key.jpegtables, space, self._piece_width, self._piece_height, sample)
        return lambda data, index, keep: decode(data, keep)

    def _other(self, key: TiffPage) -> Callable[[Any, int, bool], Raw]:
        tables = {"jpegtables": key.jpegtables} if key.jpegtables else {}

        def other(data: Any, index: int, keep: bool) -> Raw:
            pixels = key.decode(bytes(data), index, **tables)[0]
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
