"""Vendor formats through OpenSlide 4: NDPI, MRXS, SCN, BIF, DICOM and others."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError, lowlevel

from wsi.cleanup import cleaning_up
from wsi.errors import ReadError, UnsupportedSlideError
from wsi.readers.description import Description, Layout, whole_levels
from wsi.readers.scale import pair, plausible, to_micrometres, within_microscopy
from wsi.readers.source import PixelSource, Raw, require_only_image
from wsi.readers.vendor.companions import companion_files
from wsi.slide import RGB

# Formats whose pixels are not all in the file that is opened.
_MANY_FILES = {"mirax", "dicom", "hamamatsu-vms", "hamamatsu-vmu"}
_WHITE = "FFFFFF"
_PIXELS = ctypes.POINTER(ctypes.c_uint32)


def vendor_of(path: Path) -> str | None:
    """OpenSlide's name of the format, or None when it does not know the file."""
    try:
        return openslide.OpenSlide.detect_format(str(path))
    except (OpenSlideError, OSError):
        return None


def stated_bounds(path: Path, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of a file that QuPath shows through OpenSlide, for a file that another reader reads.

    `size` is that of level 0: where OpenSlide sees another image, it says nothing of this one.
    """
    try:
        with OpenSlide(str(path)) as handle:
            return _bounds(dict(handle.properties), size) if handle.dimensions == size else None
    except (OpenSlideError, OSError):
        return None


class OpenSlideSource(PixelSource):
    """One slide opened by OpenSlide.

    Pixels that the format declares empty (transparent) get the format's background colour, or white where
    it names none. A failed read raises ReadError; OpenSlide refuses all further reads on such a handle, so
    a fresh one is opened for the regions that are intact.
    """

    name = "openslide"

    def __init__(self, path: Path, series: int | None = None) -> None:
        require_only_image(path, series)
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._handle: OpenSlide | None = OpenSlide(str(path))
            found = dict(self._handle.properties)
            sizes = list(self._handle.level_dimensions)
            self._downsamples = self._handle.level_downsamples
            associated = tuple(sorted(self._handle.associated_images))
            profile = self._handle.color_profile
        except (OpenSlideError, OSError) as error:
            raise UnsupportedSlideError(
                f"{path} cannot be opened by OpenSlide: {error}. It is damaged, cut off, or not a slide."
            ) from error
        levels, notes = whole_levels(sizes)
        vendor = found.get("openslide.vendor")
        mpp_xy = _mpp(found)
        self.description = Description(
            levels=levels,
            layout=Layout(np.dtype(np.uint8), 3, is_rgb=True),
            mpp_xy=mpp_xy,
            mpp_from=f"OpenSlide's reading of the {vendor} metadata" if mpp_xy else "",
            associated=associated,
            properties=MappingProxyType(found),
            files=companion_files(path, vendor),
            identity=found.get("openslide.quickhash-1", "") if vendor in _MANY_FILES else "",
            icc_profile=None if profile is None else profile.tobytes(),
            qupath_bounds=_bounds(found, sizes[0]),
            notes=notes,
        )
        background = found.get("openslide.background-color", _WHITE)
        self._background = np.array([int(background[i : i + 2], 16) for i in (0, 2, 4)], np.uint16)

    def read_rgb(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int) -> RGB:
        """A region; see `PixelSource`."""
        downsample = self._downsamples[level]
        location = (round(x * downsample), round(y * downsample))
        handle = self._current()
        try:
            argb = _read_region(handle, location, level, (width, height))
        except (OpenSlideError, OSError):
            argb = self._read_afresh(handle, location, level, (width, height))
        return _over(argb, self._background)

    def _current(self) -> OpenSlide:
        with self._lock:
            if self._closed:
                raise ReadError(f"{self.path} is closed; open it again.")
            if self._handle is None:
                self._handle = self._new_handle()
            return self._handle

    def _new_handle(self) -> OpenSlide:
        try:
            return OpenSlide(str(self.path))
        except (OpenSlideError, OSError) as error:
            raise ReadError(f"{self.path} could be opened before and no longer can: {error}.") from error

    def _read_afresh(
        self, failed: OpenSlide, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint32]:
        """Read once more on a handle of its own: the failure may be another thread's, and it sticks."""
        with self._lock:
            if self._handle is failed:
                self._handle = None  # closed when the last thread that reads on it lets go
        handle = self._new_handle()
        with cleaning_up(handle.close):
            try:
                return _read_region(handle, location, level, size)
            except (OpenSlideError, OSError) as error:
                raise ReadError(
                    f"{self.path}: cannot read the region {size[0]}x{size[1]} at level-0 {location} of level "
                    f"{level}: {error}. The file is damaged there; copy it again from its source."
                ) from error

    def read_channel(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int) -> Raw:
        """One of red, green, blue; see `PixelSource`."""
        return np.ascontiguousarray(self.read_rgb(x, y, width, height, level, t, z)[..., channel])

    def read_associated(self, name: str) -> RGB:
        """Label, macro or thumbnail; see `PixelSource`."""
        handle = self._current()
        try:
            rgba = np.asarray(handle.associated_images[name])
        except (OpenSlideError, OSError) as error:
            with self._lock:
                self._handle = None
            raise ReadError(f"{self.path}: cannot read the associated image {name!r}: {error}.") from error
        return _composite(rgba, self._background)

    def close(self) -> None:
        """Close the handle; see `PixelSource`."""
        with self._lock:
            handle, self._handle, self._closed = self._handle, None, True
        if handle is not None:
            handle.close()


def _read_region(handle: OpenSlide, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint32]:
    """Premultiplied ARGB as OpenSlide gives it, (height, width); raises OpenSlideError.

    `OpenSlide.read_region` makes a Pillow image of the same memory, which takes three further passes over it.
    """
    argb = np.empty(size[::-1], np.uint32)
    lowlevel._read_region(handle._osr, argb.ctypes.data_as(_PIXELS), *location, level, *size)
    return argb


def _over(argb: NDArray[np.uint32], background: NDArray[np.uint16]) -> RGB:
    """Premultiplied ARGB over a background, uint8 (height, width, 3)."""
    if int(np.bitwise_and.reduce(argb, axis=None)) >> 24 == 255:  # every alpha is 255
        if sys.byteorder == "little":
            return np.asarray(cv2.cvtColor(argb.view(np.uint8).reshape(*argb.shape, 4), cv2.COLOR_BGRA2RGB))
        return np.stack([(argb >> shift).astype(np.uint8) for shift in (16, 8, 0)], -1)
    alpha = argb >> 24
    return np.stack(
        [
            np.minimum(((argb >> shift) & 255) + (value * (255 - alpha) + 127) // 255, 255).astype(np.uint8)
            for shift, value in zip((16, 8, 0), background.astype(np.uint32), strict=True)
        ],
        -1,
    )


def _mpp(found: dict[str, str]) -> tuple[float, float] | None:
    mpp = pair(*(to_micrometres(found.get(f"openslide.mpp-{axis}"), "um") for axis in ("x", "y")))
    if mpp and found.get("openslide.vendor") == "generic-tiff":
        # OpenSlide takes any resolution for a microscope's; see wsi.readers.scale.
        return within_microscopy(mpp) if found.get("tiff.ResolutionUnit") == "centimeter" else None
    return plausible(mpp)


def _bounds(found: dict[str, str], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of the canvas that holds the scan, where the format states it and it is not all."""
    try:
        x, y, width, height = (int(found[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    if width < 1 or height < 1 or (x, y, width, height) == (0, 0, *size):
        return None
    return x, y, width, height


def _composite(rgba: RGB, background: np.ndarray) -> RGB:
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    weight = alpha[..., None].astype(np.uint16)
    mixed = (rgba[..., :3] * weight + background * (255 - weight) + 127) // 255
    return mixed.astype(np.uint8)
