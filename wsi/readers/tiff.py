"""TIFF files read tile by tile: Aperio SVS, pyramids, OME-TIFF, ImageJ stacks, plain strips."""

from __future__ import annotations

import math
import threading
import weakref
from pathlib import Path

import cv2
import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage

from wsi.errors import ReadError, SlideError, UnsupportedSlideError
from wsi.readers.source import Layout, Raw, Source, level_sizes_to_levels
from wsi.readers.storage import FileBytes, PieceCache
from wsi.readers.tiff_image import TiffImage
from wsi.readers.tiff_layout import directories, layout_of
from wsi.slide import RGB

CACHE_BYTES = 64 << 20
_APERIO_JPEG2000 = {33003, 33004, 33005}
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_KNOWN = (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR)
_DECODED_TO_RGB = {6, 7, 33007, 50001, 34892, 50002, 52546}  # JPEG, WebP and JPEG XL undo YCbCr themselves


class TiffSource(Source):
    """One TIFF file; raises UnsupportedSlideError when it is cut off or of a kind not known."""

    name = "tiff"

    def __init__(self, path: Path, series: int | None = None) -> None:
        self.path = path
        _check_directories(path)
        try:
            self._tif = TiffFile(path)
        except Exception as error:  # tifffile raises errors of many kinds on damaged files
            raise UnsupportedSlideError(f"{path} is not a TIFF file that can be read: {error}.") from error
        self._files: dict[str, FileBytes] = {}
        self._cache = PieceCache(CACHE_BYTES)
        self._images: dict[tuple[int, int], TiffImage] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, self._tif.close)  # a slide may be dropped without being closed
        try:
            self._open(series)
        except SlideError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise UnsupportedSlideError(f"{path} is not a TIFF file that can be read: {error}.") from error

    def _open(self, series: int | None) -> None:
        found = self._found = layout_of(self._tif, self.path, series)
        self._key: TiffPage = found.levels[0][0].keyframe  # type: ignore[assignment]
        self._photometric = int(self._key.photometric)
        if self._photometric not in _KNOWN:
            raise UnsupportedSlideError(
                f"{self.path} stores colours as {self._key.photometric!s}; save it as RGB or gray."
            )
        if (
            self._photometric == _YCBCR
            and int(self._key.compression) not in _DECODED_TO_RGB | _APERIO_JPEG2000
        ):
            raise UnsupportedSlideError(f"{self.path} stores YCbCr colours without JPEG; save it as RGB.")
        images = [self._image(level, 0) for level in range(len(found.levels))]
        self._check_length()
        self.levels = level_sizes_to_levels([(image.width, image.height) for image in images])
        self.layout = self._layout(images[0])
        self.mpp_xy = found.mpp_xy
        self.seconds, self.depth_um, self.unnamed = found.seconds, found.depth_um, found.unnamed
        orientation = self._key.tags.valueof(274, 1)
        self.orientation = int(orientation) if orientation in range(1, 9) else 1
        self.properties = dict(found.properties)
        self.associated = tuple(sorted(found.associated))

    def _layout(self, image: TiffImage) -> Layout:
        sizes = self._found.sizes
        samples = self._key.samplesperpixel
        palette = self._photometric == _PALETTE
        dtype = np.dtype(np.uint8) if palette else image.dtype
        colors = 3 if palette else min(samples, 3) if samples >= 3 else 1
        channels = sizes.get("c", 1) * colors
        is_rgb = channels == 3 and colors == 3 and dtype == np.uint8
        names = tuple(self._found.channels) if len(self._found.channels) == channels else ()
        return Layout(dtype, channels, sizes.get("t", 1), sizes.get("z", 1), is_rgb, names)

    def why_not(self, vendor: str | None) -> str | None:
        """Why OpenSlide should read this file, or None. `vendor` is OpenSlide's name for the format."""
        if int(self._key.compression) in _APERIO_JPEG2000:
            return "JPEG 2000 tiles of Aperio's kind"
        if vendor is not None and any(self._image(i, 0).has_holes for i in range(len(self.levels))):
            return "tiles without data"
        return None

    def _check_length(self) -> None:
        found = self._found
        pages = [page for level in found.levels for page in level] + list(found.associated.values())
        for page in pages:
            size = self._file(page).size
            ends = (o + c for o, c in zip(page.dataoffsets, page.databytecounts, strict=True) if c)
            needed = max(ends, default=0)
            if found.stored_behind_first:
                needed = page.dataoffsets[0] + page.nbytes * math.prod(found.sizes.values())
            if needed > size:
                raise UnsupportedSlideError(
                    f"{self.path} is cut off: its pixels need {needed} bytes and the file has {size}. "
                    "Copy it again from its source."
                )

    def _image(self, level: int, plane: int) -> TiffImage:
        with self._lock:
            image = self._images.get((level, plane))
            if image is None:
                behind = self._found.stored_behind_first
                page = self._found.levels[level][0 if behind else plane]
                image = TiffImage(page, self._file(page), self._cache, plane if behind else 0)
                self._images[level, plane] = image
            return image

    def _file(self, page: TiffPage | TiffFrame) -> FileBytes:
        path = page.parent.filehandle.path  # another file in a multi-file OME-TIFF
        if path not in self._files:
            self._files[path] = FileBytes(Path(path) if path else self.path)
        return self._files[path]

    def _plane(self, t: int, z: int, c: int) -> int:
        at = {"t": t, "z": z, "c": c}
        index = 0
        for axis in self._found.axes:
            index = index * self._found.sizes[axis] + at[axis]
        return index

    def read_rgb(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int) -> RGB:
        """A region of a colour picture; see `Source`."""
        image = self._image(level, self._plane(t, z, 0))
        return self._to_rgb(image, self._key, x, y, width, height)

    def read_shrunk(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, factor: int
    ) -> RGB:
        """A region shrunk by a whole factor; see `Source`."""
        if self._photometric in (_RGB, _YCBCR):
            image = self._image(level, self._plane(t, z, 0))
            small = image.read_shrunk(x, y, width, height, factor) if image.samples == 3 else None
            if small is not None:
                return small
        return super().read_shrunk(x, y, width, height, level, t, z, factor)

    def read_channel(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int
    ) -> Raw:
        """A region of one channel; see `Source`."""
        colors = 3 if self._key.samplesperpixel >= 3 or self._photometric == _PALETTE else 1
        image = self._image(level, self._plane(t, z, channel // colors))
        sample = channel % colors
        if self._photometric == _PALETTE:
            return np.ascontiguousarray(self._to_rgb(image, self._key, x, y, width, height)[..., sample])
        if image.apart:
            return image.read(x, y, width, height, sample)
        raw = image.read(x, y, width, height)
        raw = raw[..., sample] if image.samples > 1 else raw
        return _invert(raw) if self._photometric == _MIN_IS_WHITE else raw

    def _to_rgb(self, image: TiffImage, key: TiffPage, x: int, y: int, width: int, height: int) -> RGB:
        if image.apart:
            return np.stack([image.read(x, y, width, height, s) for s in range(3)], -1)
        raw = image.read(x, y, width, height)
        if raw.ndim == 3:
            return raw if image.samples == 3 else _over_white(raw)
        if int(key.photometric) == _PALETTE:
            table = np.asarray(key.colormap)
            return np.ascontiguousarray((table >> 8 if table.max() > 255 else table).astype(np.uint8).T[raw])
        if raw.dtype == np.bool_:
            raw = raw.astype(np.uint8) * 255
        if raw.dtype != np.uint8:
            raise ReadError(f"{self.path}: an associated image of type {raw.dtype} cannot be shown.")
        raw = _invert(raw) if int(key.photometric) == _MIN_IS_WHITE else raw
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(raw), cv2.COLOR_GRAY2RGB), np.uint8)

    def read_associated(self, name: str) -> RGB:
        """Label, macro or thumbnail; see `Source`."""
        page = self._found.associated[name].aspage()
        image = TiffImage(page, self._file(page), self._cache)
        return self._to_rgb(image, page, 0, 0, image.width, image.height)

    def close(self) -> None:
        """Close all files; see `Source`."""
        self._tif.close()
        for file in self._files.values():
            file.close()
        self._cache.clear()


def _check_directories(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        if any(at >= size for at in directories(stream)):
            raise UnsupportedSlideError(
                f"{path} is cut off: it has {size} bytes and its own directory points beyond them. "
                "Copy it again from its source."
            )


def _invert(raw: Raw) -> Raw:
    """Values of a picture in which the smallest value is white."""
    if raw.dtype == np.bool_:
        return ~raw
    return np.iinfo(raw.dtype).max - raw if raw.dtype.kind == "u" else -raw


def _over_white(raw: Raw) -> RGB:
    """Red, green, blue over white where the alpha sample, which the file itself declares, lets it through."""
    alpha = raw[..., 3:4].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(raw[..., :3])
    mixed = (raw[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)
