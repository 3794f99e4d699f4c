"""OME-Zarr 0.4 and 0.5: a folder, the same in a zip file, or at an address (https://ngff.openmicroscopy.org)."""

from __future__ import annotations

import hashlib
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr

from wsi.errors import ReadError, SlideError, UnsupportedSlideError
from wsi.files.address import RemotePath
from wsi.files.identity import FileWatch
from wsi.readers.description import Description, Layout
from wsi.readers.ngff.chunks import Chunks, chunks_of
from wsi.readers.ngff.container import MARKERS, Container, is_ngff_folder
from wsi.readers.ngff.images import choose_image, labels
from wsi.readers.ngff.levels import Stored, levels_of
from wsi.readers.ngff.limits import bound, check_chunks
from wsi.readers.ngff.metadata import Multiscale, channels_of, ome_of, read_multiscale
from wsi.readers.ngff.transforms import vector_of
from wsi.readers.source import PixelSource, Raw
from wsi.slide import RGB

__all__ = ["MARKERS", "NgffSource", "is_ngff_folder"]

_PRIMARIES = ("ff0000", "00ff00", "0000ff")
_NAMES_OF_RGB = (("red", "green", "blue"), ("r", "g", "b"))
_SAMPLES = 32  # chunks of level 0 that identify an image at an address


