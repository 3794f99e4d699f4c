"""TIFF files read tile by tile: Aperio SVS, pyramids, OME-TIFF, ImageJ stacks, plain strips."""

from __future__ import annotations

import math
import threading
import weakref
from pathlib import Path
from types import MappingProxyType

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage

from wsi.errors import ReadError, SlideError, UnsupportedSlideError
from wsi.readers.description import Description, Layout, whole_levels
from wsi.readers.source import PixelSource, Raw
from wsi.readers.tiff.image import TiffImage
from wsi.readers.tiff.layout import directories, layout_of, stated_factors
from wsi.readers.tiff.ome import companion_xml, metadata_file
from wsi.readers.tiff.samples import Samples
from wsi.readers.tiff.storage import FileBytes, PieceStore
from wsi.slide import RGB

CACHE_BYTES = 64 << 20
_ICC_PROFILE = 34675


class TiffSource(PixelSource):
    """One TIFF file; raises UnsupportedSlideError when it is cut off or of a kind not known."""

    name = "tiff"

    def __init__(self, path: Path, series: int | None = None) -> None:
        self.path = path
        _check_directories(path)
        self._elsewhere: str | None = None
        try:
            self._tif = self._with_metadata()
        except Exception as error:  # tifffile raises errors of many kinds on damaged files
            raise UnsupportedSlideError(f"{path} is not a TIFF file that can be read: {error}.") from error
        self._files: dict[str, FileBytes] = {}
        self._cache = PieceStore(CACHE_BYTES)
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

    def _with_metadata(self) -> TiffFile:
        """The file, with the OME-XML of another file of its set where it refers to that."""
        tif = TiffFile(self.path)
        name = metadata_file(tif.ome_metadata or "") if tif.is_ome else ""
        if not name:
            return tif
        xml = companion_xml(self.path, name)
        if xml is None:
            self._elsewhere = name
            return tif
        tif.close()
        return TiffFile(self.path, omexml=xml)

    def _open(self, series: int | None) -> None:
        found = self._found = layout_of(self._tif, self.path, series)
        self._key = found.key
        self._samples = Samples.of(self._key, self.path)
        images = [self._image(level, 0) for level in range(len(found.levels))]
        self._check_length()
        levels, notes = whole_levels(
            [(image.width, image.height) for image in images], stated_factors(found), [image.tile for image in images]
        )
        orientation = self._key.tags.valueof(274, 1)
        holes = sum(image.holes for image in images)
        if images[0].holes == len(images[0].offsets):
            raise UnsupportedSlideError(
                f"{self.path} holds no pixels: all {images[0].holes} tiles or strips are without data, as after "
                "an interrupted writer. Write or copy it again."
            )
        if holes:
            notes += (f"{holes} tiles or strips hold no data; they read as {images[0].hole}.",)
        if self._elsewhere is not None:
            notes += (f"The metadata of this file's set is in {self._elsewhere}, which is not beside it.",)
        notes += tuple(dict.fromkeys(image.note for image in images if image.note))
        self.description = Description(
            levels=levels,
            layout=self._layout(),
            image=found.image,
            images=tuple(found.images),
            mpp_xy=found.mpp_xy,
            mpp_from=found.mpp_from,
            orientation=int(orientation) if orientation in range(1, 9) else 1,
            associated=tuple(sorted(found.associated)),
            properties=MappingProxyType(found.properties),
            files=tuple(file.path for file in self._files.values()),
            hole=images[0].hole if holes else None,
            icc_profile=self._key.tags.valueof(_ICC_PROFILE),
            seconds=found.seconds,
            depth_um=found.depth_um,
            unnamed=found.unnamed,
            notes=(*found.notes, *notes),
        )

    def _layout(self) -> Layout:
        found, samples = self._found, self._samples
        pages, own = found.sizes.get("c", 1), len(samples.channels)
        palette = samples.table is not None
        dtype = np.dtype(np.uint8) if palette else samples.dtype
        rgb = samples.shown_in_8_bits and pages == 1
        names = tuple(name for name, _ in found.channels)
        if len(names) != pages * own or rgb:
            names = ()
        whole = 8 * dtype.itemsize
        bits = samples.bits if dtype.kind == "u" and not palette and samples.bits < whole else 0
        return Layout(dtype, pages * own, found.sizes.get("t", 1), found.sizes.get("z", 1), rgb, names, bits)

    @property
    def is_ome(self) -> bool:
        """Whether the file is an OME-TIFF."""
        return bool(self._tif.is_ome)

    def why_not(self, vendor: str | None) -> str | None:
        """Why OpenSlide should read this file, or None. `vendor` is OpenSlide's name for the format."""
        if vendor == "aperio" and any(0 in self._image(i, 0).counts for i in range(len(self.levels))):
            return "tiles without data, which Aperio means to be taken from another level"
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
        """A region of a colour image; see `PixelSource`."""
        image = self._image(level, self._plane(t, z, 0))
        return self._to_rgb(image, self._samples, x, y, width, height)

    def read_shrunk(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, factor: int) -> RGB:
        """A region shrunk by a whole factor; see `PixelSource`."""
        samples = self._samples
        if samples.is_color and samples.table is None and samples.count == 3 and samples.bits == 8:
            image = self._image(level, self._plane(t, z, 0))
            small = image.read_shrunk(x, y, width, height, factor) if image.samples == 3 else None
            if small is not None:
                return small
        return super().read_shrunk(x, y, width, height, level, t, z, factor)

    def read_channel(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int) -> Raw:
        """A region of one channel; see `PixelSource`."""
        samples = self._samples
        page, place = divmod(channel, len(samples.channels))
        image = self._image(level, self._plane(t, z, page))
        sample = samples.channels[place]
        try:
            if samples.table is not None:
                rgb = self._to_rgb(image, samples, x, y, width, height)
                return np.ascontiguousarray(rgb[..., sample])
            if image.apart:
                alpha = samples.alpha
                cover = None if alpha is None else image.read(x, y, width, height, alpha)
                return samples.channel(image.read(x, y, width, height, sample), cover)
            raw = image.read(x, y, width, height)
            if raw.ndim == 2:
                return samples.channel(raw, None)
            cover = None if samples.alpha is None else raw[..., samples.alpha]
            return samples.channel(np.ascontiguousarray(raw[..., sample]), cover)
        except ValueError as error:
            raise ReadError(f"{self.path}: {error}.") from error

    def _to_rgb(self, image: TiffImage, samples: Samples, x: int, y: int, width: int, height: int) -> RGB:
        if image.apart:
            raw = np.stack([image.read(x, y, width, height, s) for s in range(samples.count)], -1)
        else:
            raw = image.read(x, y, width, height)
            if samples.is_color and samples.count == 3 and samples.bits == 8 and raw.ndim == 3:
                return raw
        try:
            return samples.rgb(raw)
        except ValueError as error:
            raise ReadError(f"{self.path}: {error}.") from error

    def read_associated(self, name: str) -> RGB:
        """Label, macro or thumbnail; see `PixelSource`."""
        page = self._found.associated[name].aspage()
        image = TiffImage(page, self._file(page), self._cache)
        samples = Samples.of(page, f"The {name} of {self.path}")
        return self._to_rgb(image, samples, 0, 0, image.width, image.height)

    def close(self) -> None:
        """Close all files; see `PixelSource`."""
        self._tif.close()
        for file in self._files.values():
            file.close()
        self._cache.clear()


def _check_directories(path: Path) -> None:
    size = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as stream:
        for at in directories(stream):
            if at >= size:
                raise UnsupportedSlideError(
                    f"{path} is cut off: it has {size} bytes and its own directory points beyond them. "
                    "Copy it again from its source."
                )
            if at in seen:
                raise UnsupportedSlideError(
                    f"{path} is damaged: its directories form a loop at byte {at}. Copy it again from its source."
                )
            seen.add(at)
