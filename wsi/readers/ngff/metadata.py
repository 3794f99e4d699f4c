"""What an OME-Zarr group says of its images, checked with ome-zarr-models (NGFF 0.4 and 0.5).

The models are strict where files are not. A few departures that leave no doubt are put right before the check,
each with a note; everything else that the models refuse is an error that names what the file states.
The models' `omero` is not used: it refuses channels without a window, and nothing here depends on one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi.errors import UnsupportedSlideError
from wsi.readers.ngff.transforms import in_order, read_transforms, safe_path, show
from wsi.readers.scale import to_micrometres, to_seconds

_LETTERS = {"time": "t", "channel": "c", "t": "t", "c": "c", "z": "z", "y": "y", "x": "x"}
_KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_BEFORE_AXES = ("t", "c", "z", "y", "x")  # NGFF 0.1 and 0.2 knew only these five


@dataclass(frozen=True)
class LevelDataset:
    """One level as the metadata states it.

    Attributes
    ----------
    path : str
        Place of the array below the image's group.
    scale : dict of str to float, or None
        Size of a px along each axis in its unit; None where the file states none. Without an axis whose
        scale is no positive number (t, c and z only).
    translation : dict of str to float
        Place of the first px along each axis, in its unit.
    scale_path : str or None
        Array of the container that holds the scale in place of the metadata.
    """

    path: str
    scale: Mapping[str, float] | None
    translation: Mapping[str, float]
    scale_path: str | None = None


@dataclass(frozen=True)
class Multiscale:
    """One image of a group: axes in the order of storage (letters of 'tczyx'), units and levels.

    `factor` is the scale of the whole image, which multiplies that of every level. `notes` says what was
    put right.
    """

    axes: str
    units: Mapping[str, str | None]
    datasets: tuple[LevelDataset, ...]
    factor: Mapping[str, float]
    name: str
    version: str
    notes: tuple[str, ...]

    def mpp_xy(self) -> tuple[float, float] | None:
        """Micrometres per px of level 0, where its scale and units of length are stated."""
        x, y = (to_micrometres(self._step(axis), self.units.get(axis)) for axis in "xy")
        return None if x is None or y is None else (x, y)

    def depth_um(self) -> float | None:
        """Distance of neighbouring z planes in um, None where it is not stated."""
        return to_micrometres(self._step("z"), self.units.get("z"))

    def seconds(self, times: int) -> tuple[float, ...] | None:
        """When each time point was taken, None where it is not stated."""
        step = to_seconds(self._step("t"), self.units.get("t"))
        return tuple(t * step for t in range(times)) if step else None

    def _step(self, axis: str) -> float | None:
        scale = self.datasets[0].scale
        return None if scale is None or axis not in scale else scale[axis] * self.factor.get(axis, 1.0)


def ome_of(attributes: Mapping[str, object], where: str) -> Mapping[str, object]:
    """The OME metadata of a group: below 'ome' since NGFF 0.5, all attributes before."""
    if "ome" not in attributes:
        return attributes
    ome = attributes["ome"]
    if not isinstance(ome, Mapping):
        raise UnsupportedSlideError(f"{where} states ome: {show(ome)}, which is no object. Convert the image again.")
    return ome


def multiscales_of(ome: Mapping[str, object], where: str) -> list[Mapping[str, Any]]:
    """The images of one group; empty where it says nothing of images."""
    if "multiscales" not in ome:
        return []
    found = ome["multiscales"]
    if not isinstance(found, list) or not found or not all(isinstance(each, Mapping) for each in found):
        raise UnsupportedSlideError(
            f"{where} states multiscales: {show(found)}, which is no list of images. Convert the image again."
        )
    return found


def read_multiscale(ome: Mapping[str, object], index: int, where: str, modern: bool) -> Multiscale:
    """One image of a group.

    Parameters
    ----------
    ome : mapping
        What `ome_of` gives.
    index : int
        Which of `multiscales`.
    where : str
        The file and group, for messages.
    modern : bool
        The metadata lies below 'ome' (NGFF 0.5).

    Raises
    ------
    UnsupportedSlideError
        Another version of NGFF, or something that cannot be right; the message says what the file states.
    """
    from ome_zarr_models.v04.multiscales import Multiscale as Multiscale04
    from ome_zarr_models.v05.multiscales import Multiscale as Multiscale05

    image = multiscales_of(ome, where)[index]
    version = _version(ome, image, where, modern)
    notes: list[str] = []
    axes, order = _axes(image, where)
    raw = _put_right(image, axes, order, where, notes)
    model: Any = Multiscale05 if modern else Multiscale04
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checked = model.model_validate(raw)
    except Exception as error:  # the models raise IndexError and others beside their ValidationError
        raise UnsupportedSlideError(
            f"{where} is not valid OME-Zarr {'0.5' if modern else '0.4'}: {_why(error)}. Correct its metadata "
            "(ome-zarr-models validate shows it whole), or convert the image again."
        ) from error
    sorted_axes = "".join(axes[place] for place in order)
    datasets = []
    for dataset, given in zip(checked.datasets, raw["datasets"], strict=True):
        scale, translation, scale_path = read_transforms(dataset.coordinateTransformations, sorted_axes, where)
        stated = given["stated"]
        datasets.append(
            LevelDataset(dataset.path, scale if stated else None, translation, scale_path if stated else None)
        )
    factor, _, path = read_transforms(checked.coordinateTransformations or (), sorted_axes, where)
    if path is not None:
        raise UnsupportedSlideError(
            f"{where} gives the scale of the whole image by the path {path!r}, which is not followed. Write the "
            "scale into the metadata."
        )
    units = {
        letter: (axis.unit if isinstance(axis.unit, str) else None)
        for letter, axis in zip(sorted_axes, checked.axes, strict=True)
    }
    name = checked.name if isinstance(checked.name, str) else ""
    return Multiscale(axes, units, tuple(datasets), factor or {}, name, version, tuple(notes))


def channels_of(ome: Mapping[str, object], channels: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names and colours ('ff0000') of the channels from `omero`, and notes; empty where they do not fit."""
    omero = ome.get("omero")
    described = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(described, list) or not all(isinstance(each, Mapping) for each in described):
        if "omero" in ome:
            return (), (), ("The omero block states no list of channels; names and colours are not known.",)
        return (), (), ()
    if len(described) != channels:
        note = f"The omero block names {len(described)} channels and the image has {channels}: not used."
        return (), (), (note,)
    names = tuple(each.get("label") if isinstance(each.get("label"), str) else "" for each in described)
    colors = tuple(str(each.get("color", "")).lower().lstrip("#")[:6] for each in described)
    if any(each.get("inverted") is True for each in described):
        colors = ()
    return (names if any(names) else ()), colors, ()


