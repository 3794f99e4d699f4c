"""OME-Zarr 0.4 and 0.5: a folder, or the same in a zip file (https://ngff.openmicroscopy.org)."""

from __future__ import annotations

import weakref
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore, ZipStore

from wsi.errors import PlaneError, ReadError, SlideNotFoundError, UnsupportedSlideError
from wsi.readers.description import Description, Layout, whole_levels
from wsi.readers.scale import pair, to_micrometres, to_seconds
from wsi.readers.source import Raw, Source
from wsi.slide import RGB

MARKERS = ("zarr.json", ".zattrs", ".zgroup")
_PRIMARIES = ("ff0000", "00ff00", "0000ff")
_NAMES_OF_RGB = (("red", "green", "blue"), ("r", "g", "b"))


class NgffSource(Source):
    """One image of an OME-Zarr group.

    Chunks that are not stored read as the fill value that the array declares (Zarr's own rule). The scale
    counts only where the axes name a unit of length.
    """

    name = "ngff"

    def __init__(self, path: Path, series: int | None = None) -> None:
        self.path = path
        self._store: Any = None
        try:
            self._store = ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True)
            weakref.finalize(self, _close, self._store)  # a slide may be dropped without being closed
            root = zarr.open_group(self._store, mode="r", path=_inside(path))
            group, image, omero = _find_image(root, path, series)
            self._axes = _axes(image)
            datasets = image["datasets"]
            self._arrays: list[zarr.Array[Any]] = [_array(group, dataset["path"]) for dataset in datasets]
        except (PlaneError, SlideNotFoundError, UnsupportedSlideError):
            self.close()
            raise
        except Exception as error:  # zarr and its stores raise errors of many kinds
            self.close()
            raise UnsupportedSlideError(
                f"{path} is not an OME-Zarr image that can be read: {error!r}."
            ) from error
        self._check(path)
        sizes = [dict(zip(self._axes, array.shape, strict=True)) for array in self._arrays]
        self._depths = [size.get("z", 1) for size in sizes]
        levels, notes = whole_levels([(size["x"], size["y"]) for size in sizes])
        between = to_seconds(*_step(image, datasets[0], self._axes, "t"))
        version = image.get("version") or _metadata(root).get("version", "")
        mpp_xy = _scale(image, datasets[0], self._axes)
        self.description = Description(
            levels=levels,
            layout=_layout(self._arrays[0].dtype, sizes[0], omero),
            mpp_xy=mpp_xy,
            mpp_from="coordinateTransformations" if mpp_xy else "",
            properties={"ngff.version": str(version), "ngff.name": str(image.get("name", ""))},
            files=(path,),
            seconds=tuple(t * between for t in range(sizes[0].get("t", 1))) if between else None,
            depth_um=to_micrometres(*_step(image, datasets[0], self._axes, "z")),
            notes=notes,
        )

    def _check(self, path: Path) -> None:
        if not self._arrays or any(array.ndim != len(self._axes) for array in self._arrays):
            raise UnsupportedSlideError(
                f"{path}: its arrays do not have the axes {self._axes} that it states."
            )
        if set(self._axes) - set("tczyx") or not {"x", "y"} <= set(self._axes):
            raise UnsupportedSlideError(f"{path} has the axes {self._axes}; known are t, c, z, y and x.")

    def _read(self, level: int, at: Mapping[str, Any], order: str) -> Raw:
        selection = tuple(at[axis] for axis in self._axes)
        try:
            values = np.asarray(self._arrays[level][selection])
        except Exception as error:
            raise ReadError(
                f"{self.path}: cannot read x {at['x'].start} to {at['x'].stop}, y {at['y'].start} to "
                f"{at['y'].stop} of level {level}: {error!r}. The data is damaged or the slide is closed."
            ) from error
        left = [axis for axis in self._axes if isinstance(at[axis], slice)]
        return np.ascontiguousarray(values.transpose([left.index(axis) for axis in order]))

    def _at(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, c: int | slice
    ) -> dict[str, Any]:
        depth = min(z * self._depths[level] // self._depths[0], self._depths[level] - 1)
        return {"t": t, "z": depth, "c": c, "y": slice(y, y + height), "x": slice(x, x + width)}

    def read_rgb(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int) -> RGB:
        """A region of a colour picture; see `Source`."""
        return self._read(level, self._at(x, y, width, height, level, t, z, slice(0, 3)), "yxc")

    def read_channel(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int
    ) -> Raw:
        """A region of one channel; see `Source`."""
        return self._read(level, self._at(x, y, width, height, level, t, z, channel), "yx")

    def close(self) -> None:
        """Close the store; see `Source`."""
        self._arrays = []
        if self._store is not None:
            _close(self._store)


def _close(store: Any) -> None:
    if store._is_open:  # a ZipStore that was never opened cannot be closed
        store.close()


def is_ngff_folder(path: Path) -> bool:
    """Whether a folder looks like a Zarr group."""
    return path.is_dir() and any((path / marker).is_file() for marker in MARKERS)


def _inside(path: Path) -> str:
    """Path of the group inside a zip: its root, or its only folder."""
    if path.is_dir():
        return ""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(marker in names for marker in MARKERS):
        return ""
    groups = sorted(
        {n.rpartition("/")[0] for n in names if n.rpartition("/")[2] in MARKERS}, key=lambda n: n.count("/")
    )
    if not groups:
        raise SlideNotFoundError(f"{path} holds no OME-Zarr group: none of {', '.join(MARKERS)} is in it.")
    return groups[0]


def _find_image(
    root: zarr.Group, path: Path, series: int | None
) -> tuple[zarr.Group, dict[str, Any], dict[str, Any]]:
    """The group with the image, its multiscale metadata and its rendering metadata."""
    group = root
    meta = _metadata(root)
    if "plate" in meta or "well" in meta:
        raise UnsupportedSlideError(f"{path} is a plate; open one field of it, like {path.name}/A/1/0.")
    if "multiscales" not in meta:
        found = [
            name
            for name, child in sorted(root.groups(), key=lambda item: item[0])
            if "multiscales" in _metadata(child)
        ]
        if not found:
            raise UnsupportedSlideError(
                f"{path} is a Zarr group without an OME-Zarr image: 'multiscales' is not in its attributes."
            )
        if series is None and len(found) > 1:
            raise PlaneError(
                f"{path} holds several images; choose one with series=, 0 to {len(found) - 1}: {found}."
            )
        if not 0 <= (series or 0) < len(found):
            raise PlaneError(f"{path} has series 0 to {len(found) - 1}, not {series}.")
        group = root[found[series or 0]]  # type: ignore[assignment]
        meta = _metadata(group)
        series = None
    multiscales = meta["multiscales"]
    if not 0 <= (series or 0) < len(multiscales):
        raise PlaneError(f"{path} has series 0 to {len(multiscales) - 1}, not {series}.")
    return group, multiscales[series or 0], meta.get("omero", {})


def _metadata(group: zarr.Group) -> dict[str, Any]:
    attributes: dict[str, Any] = group.attrs.asdict()
    return dict(attributes.get("ome", attributes))


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is a group, not an array")
    return array


def _axes(image: Mapping[str, Any]) -> str:
    axes = image.get("axes", list("tczyx"))
    return "".join(str(axis["name"] if isinstance(axis, Mapping) else axis).lower()[:1] for axis in axes)


def _scale(image: Mapping[str, Any], dataset: Mapping[str, Any], axes: str) -> tuple[float, float] | None:
    """um per px of level 0: the scales of dataset and image multiply (NGFF 0.4, "multiscales")."""
    return pair(*(to_micrometres(*_step(image, dataset, axes, axis)) for axis in ("x", "y")))


def _step(
    image: Mapping[str, Any], dataset: Mapping[str, Any], axes: str, axis: str
) -> tuple[float | None, str | None]:
    """Distance of neighbours along an axis and its unit, None where they are not stated."""
    if axis not in axes:
        return None, None
    place = axes.index(axis)
    described = image.get("axes", [])
    unit = described[place].get("unit") if described and isinstance(described[place], Mapping) else None
    factor, stated = 1.0, False
    for holder in (dataset, image):
        for transform in holder.get("coordinateTransformations", []):
            if transform.get("type") == "scale":
                factor, stated = factor * float(transform["scale"][place]), True
    return (factor, unit) if stated else (None, unit)


def _layout(dtype: Any, sizes: Mapping[str, int], omero: Mapping[str, Any]) -> Layout:
    described = omero.get("channels", [])
    names = tuple(str(channel.get("label", "")) for channel in described)
    colors = tuple(str(channel.get("color", "")).lower() for channel in described)
    channels = sizes.get("c", 1)
    natural = colors == _PRIMARIES or tuple(name.lower() for name in names) in _NAMES_OF_RGB
    return Layout(
        np.dtype(dtype).newbyteorder("="),
        channels,
        sizes.get("t", 1),
        sizes.get("z", 1),
        channels == 3 and np.dtype(dtype) == np.uint8 and natural,
        names if len(names) == channels else (),
    )
