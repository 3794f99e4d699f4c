"""Which images of a TIFF file form the pyramid, its planes and its associated images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from wsi.errors import PlaneError, UnsupportedSlideError
from wsi.readers.scale import (
    at_even_times,
    from_imagej,
    from_tiff_resolution,
    pair,
    plausible,
    to_micrometres,
    to_seconds,
)
from wsi.readers.source import require_only_image
from wsi.readers.tiff.ome import image_of_series, images_of

_ASSOCIATED = ("label", "macro", "thumbnail", "overview")
_LEAST_STEP = 1.5  # between levels; images closer in size are different images
# tifffile's axis letters. An axis without a name (I, Q) counts as depth.
_AXES = {"T": "t", "Z": "z", "C": "c", "I": "z", "Q": "z", "S": "s", "Y": "y", "X": "x"}
_RESOLUTION = (282, 283, 296)
_MASK = 4  # bit of NewSubfileType


@dataclass
class TiffLayout:
    """How the images of one file belong together.

    Attributes
    ----------
    levels : list of list of pages
        For each level, highest resolution first, its pages in order of `axes`.
    axes : str
        Which of t, z and c the pages run over, slowest first.
    sizes : dict of str to int
        Length of each axis.
    stored_behind_first : bool
        All planes lie uncompressed behind the only directory entry (large ImageJ stacks).
    associated : dict of str to page
        Label, macro and thumbnail.
    image, images : str and list of str
        Name of this image and of all of them.
    mpp_xy : (float, float) or None
        um per px.
    mpp_from : str
        Where the file states it.
    properties : dict of str to str
        Metadata as stated.
    channels : list of (str, int)
        Channel names, and samples per px of each.
    seconds : tuple of float or None
        When each time point was taken, in s.
    depth_um : float or None
        Distance of neighbouring z planes in um.
    unnamed : str
        'z' where that is what an axis without a name was taken for.
    notes : list of str
        What was left out or derived.
    """

    levels: list[list[TiffPage | TiffFrame]]
    axes: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    stored_behind_first: bool = False
    associated: dict[str, TiffPage | TiffFrame] = field(default_factory=dict)
    image: str = ""
    images: list[str] = field(default_factory=list)
    mpp_xy: tuple[float, float] | None = None
    mpp_from: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    channels: list[tuple[str, int]] = field(default_factory=list)
    seconds: tuple[float, ...] | None = None
    depth_um: float | None = None
    unnamed: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> TiffPage:
        """The directory entry of the image itself: its tags are the image's, no other page's are."""
        return self.levels[0][0].keyframe  # type: ignore[return-value]


def layout_of(tif: TiffFile, path: Path, series: int | None) -> TiffLayout:
    """Understand a TIFF file. Raises UnsupportedSlideError, or PlaneError when a series has to be named."""
    first = tif.pages.first
    aperio = (first.description or "").startswith("Aperio") and first.is_tiled
    layout = _aperio(tif, path, series) if aperio else _series(tif, path, series)
    text = layout.key.description or ""
    resolution = [_tag(layout.key, code) for code in _RESOLUTION]
    if layout.mpp_xy is None and not tif.is_imagej:
        layout.mpp_xy = from_tiff_resolution(*resolution)
        layout.mpp_from = f"the resolution tags of IFD {layout.key.index}" if layout.mpp_xy else ""
    if text and not tif.is_ome:
        layout.properties.setdefault("tiff.ImageDescription", text)
    for name, value in zip(("XResolution", "YResolution", "ResolutionUnit"), resolution, strict=True):
        if value is not None:
            layout.properties[f"tiff.{name}"] = str(int(value) if name == "ResolutionUnit" else value)
    return layout


def stated_factors(layout: TiffLayout) -> list[tuple[float, float] | None]:
    """Level-0 px per px of each level where the resolution tags of the levels state it, along x and y.

    Writers that copy the tags of level 0 to all levels state nothing.
    """
    found: list[tuple[float, float] | None] = []
    base = [_tag(layout.key, code) for code in _RESOLUTION]
    for pages in layout.levels:
        own = [_tag(pages[0].keyframe, code) for code in _RESOLUTION]  # type: ignore[arg-type]
        factors = [
            (a[0] * b[1]) / (a[1] * b[0]) if a and b and all(a) and all(b) else 1.0
            for a, b in zip(base[:2], own[:2], strict=True)
        ]
        whole = [round(f) if abs(f - round(f)) < 2e-3 * f else f for f in factors]
        stated = base[2] == own[2] and min(factors) >= 1 and max(factors) >= _LEAST_STEP
        found.append((float(whole[0]), float(whole[1])) if stated else None)
    return found


def _tag(page: TiffPage, code: int) -> Any:
    return page.tags.valueof(code)


def _aperio(tif: TiffFile, path: Path, wanted: int | None) -> TiffLayout:
    """Aperio SVS as OpenSlide takes it: tiled images are levels, the others are associated images."""
    require_only_image(path, wanted)
    pages = [page.aspage() for page in tif.pages]
    by_size: dict[tuple[int, int], list[TiffPage | TiffFrame]] = {}
    associated: dict[str, TiffPage | TiffFrame] = {}
    for number, page in enumerate(pages):
        if page.is_tiled:
            by_size.setdefault((page.imagewidth, page.imagelength), []).append(page)
        elif number == 1:
            associated["thumbnail"] = page
        else:
            words = (page.description or "").split("\n")[-1].split()
            if words and words[0].lower() in ("label", "macro"):
                associated[words[0].lower()] = page
    levels = [by_size[size] for size in sorted(by_size, reverse=True)]
    depths = len(levels[0])
    if any(len(level) != depths for level in levels):
        depths, levels = 1, [level[:1] for level in levels]
    text = levels[0][0].aspage().description or ""
    properties = {"tiff.ImageDescription": text}
    for part in text.split("|")[1:]:
        key, _, value = part.partition("=")
        properties[f"aperio.{key.strip()}"] = value.strip()
    mpp = to_micrometres(properties.get("aperio.MPP"), "um")
    layout = TiffLayout(levels, "z", {"z": depths}, False, associated, properties=properties)
    layout.mpp_xy = plausible(pair(mpp, mpp))
    layout.mpp_from = "MPP of the Aperio description" if layout.mpp_xy else ""
    return layout


def _series(tif: TiffFile, path: Path, wanted: int | None) -> TiffLayout:
    all_series = [
        s for s in tif.series if len(s) and s[0] is not None and s.ndim >= 2 and not int(s.keyframe.subfiletype) & _MASK
    ]
    if not all_series:
        raise UnsupportedSlideError(f"{path} is a TIFF file without an image in it.")
    associated: dict[str, TiffPage | TiffFrame] = {
        s.name.lower(): s.keyframe for s in all_series if s.name.lower() in _ASSOCIATED
    }
    images = [s for s in all_series if s.name.lower() not in _ASSOCIATED] or all_series
    base = _choose(images, path, wanted)
    levels: list[TiffPageSeries] = list(base.levels)
    levels += [s for s in images if s is not base and _is_lower_level(s, base, tif)]
    levels.sort(key=lambda s: -s.keyframe.imagewidth * s.keyframe.imagelength)
    axes = "".join(_AXES.get(letter, "?") for letter in base.axes)
    running = axes.replace("y", "").replace("x", "").replace("s", "")
    if "?" in axes or len(set(running)) != len(running) or "y" not in axes or "x" not in axes:
        raise UnsupportedSlideError(
            f"{path} has the axes {base.axes} with lengths {base.shape}; only time, depth, channel, y and x "
            "are understood. Save one position, or name another series with series=."
        )
    sizes = {axis: n for axis, n in zip(axes, base.shape, strict=True) if axis in running}
    planes = math.prod(sizes.values())
    stored = planes > 1 and len(tif.pages) == 1 and base.dataoffset is not None
    same = [s for s in levels if _other_lengths(s) == _other_lengths(base)]
    layout = TiffLayout([_pages(s, 1 if stored else planes, path) for s in same], running, sizes, stored, associated)
    if len(same) < len(levels):
        layout.notes.append(f"{len(levels) - len(same)} level(s) differ in other axes than x and y and are not used.")
    layout.images = [_named(s, i) for i, s in enumerate(images)]
    layout.image = layout.images[images.index(base)] if len(images) > 1 or base.name else ""
    others = [i for i, s in enumerate(images) if s not in levels]
    if others:
        layout.notes.append(
            f"The file holds further images, which are not read: {'; '.join(layout.images[i] for i in others)}."
        )
    layout.unnamed = "z" if set(base.axes) & set("IQ") and sizes.get("z", 1) > 1 else ""
    _describe(tif, base, layout)
    return layout


def _named(series: TiffPageSeries, number: int) -> str:
    key = series.keyframe
    return f"{number}: {series.name or 'unnamed'}, {key.imagewidth}x{key.imagelength} px"


def _other_lengths(series: TiffPageSeries) -> list[int]:
    """Lengths along every axis but x and y: a level has those of its image."""
    return [n for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YX" and n > 1]


def _pages(series: TiffPageSeries, planes: int, path: Path) -> list[TiffPage | TiffFrame]:
    pages = [series[i] for i in range(min(planes, len(series)))]
    if len(pages) != planes or any(page is None for page in pages):
        raise UnsupportedSlideError(
            f"{path} promises {planes} planes per level and holds {sum(p is not None for p in pages)}: it is "
            "cut off, or belongs to a set whose other files are missing."
        )
    return pages  # type: ignore[return-value]


def _choose(images: list[TiffPageSeries], path: Path, wanted: int | None) -> TiffPageSeries:
    if wanted is not None:
        if not 0 <= wanted < len(images):
            raise PlaneError(f"{path} has series 0 to {len(images) - 1}, not {wanted}.")
        return images[wanted]
    area = [math.prod((s.keyframe.imagewidth, s.keyframe.imagelength)) for s in images]
    largest = area.index(max(area))
    rivals = [
        s
        for i, s in enumerate(images)
        if i != largest and area[i] * 4 > area[largest] and not _is_lower_level(s, images[largest], None)
    ]
    if rivals:
        listed = "; ".join(_named(s, i) for i, s in enumerate(images))
        raise PlaneError(
            f"{path} holds several images. Choose one by its number: --series 0 on the command line, "
            f"open_slide(path, series=0) in Python. They are {listed}."
        )
    return images[largest]


def _is_lower_level(small: TiffPageSeries, large: TiffPageSeries, tif: TiffFile | None) -> bool:
    """Whether one series is a lower level of another that tifffile left apart.

    A reduced image among the SubIFDs of the other is one. So is, outside OME-TIFF, an image with fewer px,
    the same shape within a px, and the same samples.
    """
    a, b = small.keyframe, large.keyframe
    if a.samplesperpixel != b.samplesperpixel or a.dtype != b.dtype or a.photometric != b.photometric:
        return False
    if a.imagewidth > b.imagewidth or a.imagelength > b.imagelength:
        return False
    if a.is_reduced and a.is_subifd and a.offset in (b.subifds or ()):
        return (a.imagewidth, a.imagelength) != (b.imagewidth, b.imagelength)
    ratio = b.imagewidth / a.imagewidth
    if ratio < _LEAST_STEP or (tif is not None and tif.is_ome):
        return False
    same_shape = abs(b.imagelength / ratio - a.imagelength) <= 1 + a.imagelength / a.imagewidth
    return same_shape and len(small) == len(large) and a.is_tiled == b.is_tiled


def _describe(tif: TiffFile, base: TiffPageSeries, layout: TiffLayout) -> None:
    if tif.is_ome and tif.ome_metadata:
        _describe_ome(tif, base, layout)
    elif tif.is_imagej and tif.imagej_metadata:
        unit = str(tif.imagej_metadata.get("unit", ""))
        x, y = (_tag(layout.key, code) for code in _RESOLUTION[:2])
        layout.mpp_xy = from_imagej(x, y, unit)
        layout.mpp_from = "the resolution tags in ImageJ's unit" if layout.mpp_xy else ""
        layout.properties["imagej.unit"] = unit
        layout.depth_um = to_micrometres(tif.imagej_metadata.get("spacing"), unit)
        # ImageJ's own unit of time is the second. Its `fps` is the pace of playing, not of taking pictures.
        interval = to_seconds(tif.imagej_metadata.get("finterval"), tif.imagej_metadata.get("tunit", "sec"))
        layout.seconds = at_even_times(interval, layout.sizes.get("t", 1))


def _describe_ome(tif: TiffFile, base: TiffPageSeries, layout: TiffLayout) -> None:
    images = images_of(tif.ome_metadata or "")
    found = image_of_series(tif, base, images)
    missing = [image for image in images if image.name not in {s.name for s in tif.series}]
    for image in missing if found is not None and len(images) > 1 else ():
        layout.notes.append(
            f"Image {image.name!r} of this OME-TIFF set is in {', '.join(image.files) or 'no file'}, "
            "which is not here or holds no plane of it."
        )
    if found is None:
        layout.notes.append("Which Image element of the OME-XML describes these pixels is not certain.")
        return
    layout.properties.update(found.properties)
    layout.mpp_xy = found.mpp_xy
    layout.mpp_from = f"PhysicalSize of OME Image {found.name!r}" if layout.mpp_xy else ""
    layout.channels = found.channels
    layout.depth_um = found.depth_um
    layout.seconds = found.seconds(layout.sizes.get("t", 1))


def directories(stream: BinaryIO) -> Iterator[int]:
    """Offsets of the main directory chain of a TIFF file, as written in it (TIFF 6.0, BigTIFF).

    The last one yielded may lie beyond the end of the file: then the file is cut off. Or it was yielded
    before: then the chain is a loop.
    """
    head = stream.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = int.from_bytes(head[2:4], order) == 43
    word, count_bytes, entry = (8, 8, 20) if big else (4, 2, 12)
    at = int.from_bytes(head[8:16] if big else head[4:8], order)
    seen: set[int] = set()
    while at:
        yield at
        if at in seen:
            return
        seen.add(at)
        stream.seek(at)
        raw = stream.read(count_bytes)
        if len(raw) < count_bytes:
            return
        stream.seek(at + count_bytes + int.from_bytes(raw, order) * entry)
        raw = stream.read(word)
        if len(raw) < word:
            yield at + (1 << 62)  # the entry itself is cut off
            return
        at = int.from_bytes(raw, order)