def _version(ome: Mapping[str, object], image: Mapping[str, object], where: str, modern: bool) -> str:
    """The version stated; raises where it is one that is not read."""
    version = ome.get("version", image.get("version")) if modern else image.get("version", ome.get("version"))
    if version is None and "coordinateSystems" in image:
        version = "0.6"
    if version is None:
        return ""
    known = ("0.5",) if modern else ("0.1", "0.2", "0.3", "0.4")
    if isinstance(version, str) and ".".join(version.split("-")[0].split(".")[:2]) in known:
        return version
    if isinstance(version, str) and (version.startswith("0.6") or "coordinateSystems" in image):
        raise UnsupportedSlideError(
            f"{where} is OME-Zarr version {version}, whose coordinate systems (RFC-5) are not read yet; versions 0.4 "
            "and 0.5 are. Write it as 0.5, with scale and axes in 'multiscales'."
        )
    raise UnsupportedSlideError(
        f"{where} states OME-Zarr version {show(version)}; {'0.5 is' if modern else '0.1 to 0.4 are'} read "
        f"{'below' if modern else 'without'} an 'ome' attribute. Convert it, or correct the version."
    )


def _axes(image: Mapping[str, object], where: str) -> tuple[str, list[int]]:
    """Letters of the axes as stored, and their places in the order t, c, z, y, x."""
    axes = image.get("axes", _BEFORE_AXES)
    if not isinstance(axes, Sequence) or isinstance(axes, str):
        raise UnsupportedSlideError(f"{where} states axes: {show(axes)}, which is no list. Correct its metadata.")
    letters = [_letter(axis) for axis in axes]
    if None in letters or len(set(letters)) != len(letters) or not {"x", "y"} <= set(letters):
        raise UnsupportedSlideError(
            f"{where} states axes: {show(axes)}. Each of t, c, z, y and x may come once, x and y must; other axes "
            "are not read."
        )
    text = "".join(letter for letter in letters if letter)
    return text, sorted(range(len(text)), key=lambda place: "tczyx".index(text[place]))


