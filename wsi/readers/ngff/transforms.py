"""Scales and translations in OME-Zarr metadata: a number per axis and paths below the group, or a named error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wsi.errors import UnsupportedSlideError

_SHOWN = 80


def in_order(transforms: Any, axes: str, order: list[int], where: str) -> list[dict[str, object]]:
    """Transformations with their numbers in the order of `order`; none where nothing is stated.

    A translation before the scale is in scaled units after it (the models swap them so, too).
    """
    if transforms is None:
        return []
    if not isinstance(transforms, list) or not all(isinstance(each, Mapping) for each in transforms):
        raise UnsupportedSlideError(
            f"{where} states coordinateTransformations: {show(transforms)}, which is no list of transformations. "
            "Correct its metadata."
        )
    found: list[dict[str, Any]] = []
    for transform in transforms:
        kind = transform.get("type")
        if kind == "identity":
            continue  # NGFF allows it nowhere; it states no size of a px
        if kind not in ("scale", "translation"):
            raise UnsupportedSlideError(
                f"{where} states a transformation of type {show(kind)}; scale and translation are read. Convert "
                "the image to OME-Zarr 0.5."
            )
        values = transform.get(kind)
        if values is None and isinstance(transform.get("path"), str):
            found.append({"type": kind, "path": safe_path(transform["path"], where)})
            continue
        if kind == "scale":
            vector_of(values, axes, where)
        elif not isinstance(values, list) or len(values) != len(axes):
            raise UnsupportedSlideError(
                f"{where} states translation: {show(values)}, and its axes are {', '.join(axes)}. A translation "
                "needs one number per axis; correct the metadata."
            )
        numbers = [_number(values[place], f"{where} states {kind}: {show(values)}") for place in order]
        found.append({"type": kind, kind: numbers})
    kinds = [each["type"] for each in found]
    if kinds not in ([], ["scale"], ["scale", "translation"], ["translation", "scale"]):
        raise UnsupportedSlideError(
            f"{where} states the transformations {', '.join(kinds)}; one scale, and after it one translation at "
            "most, are read. Correct its metadata."
        )
    if kinds == ["translation", "scale"]:
        if "path" in found[0] or "path" in found[1]:
            raise UnsupportedSlideError(
                f"{where} states a translation before its scale, by path. Write the scale first."
            )
        moved = [t * s for t, s in zip(found[0]["translation"], found[1]["scale"], strict=True)]
        found = [found[1], {"type": "translation", "translation": moved}]
    if len(found) == 2 and "path" in found[1]:
        raise UnsupportedSlideError(
            f"{where} gives its translation by the path {found[1]['path']!r}, which is not followed. Write it into "
            "the metadata."
        )
    return found


def read_transforms(
    transforms: Sequence[Any], axes: str, where: str
) -> tuple[dict[str, float] | None, dict[str, float], str | None]:
    """Scale, translation and the path of the scale, from the checked models."""
    scale, translation, path = None, {}, None
    for transform in transforms:
        if transform.type == "translation":
            translation = dict(zip(axes, transform.translation, strict=True))
        elif hasattr(transform, "path"):
            path = str(transform.path)
        else:
            scale = vector_of(transform.scale, axes, where)
    return scale, translation, path


def vector_of(values: object, axes: str, where: str) -> dict[str, float]:
    """A scale with one number per axis as mapping; axes of planes without a positive one are left out.

    Raises
    ------
    UnsupportedSlideError
        Not one number per axis, or x or y is no positive number.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(axes):
        raise UnsupportedSlideError(
            f"{where} states scale: {show(values)}, and its axes are {', '.join(axes)}. A scale needs one number "
            "per axis; correct the metadata."
        )
    scale = {}
    for axis, value in zip(axes, values, strict=True):
        number = _number(value, f"{where} states scale: {show(values)}")
        if number > 0 and math.isfinite(number):
            scale[axis] = number
        elif axis in "xy":
            raise UnsupportedSlideError(
                f"{where} states scale: {show(values)}: {number:g} along {axis} is no size of a px. Correct the "
                "metadata."
            )
    return scale


def safe_path(path: object, where: str, key: str = "path") -> str:
    """A path below a group, as text. Raises UnsupportedSlideError for what is none or leaves the group."""
    parts = path.replace("\\", "/").split("/") if isinstance(path, str) else []
    leaves = ".." in parts or (len(parts) > 1 and (parts[0] == "" or ":" in parts[0]))
    if not isinstance(path, str) or leaves or not any(part not in ("", ".") for part in parts):
        why = "leaves the image's folder" if leaves else "is no path below the group"
        raise UnsupportedSlideError(
            f"{where} states {key}: {show(path)}, which {why}. Correct the metadata; nothing outside is read."
        )
    return "/".join(part for part in parts if part not in ("", "."))


def show(value: object) -> str:
    """What a file states, short and in one line."""
    text = " ".join((value if isinstance(value, str) and " " in value else repr(value)).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _number(value: object, states: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise UnsupportedSlideError(f"{states}: {show(value)} is no number. Correct the metadata.")