class NgffSource(PixelSource):
    """One image of an OME-Zarr container.

    Chunks that are not stored read as the fill value that the array declares (Zarr's own rule); chunks that
    cannot be read or decoded raise. The scale counts only where the axes name a unit of length.
    """

    name = "ngff"

    def __init__(self, path: Path, series: int | None = None) -> None:
        self.path, self._series = path, series
        self._arrays: list[zarr.Array[Any]] = []
        self._chunks: list[Chunks | None] = []  # None: read by zarr
        self._container: Container | None = None
        try:
            self._container = container = Container(path)
            # A slide may be dropped without being closed; at exit, addresses close by themselves (see remote).
            weakref.finalize(self, container.close).atexit = not isinstance(path, RemotePath)
            entry, images = choose_image(container, series)
            group = container.group(entry.group)
            where = container.where(entry.group)
            if group is None:
                raise UnsupportedSlideError(f"{where} is named as an image and is not there. Copy it again.")
            attributes = group.attrs.asdict()
            ome = ome_of(attributes, where)
            if "multiscales" not in ome:
                raise UnsupportedSlideError(f"{where} is named as an image and has no 'multiscales'. Copy it again.")
            image = read_multiscale(ome, entry.multiscale, where, "ome" in attributes)
            arrays = [_array(group, each.path, image.axes, where) for each in image.datasets]
            image = _with_scales_by_path(group, image, where)
            stored = [_stored(image.axes, array) for array in arrays]
            levels, numbers, notes = levels_of(image, stored)
            self._axes = image.axes
            self._arrays = [bound(arrays[number]) for number in numbers]
            self._places = [f"{entry.group}/{image.datasets[n].path}".lstrip("/") for n in numbers]
            self._chunks = [self._direct(number) for number in range(len(numbers))]
            sizes = stored[numbers[0]].shape
            names, colors, about = channels_of(ome, sizes.get("c", 1))
            fill = self._arrays[0].fill_value
            mpp_xy = replace(image, datasets=tuple(image.datasets[n] for n in numbers)).mpp_xy()
            inside = entry.group if container.file != path or len(images.entries) > 1 else ""
            unit = image.units.get("x")
            self.description = Description(
                levels=levels,
                layout=_layout(self._arrays[0].dtype, sizes, names, colors),
                image=entry.name,
                images=labels(container, images),
                mpp_xy=mpp_xy,
                mpp_from=f"scale of dataset {image.datasets[numbers[0]].path!r} in {unit}" if mpp_xy else "",
                properties={"ngff.version": image.version, "ngff.name": image.name, "ngff.group": entry.group},
                files=() if isinstance(path, RemotePath) else (container.file,),
                identity=f"{inside}#{entry.multiscale}" if inside or entry.multiscale else "",
                hole=int(fill) if fill is not None and np.isfinite(fill) and int(fill) == fill else None,
                seconds=image.seconds(sizes.get("t", 1)),
                depth_um=image.depth_um(),
                notes=(*image.notes, *notes, *about, *self._about_chunks()),
            )
        except SlideError:
            self.close()
            raise
        except Exception as error:  # zarr and its stores raise errors of many kinds
            self.close()
            raise UnsupportedSlideError(f"{path} is not an OME-Zarr image that can be read: {error!r}.") from error

    def _read(self, level: int, at: Mapping[str, Any], order: str) -> Raw:
        """Values of a selection with one axis for each letter of `order`; contiguous if `order` is as stored."""
        selection = tuple(at[axis] for axis in self._axes)
        try:
            chunks = self._chunks[level]
            values = np.asarray(self._arrays[level][selection]) if chunks is None else chunks.read(selection)
        except Exception as error:
            raise ReadError(
                f"{self.path}: cannot read x {at['x'].start} to {at['x'].stop}, y {at['y'].start} to "
                f"{at['y'].stop} of level {level}: {_reason(error)}. "
                "The data is damaged or out of reach, or the slide is closed."
            ) from error
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        left = [axis for axis in self._axes if isinstance(at[axis], slice)]
        return values.transpose([left.index(axis) for axis in order])

    def _at(self, x: int, y: int, width: int, height: int, t: int, z: int, c: int | slice) -> dict[str, object]:
        return {"t": t, "z": z, "c": c, "y": slice(y, y + height), "x": slice(x, x + width)}

    def read_rgb(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int) -> RGB:
        """A region of a colour image; see `PixelSource`."""
        at = self._at(x, y, width, height, t, z, slice(0, 3))
        if self._axes.index("c") > self._axes.index("x"):
            return np.ascontiguousarray(self._read(level, at, "yxc"), np.uint8)
        return _merged(self._read(level, at, "cyx"))

    def read_channel(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int) -> Raw:
        """A region of one channel; see `PixelSource`."""
        return np.ascontiguousarray(self._read(level, self._at(x, y, width, height, t, z, channel), "yx"))

    def read_channels(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channels: Sequence[int]
    ) -> list[Raw]:
        """A region of several channels, neighbours in one reading; see `PixelSource`."""
        low, high = min(channels), max(channels)
        if "c" not in self._axes or high - low >= len(channels):
            return [self.read_channel(x, y, width, height, level, t, z, channel) for channel in channels]
        planes = self._read(level, self._at(x, y, width, height, t, z, slice(low, high + 1)), "cyx")
        return [np.ascontiguousarray(planes[channel - low]) for channel in channels]

    def close(self) -> None:
        """Close the store; see `PixelSource`."""
        self._arrays, self._chunks = [], []
        if self._container is not None:
            self._container.close()
            self._container = None

    @cached_property
    def watch(self) -> FileWatch:
        """The folder or zip file; at an address, what is hashed of it, which is fetched anew to compare."""
        if isinstance(self.path, RemotePath):
            return FileWatch(self.path, (), self._hash_of_address, self._fetched_anew)
        return super().watch

    def _fetched_anew(self) -> str:
        source = NgffSource(self.path, self._series)
        try:
            return source._hash_of_address()
        finally:
            source.close()

    def _hash_of_address(self) -> str:
        """Hash of metadata and of chunks spread over levels 0 and last.

        The same bytes give the same hash, whichever server sends them.
        """
        if self._container is None:
            raise ReadError(f"{self.path} is closed")
        digest = hashlib.sha256(self.description.identity.encode())
        for place in sorted({self.description.properties["ngff.group"], *self._places}):
            for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"):
                digest.update(self._container.read(f"{place}/{name}".lstrip("/")) or b"-")
        for number in {0, len(self._arrays) - 1}:
            for key in _some_chunks(self._arrays[number]):
                digest.update(self._container.read(f"{self._places[number]}/{key}".lstrip("/")) or b"-")
        return f"sha256:{digest.hexdigest()[:32]}"

    def _direct(self, number: int) -> Chunks | None:
        assert self._container is not None
        if isinstance(self.path, RemotePath):
            return None
        return chunks_of(self._arrays[number], self._places[number], self._container.store)

    def _about_chunks(self) -> list[str]:
        """A note where level 0 has no chunk; raises where its chunks lie under names of another form."""
        assert self._container is not None
        found = self._container.chunk_names(self._places[0])
        if found is None:
            return []
        array = self._arrays[0]
        expected = array.metadata.encode_chunk_key((0,) * array.ndim)
        if any(_same_form(name, expected) for name in found):
            return []
        other = [name for name in found if name.replace(".", "").isdigit() or name == "c"]
        if other:
            raise UnsupportedSlideError(
                f"{self._container.where(self._places[0])} states chunks named like {expected!r}, and its chunks are "
                f"named like {other[0]!r}: all would read as empty. Correct dimension_separator or chunk_key_encoding."
            )
        return [f"Level 0 holds no chunk at all: every px is the fill value {array.fill_value}."]


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") if isinstance(error, SlideError) else repr(error)