def _letter(axis: object) -> str | None:
    if isinstance(axis, str):
        return _LETTERS.get(axis.lower())
    if not isinstance(axis, Mapping):
        return None
    name, kind = axis.get("name"), axis.get("type")
    found = _LETTERS.get(name.lower()) if isinstance(name, str) else None
    if kind in ("time", "channel"):
        # The type says what an axis is; a name that says another thing is a contradiction.
        return _LETTERS[kind] if found in (None, _LETTERS[kind]) else None
    if kind == "space" and found not in ("x", "y", "z"):
        return None
    return found if kind is None or kind == "space" else None


def _put_right(image: Mapping[str, Any], axes: str, order: list[int], where: str, notes: list[str]) -> dict[str, Any]:
    """The metadata as the models want it: axes in their order, one scale per level, finest level first."""
    stored = image.get("axes", _BEFORE_AXES)
    if order != sorted(order):
        notes.append(f"The axes are stored as {axes}, which NGFF does not allow and leaves no doubt.")
    described = [
        {**stored[place], "type": _KINDS[axes[place]]}
        if isinstance(stored[place], Mapping)
        else {"name": axes[place], "type": _KINDS[axes[place]]}
        for place in order
    ]
    datasets = image.get("datasets")
    if not isinstance(datasets, list) or not datasets or not all(isinstance(each, Mapping) for each in datasets):
        raise UnsupportedSlideError(
            f"{where} states datasets: {show(datasets)}, which is no list of levels. Convert the image again."
        )
    levels = []
    for number, dataset in enumerate(datasets):
        here = f"{where}, dataset {number},"
        transforms = in_order(dataset.get("coordinateTransformations"), axes, order, here)
        levels.append(
            {
                **dataset,
                "path": safe_path(dataset.get("path"), here),
                "stated": bool(transforms),
                "coordinateTransformations": transforms or [{"type": "scale", "scale": [1.0] * len(axes)}],
            }
        )
    stated = [level["stated"] for level in levels]
    if any(stated) and not all(stated):
        raise UnsupportedSlideError(
            f"{where} states a scale for datasets {_which(stated, True)} and none for {_which(stated, False)}. "
            "Correct its metadata."
        )
    if not any(stated):
        notes.append("The file states no scale (coordinateTransformations); factors are those of the sizes.")
    else:
        sizes = [_pixel_size(level["coordinateTransformations"], axes, order) for level in levels]
        if None not in sizes:
            by_size = sorted(range(len(levels)), key=lambda number: sizes[number] or 0.0)
            if by_size != list(range(len(levels))):
                notes.append("The levels are not listed from fine to coarse; they are sorted by their scale.")
                levels = [levels[number] for number in by_size]
    whole = in_order(image.get("coordinateTransformations"), axes, order, where)
    kept = {key: value for key, value in image.items() if key not in ("version", "coordinateTransformations")}
    return {**kept, "axes": described, "datasets": levels, "coordinateTransformations": whole or None}


def _pixel_size(transforms: list[dict[str, Any]], axes: str, order: list[int]) -> float | None:
    """Area of a px, None where the scale is given by path."""
    if "scale" not in transforms[0]:
        return None
    named = dict(zip((axes[place] for place in order), transforms[0]["scale"], strict=True))
    return float(named["x"] * named["y"])


def _which(stated: list[bool], wanted: bool) -> str:
    return ", ".join(str(number) for number, each in enumerate(stated) if each is wanted)


def _why(error: Exception) -> str:
    """One line of a model's refusal: where, what, and what the file states there."""
    details = getattr(error, "errors", None)
    if not callable(details):
        return show(error)
    first = details(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the image"
    return f"{place}: {show(first['msg'])} ({show(first.get('input'))})"
