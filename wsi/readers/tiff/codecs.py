"""How the tiles and strips of one TIFF image are stored, and how their bytes become px."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tifffile import TiffFrame, TiffPage

from wsi.errors import UnsupportedSlideError
from wsi.readers.source import Raw
from wsi.readers.tiff import jp2k, jpeg
from wsi.readers.tiff.storage import FileBytes, PieceStore

Decode = Callable[[bytes, int, int, int, bool], Raw]
"""From bytes, where in them a piece begins and ends, its index, and whether its px outlive the thread's next call."""

_UNCOMPRESSED, _JPEG = 1, 7
TORN = -1
"""Offset of a piece without data whose px have data in other samples."""
PIECE_LIMIT = 2 << 30
"""Bytes that one compressed tile or strip may have when decoded."""
_STRIP_BYTES = 1 << 20
_SAMPLED, _SAMPLED_BYTES = 8, 8 << 20  # tiles looked at to learn the colour space of an image
# Photometric interpretation -> colour space of JPEG data that the tag states.
_JPEG_SPACES = {0: jpeg.GRAYSCALE, 1: jpeg.GRAYSCALE, 2: jpeg.RGB, 6: jpeg.YCBCR}


@dataclass
class EncodedPieces:
    """Tiles or strips of one image.

    Attributes
    ----------
    width, height : int
        Size of a piece in px.
    image_height : int
        Rows of the image.
    tiled : bool
        Tiles are stored whole at the border of the image, strips are not.
    samples : int
        Samples per px of a piece.
    dtype : numpy dtype
        Of the samples.
    offsets, counts : tuple of int
        Where each piece lies in the file, row by row.
    decode : Decode
        Raises errors of many kinds.
    row : callable, optional
        Decodes whole pieces side by side from the places where they begin and end, (pieces, height, width * samples);
        it may decline, and what it gives lasts until the thread's next call.
    note : str or None
        What the file contradicts itself about, and what was taken.
    """

    width: int
    height: int
    image_height: int
    tiled: bool
    samples: int
    dtype: np.dtype[Any]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    decode: Decode
    row: Callable[[bytes, list[int], list[int]], Raw | None] | None = None
    note: str | None = None

    @classmethod
    def of(
        cls, page: TiffPage | TiffFrame, apart: bool, file: FileBytes, store: PieceStore, plane: int
    ) -> EncodedPieces:
        """The pieces of a directory entry; `apart` says that each sample is stored by itself.

        `plane` counts the planes that lie uncompressed behind one entry. Raises UnsupportedSlideError.
        """
        key: TiffPage = page.keyframe  # type: ignore[assignment]
        own = cls(
            width=key.tilewidth if key.is_tiled else key.imagewidth,
            height=key.tilelength if key.is_tiled else min(key.rowsperstrip, key.imagelength),
            image_height=key.imagelength,
            tiled=key.is_tiled,
            samples=1 if apart else key.samplesperpixel,
            dtype=np.dtype(key.dtype if key.dtype is not None else np.uint8),
            offsets=tuple(page.dataoffsets),
            counts=tuple(page.databytecounts),
            decode=_nothing,
        )
        own._check(key, file)
        own._choose(key, apart, file, store, plane)
        columns, rows = -(-key.imagewidth // own.width), -(-key.imagelength // own.height)
        needed = columns * rows * (key.samplesperpixel if apart else 1)
        if len(own.offsets) < needed:
            raise UnsupportedSlideError(
                f"{file.path}: an image of {key.imagewidth}x{key.imagelength} px needs {needed} tiles or strips, "
                f"and its directory names {len(own.offsets)}. The file is damaged; copy it again."
            )
        if apart and _JPEG_SPACES.get(int(key.photometric)) == jpeg.RGB:
            own._mark_torn(columns * rows, key.samplesperpixel)
        return own

    def _mark_torn(self, per_sample: int, samples: int) -> None:
        """Pieces without data beside others of the same px that have some: a colour cannot be made of them."""
        offsets = list(self.offsets)
        for piece in range(per_sample):
            places = range(piece, piece + per_sample * samples, per_sample)
            empty = [place for place in places if not self.counts[place]]
            if 0 < len(empty) < samples:
                for place in empty:
                    offsets[place] = TORN
        self.offsets = tuple(offsets)

    def _check(self, key: TiffPage, file: FileBytes) -> None:
        if len(self.offsets) != len(self.counts):
            raise UnsupportedSlideError(
                f"{file.path} names {len(self.offsets)} places and {len(self.counts)} lengths of tiles or strips: "
                "it is damaged, or its writer was interrupted. Write or copy it again."
            )
        if not all(isinstance(n, int) and n >= 0 for n in (*self.offsets, *self.counts)):
            raise UnsupportedSlideError(
                f"{file.path}: its directory names places of tiles or strips that are no whole numbers. "
                "The file is damaged; copy it again."
            )
        decoded = self.width * self.height * self.samples * self.dtype.itemsize
        if key.compression != _UNCOMPRESSED and decoded > PIECE_LIMIT:
            raise UnsupportedSlideError(
                f"{file.path} states a compressed tile or strip of {self.width}x{self.height} px, "
                f"{decoded / 2**30:.1f} GiB when decoded; at most {PIECE_LIMIT >> 30} GiB are. Save it in tiles."
            )

    def _choose(self, key: TiffPage, apart: bool, file: FileBytes, store: PieceStore, plane: int) -> None:
        plain = key.compression == _UNCOMPRESSED
        if plain and any(o and not n for o, n in zip(self.offsets, self.counts, strict=True)):
            # libtiff and Pillow read such files too: the length follows from the size.
            row = -(-self.width * self.samples * key.bitspersample // 8)
            self.counts = tuple(
                n or (row * self._rows(i) if o else 0)
                for i, (o, n) in enumerate(zip(self.offsets, self.counts, strict=True))
            )
        ends = [o + c for o, c in zip(self.offsets, self.counts, strict=True)]
        in_a_row = all(end == start for end, start in zip(ends, self.offsets[1:], strict=False))
        space = _JPEG_SPACES.get(int(key.photometric))
        if apart and space == jpeg.YCBCR:
            raise UnsupportedSlideError(f"{file.path} stores YCbCr samples apart from each other; save it as RGB.")
        if apart and space == jpeg.RGB:
            space = jpeg.GRAYSCALE  # every sample is an image of its own
        fits = self.samples == (1 if space == jpeg.GRAYSCALE else 3)
        if plain and not self.tiled and key.is_final and in_a_row and not apart:
            self._cut_rows(key, plane)
        elif key.compression == _JPEG and self.dtype == np.uint8 and space and fits:
            self._use_jpeg(key, space, file, store)
        elif int(key.compression) in jp2k.CODES and self.tiled:
            ycbcr = self.samples == 3 and (int(key.compression) == jp2k.APERIO_YCBCR or space == jpeg.YCBCR)
            tile = jp2k.Jp2kDecoder(ycbcr, self.width, self.height, self.samples, self.dtype)
            self.decode = lambda data, begin, end, index, keep: tile(data[begin:end])
        else:
            self._use_tifffile(key)

    def _use_jpeg(self, key: TiffPage, space: str, file: FileBytes, store: PieceStore) -> None:
        tile = jpeg.JpegDecoder(key.jpegtables, space, self.width, self.height, store.room)
        self.note = tile.learn(self._examples(file))
        if self.tiled:
            self.decode, self.row = tile, tile.row
        else:
            self.decode = lambda data, begin, end, index, keep: tile(data, begin, end, index, keep, self._rows(index))

    def _rows(self, index: int) -> int:
        """Rows of px that a piece holds; the last strip may hold fewer than the others."""
        if self.tiled:
            return self.height
        per_sample = -(-self.image_height // self.height)
        return min(self.height, self.image_height - index % per_sample * self.height)

    def _examples(self, file: FileBytes) -> Iterator[tuple[bytes, int]]:
        """Some pieces, evenly spread, each with the rows of the image that it stands for."""
        full = [i for i, (o, n) in enumerate(zip(self.offsets, self.counts, strict=True)) if 0 < n <= file.size - o]
        left = _SAMPLED_BYTES
        for i in full[:: max(1, len(full) // _SAMPLED)][: _SAMPLED + 1]:
            if left > 0:
                left -= self.counts[i]
                yield file.read(self.offsets[i], self.counts[i]), self._rows(i)

    def _use_tifffile(self, key: TiffPage) -> None:
        tables = {"jpegtables": key.jpegtables} if key.jpegtables else {}

        def other(data: bytes, begin: int, end: int, index: int, keep: bool) -> Raw:
            pixels = key.decode(data[begin:end], index, **tables)[0]
            if pixels is None:
                raise ValueError("a piece without data")
            return pixels[0] if self.samples > 1 else pixels[0, ..., 0]

        self.decode = other

    def _cut_rows(self, key: TiffPage, plane: int) -> None:
        """Cut uncompressed data into strips of about 1 MB, however large the strips of the file are."""
        row = self.width * self.samples * self.dtype.itemsize
        self.height = rows = max(1, min(self.image_height, _STRIP_BYTES // row))
        start = self.offsets[0] + plane * row * self.image_height
        tops = range(0, self.image_height, rows)
        self.offsets = tuple(start + top * row for top in tops)
        self.counts = tuple(min(rows, self.image_height - top) * row for top in tops)
        stored = self.dtype.newbyteorder(key.parent.byteorder)
        tail = (self.samples,) if self.samples > 1 else ()

        def raw(data: bytes, begin: int, end: int, index: int, keep: bool) -> Raw:
            pixels = np.frombuffer(data, stored, (end - begin) // stored.itemsize, begin)
            # A piece that is kept must not hold on to its neighbours' bytes.
            return pixels.reshape(-1, self.width, *tail).astype(self.dtype, copy=keep)

        self.decode = raw


def _nothing(data: bytes, begin: int, end: int, index: int, keep: bool) -> Raw:
    raise ValueError("a piece without a codec")