def _array(group: zarr.Group, name: str, axes: str, where: str) -> zarr.Array[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of zarr, about what writers leave in metadata
            array = group[name]
    except KeyError as error:
        raise UnsupportedSlideError(
            f"{where} states the dataset {name!r}, which is not there. Copy it again."
        ) from error
    except SlideError:
        raise
    except Exception as error:  # what zarr's parsers raise
        raise UnsupportedSlideError(
            f"{where}/{name} has Zarr metadata that cannot be read: {error!r:.300}. Copy it again."
        ) from error
    if not isinstance(array, zarr.Array):
        raise UnsupportedSlideError(f"{where} states the dataset {name!r}, which is a group and no array.")
    if array.ndim != len(axes):
        raise UnsupportedSlideError(
            f"{where} states the axes {', '.join(axes)}, and its dataset {name!r} has {array.ndim} axes."
        )
    if not all(0 < side < 2**31 for side in array.shape):
        raise UnsupportedSlideError(f"{where}/{name} states the shape {array.shape}; sides are 1 to {2**31 - 1} px.")
    if array.dtype.kind not in "biuf":
        raise UnsupportedSlideError(f"{where}/{name} holds {array.dtype}; integers, floats and booleans are read.")
    if getattr(array.metadata, "storage_transformers", ()):
        raise UnsupportedSlideError(f"{where}/{name} states storage transformers, which are not read.")
    check_chunks(array, f"{where}/{name}")
    return array


def _with_scales_by_path(group: zarr.Group, image: Multiscale, where: str) -> Multiscale:
    """The same image with the scales that its metadata gives by the path of an array."""
    datasets = []
    for each in image.datasets:
        if each.scale_path is not None:
            try:
                array = group[each.scale_path]
                assert isinstance(array, zarr.Array)
                assert array.shape == (len(image.axes),)
                values = [float(value) for value in bound(array)[:]]  # type: ignore[union-attr]
            except Exception as error:
                raise UnsupportedSlideError(
                    f"{where} gives the scale of dataset {each.path!r} by the path {each.scale_path!r}, where no array "
                    f"of {len(image.axes)} numbers is. Write the scale into the metadata."
                ) from error
            each = replace(each, scale=vector_of(values, image.axes, f"{where}/{each.scale_path}"))
        datasets.append(each)
    return replace(image, datasets=tuple(datasets))


def _stored(axes: str, array: zarr.Array[Any]) -> Stored:
    chunk = array.shards or array.chunks
    return Stored(dict(zip(axes, array.shape, strict=True)), dict(zip(axes, chunk, strict=True)), array.dtype)


def _layout(dtype: Any, sizes: Mapping[str, int], names: tuple[str, ...], colors: tuple[str, ...]) -> Layout:
    channels = sizes.get("c", 1)
    natural = colors == _PRIMARIES or tuple(name.lower() for name in names) in _NAMES_OF_RGB
    return Layout(
        np.dtype(dtype).newbyteorder("="),
        channels,
        sizes.get("t", 1),
        sizes.get("z", 1),
        channels == 3 and np.dtype(dtype) == np.uint8 and natural,
        names,
    )


def _merged(planes: Raw) -> RGB:
    """Planes (3, h, w) as an image (h, w, 3)."""
    return np.asarray(cv2.merge([np.ascontiguousarray(plane) for plane in planes]), np.uint8)


def _some_chunks(array: zarr.Array[Any]) -> list[str]:
    """Keys of up to `_SAMPLES` chunks (shards), spread evenly from the first to the last."""
    grid = [-(-n // c) for n, c in zip(array.shape, array.shards or array.chunks, strict=True)]
    total = int(np.prod(grid, dtype=object))
    chosen = min(total, _SAMPLES)
    numbers = sorted({i * (total - 1) // max(1, chosen - 1) for i in range(chosen)})
    keys = []
    for number in numbers:
        place = []
        for side in reversed(grid):
            number, rest = divmod(number, side)
            place.append(rest)
        keys.append(array.metadata.encode_chunk_key(tuple(reversed(place))))
    return keys


def _same_form(name: str, expected: str) -> bool:
    """Whether an entry of an array's folder may be the first part of a chunk's key."""
    first = expected.split("/", 1)[0]
    if first == "c":
        return name == "c"
    shape = [part.isdigit() for part in name.split(".")]
    return len(shape) == first.count(".") + 1 and all(shape)
