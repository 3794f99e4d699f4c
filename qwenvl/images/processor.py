"""Processor settings: which pixels a checkpoint's vision tower expects, read from its own JSON and never assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenvl.errors import CheckpointError
from qwenvl.families import ModelFamily
from qwenvl.images.geometry import PictureFrame, smart_resize

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where the settings may be; newer repositories nest them in the second under `image_processor`."""

_BICUBIC = 3  # PIL's Resampling.BICUBIC, the only filter the families were trained with


@dataclass(frozen=True, slots=True)
class ProcessorSettings:
    """How a picture becomes patches.

    Attributes
    ----------
    patch_size, merge_size, temporal_patch_size : int
        Side of a patch in px, patches per visual token along one side, frames per patch.
    min_pixels, max_pixels : int
        Limits of the processed area in px.
    image_mean, image_std : tuple of float
        Per channel (R, G, B), for values of 0..1.
    """

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """Side of a visual token in px."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Numbers per patch: channels x frames x side x side."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    def frame(self, width: int, height: int) -> PictureFrame:
        """Frame of a picture of `width` x `height` px.

        Raises
        ------
        PictureError
            The picture is empty or too long for its width.
        """
        processed_height, processed_width = smart_resize(
            height, width, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels
        )
        return PictureFrame(width, height, processed_width, processed_height)

    def image_tokens(self, frame: PictureFrame) -> int:
        """Visual tokens of a picture in `frame`."""
        return (frame.processed_width // self.factor) * (frame.processed_height // self.factor)

    def as_dict(self) -> dict[str, object]:
        """JSON-ready settings with `factor`, for reports."""
        values = asdict(self)
        return values | {"factor": self.factor, "image_mean": list(self.image_mean), "image_std": list(self.image_std)}

    @classmethod
    def of_family(cls, family: ModelFamily) -> ProcessorSettings:
        """The settings of a family's published checkpoints."""
        return cls(
            family.patch_size,
            family.merge_size,
            family.temporal_patch_size,
            family.min_pixels,
            family.max_pixels,
            family.image_mean,
            family.image_std,
        )


def read_processor(folder: Path) -> ProcessorSettings:
    """Read the settings of a checkpoint folder.

    Both spellings of the limits are understood: `size` with `shortest_edge` and `longest_edge` (areas in px,
    in spite of their names), and the older `min_pixels` and `max_pixels`, which win where both stand.

    Raises
    ------
    CheckpointError
        No settings are there, or a value that decides about pixels is missing: class defaults differ from
        what the checkpoint was trained with, and a wrong one is not visible in any error.
    """
    for name in PROCESSOR_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: not readable as JSON: {error}; fetch the checkpoint again") from error
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{path}: contains no JSON object; fetch the checkpoint again")
        settings = content if "patch_size" in content else content.get("image_processor")
        if isinstance(settings, Mapping):
            return _settings(settings, path)
    raise CheckpointError(
        f"{folder}: no image processor settings ({' or '.join(PROCESSOR_FILES)}). Without them pixels would be "
        "scaled by another model's rules; copy the file from the checkpoint this one was made of"
    )


def _settings(content: Mapping[str, Any], path: Path) -> ProcessorSettings:
    size = content.get("size") or {}
    found = {
        "patch_size": content.get("patch_size"),
        "merge_size": content.get("merge_size"),
        "temporal_patch_size": content.get("temporal_patch_size"),
        "min_pixels": _first(content.get("min_pixels"), size.get("shortest_edge"), size.get("min_pixels")),
        "max_pixels": _first(content.get("max_pixels"), size.get("longest_edge"), size.get("max_pixels")),
        "image_mean": content.get("image_mean"),
        "image_std": content.get("image_std"),
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise CheckpointError(
            f"{path}: does not say {', '.join(missing)}; copy the file from the checkpoint this one was made of"
        )
    for key, expected in (("do_resize", True), ("do_rescale", True), ("do_normalize", True), ("resample", _BICUBIC)):
        if content.get(key, expected) != expected:
            raise CheckpointError(f"{path}: {key}={content[key]!r} is not supported, only {expected!r} is")
    if abs(content.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise CheckpointError(f"{path}: rescale_factor {content['rescale_factor']} is not supported, only 1/255 is")
    try:
        mean, std = (tuple(float(v) for v in found[key]) for key in ("image_mean", "image_std"))  # type: ignore[union-attr]
        numbers = {key: int(found[key]) for key in found if not key.startswith("image_")}  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a setting is not a number: {error}") from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or min(numbers.values()) < 1:
        raise CheckpointError(f"{path}: settings out of range: {dict(found)}")
    return ProcessorSettings(**numbers, image_mean=mean, image_std=std)


def _first(*values: object) -> Any:
    return next((value for value in values if value is not None), None)
