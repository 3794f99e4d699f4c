"""Which images of a TIFF file form the pyramid, its planes and its associated images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal
from xml.etree import ElementTree

from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from wsi.errors import PlaneError, UnsupportedSlideError
from wsi.readers.scale import from_tiff_resolution, pair, rising, to_micrometres, to_seconds

_ASSOCIATED = ("label", "macro", "thumbnail", "overview")
_LEAST_STEP = 1.5  # between levels; images closer in size are different images
# tifffile's axis letters. An axis without a name (I, Q) counts as depth.
_AXES = {"T": "t", "Z": "z", "C": "c", "I": "z", "Q": "z", "S": "s", "Y": "y", "X": "x"}


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
    mpp_xy : (float, float) or None
        um per px.
    properties : dict of str to str
        Metadata as stated.
    channels : list of str
        Channel names.
    seconds : tuple of float or None
        When each time point was taken, in s.
    depth_um : float or None
        Distance of neighbouring z planes in um.
    unnamed : str
        'z' where that is what an axis without a name was taken for.
    """

    levels: list[list[TiffPage | TiffFrame]]
    axes: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    stored_behind_first: bool = False
    associated: dict[str, TiffPage | TiffFrame] = field(default_factory=dict)
    mpp_xy: tuple[float, float] | None = None
    properties: dict[str, str] = field(default_factory=dict)
    channels: list[str] = field(default_factory=list)
    seconds: tuple[float, ...] | None = None
    depth_um: float | None = None
    unnamed: str = ""


def layout_of(tif: TiffFile, path: Path, series: int | None) -> TiffLayout:
    """Understand a TIFF file. Raises UnsupportedSlideError, or PlaneError when a series has to be named."""
    first = tif.pages.first
    text = first.description or ""
    layout = (
        _aperio(tif, text) if text.startswith("Aperio") and first.is_tiled else _series(tif, path, series)
    )
    resolution = [_tag(first, code) for code in (282, 283, 296)]
    layout.mpp_xy = layout.mpp_xy or from_tiff_resolution(*resolution)
    if text and not tif.is_ome:
        layout.properties.setdefault("tiff.ImageDescription", text)
    for name, value in zip(("XResolution", "YResolution", "ResolutionUnit"), resolution, strict=True):
        if value is not None:
            layout.properties[f"tiff.{name}"] = str(int(value) if name == "ResolutionUnit" else value)
    return layout


def _tag(page: TiffPage, code: int) -> Any:
    return page.tags.valueof(code)


def _aperio(tif: TiffFile, text: str) -> TiffLayout:
    """Aperio SVS as OpenSlide takes it: tiled images are levels, the others are associated images."""
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
    properties = {"tiff.ImageDescription": text}
    for part in text.split("|")[1:]:
        key, _, value = part.partition("=")
        properties[f"aperio.{key.strip()}"] = value.strip()
    mpp = to_micrometres(properties.get("aperio.MPP"), "um")
    return TiffLayout(levels, "z", {"z": depths}, False, associated, pair(mpp, mpp), properties)


def _series(tif: TiffFile, path: Path, wanted: int | None) -> TiffLayout:
    all_series = [s for s in tif.series if len(s) and s[0] is not None and s.ndim >= 2]
    if not all_series:
        raise UnsupportedSlideError(f"{path} is a TIFF file without an image in it.")
    associated: dict[str, TiffPage | TiffFrame] = {
        s.name.lower(): s.keyframe for s in all_series if s.name.lower() in _ASSOCIATED
    }
    pictures = [s for s in all_series if s.name.lower() not in _ASSOCIATED] or all_series
    base = _choose(pictures, path, wanted)
    levels: list[TiffPageSeries] = list(base.levels)
    if len(levels) == 1 and not tif.is_ome:
        levels += [s for s in pictures if s is not base and _is_smaller_copy(s, base)]
        levels.sort(key=lambda s: -s.keyframe.imagewidth)
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
    layout = TiffLayout(
        [_pages(s, 1 if stored else planes, path) for s in levels], running, sizes, stored, associated
    )
    layout.unnamed = "z" if set(base.axes) & set("IQ") and sizes.get("z", 1) > 1 else ""
    _describe(tif, all_series.index(base), layout)
    return layout


def _pages(series: TiffPageSeries, planes: int, path: Path) -> list[TiffPage | TiffFrame]:
    pages = [series[i] for i in range(min(planes, len(series)))]
    if len(pages) != planes or any(page is None for page in pages):
        raise UnsupportedSlideError(
            f"{path} promises {planes} planes per level and holds {sum(p is not None for p in pages)}: it is "
            "cut off, or belongs to a set whose other files are missing."
        )
    return pages  # type: ignore[return-value]


def _choose(pictures: list[TiffPageSeries], path: Path, wanted: int | None) -> TiffPageSeries:
    if wanted is not None:
        if not 0 <= wanted < len(pictures):
            raise PlaneError(f"{path} has series 0 to {len(pictures) - 1}, not {wanted}.")
        return pictures[wanted]
    area = [math.prod((s.keyframe.imagewidth, s.keyframe.imagelength)) for s in pictures]
    largest = area.index(max(area))
    rivals = [
        s
        for i, s in enumerate(pictures)
        if i != largest and area[i] * 4 > area[largest] and not _is_smaller_copy(s, pictures[largest])
    ]
    if rivals:
        listed = "; ".join(f"{i}: {s.name or 'unnamed'} {s.shape} {s.axes}" for i, s in enumerate(pictures))
        raise PlaneError(f"{path} holds several images; choose one with series=. They are {listed}.")
    return pictures[largest]


def _is_smaller_copy(small: TiffPageSeries, large: TiffPageSeries) -> bool:
    """Whether one series is a lower level of another: fewer px, same shape within a px, same samples."""
    a, b = small.keyframe, large.keyframe
    if a.imagewidth >= b.imagewidth or a.samplesperpixel != b.samplesperpixel or a.dtype != b.dtype:
        return False
    ratio = b.imagewidth / a.imagewidth
    if ratio < _LEAST_STEP:
        return False
    same_shape = abs(b.imagelength / ratio - a.imagelength) <= 1 + a.imagelength / a.imagewidth
    return same_shape and len(small) == len(large) and a.is_tiled == b.is_tiled


def _describe(tif: TiffFile, index: int, layout: TiffLayout) -> None:
    if tif.is_ome and tif.ome_metadata:
        _describe_ome(tif.ome_metadata, index, layout)
    elif tif.is_imagej and tif.imagej_metadata:
        unit = str(tif.imagej_metadata.get("unit", ""))
        sides = []
        for code in (282, 283):
            rational = _tag(tif.pages.first, code)
            per_px = rational[1] / rational[0] if rational and rational[0] else None
            sides.append(to_micrometres(per_px, unit))
        layout.mpp_xy = pair(*sides)
        layout.properties["imagej.unit"] = unit
        layout.depth_um = to_micrometres(tif.imagej_metadata.get("spacing"), unit)
        # ImageJ's own unit of time is the second. Its `fps` is the pace of playing, not of taking pictures.
        interval = to_seconds(tif.imagej_metadata.get("finterval"), tif.imagej_metadata.get("tunit", "sec"))
        layout.seconds = _at_even_times(interval, layout)


def _describe_ome(xml: str, index: int, layout: TiffLayout) -> None:
    images = [e for e in ElementTree.fromstring(xml).iter() if e.tag.rpartition("}")[2] == "Image"]
    if index >= len(images):
        return
    image = images[index]
    pixels = next((e for e in image if e.tag.rpartition("}")[2] == "Pixels"), None)
    layout.properties["ome.Name"] = image.get("Name", "")
    if pixels is None:
        return
    for key in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeXUnit", "PhysicalSizeYUnit"):
        if pixels.get(key):
            layout.properties[f"ome.{key}"] = pixels.get(key, "")
    # The OME schema's default unit of PhysicalSize is the micrometre.
    sides = [
        to_micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "um"))
        for axis in ("X", "Y")
    ]
    layout.mpp_xy = pair(*sides)
    layout.channels = [e.get("Name", "") for e in pixels if e.tag.rpartition("}")[2] == "Channel"]
    layout.depth_um = to_micrometres(pixels.get("PhysicalSizeZ"), pixels.get("PhysicalSizeZUnit", "um"))
    layout.seconds = _ome_times(pixels, layout)


def _ome_times(pixels: ElementTree.Element, layout: TiffLayout) -> tuple[float, ...] | None:
    """Times of the first plane of every time point (`DeltaT`), else of an even `TimeIncrement`; in s by default."""
    times: dict[int, float | None] = {}
    for plane in pixels:
        if plane.tag.rpartition("}")[2] == "Plane" and plane.get("TheZ") == "0" and plane.get("TheC") == "0":
            times[int(plane.get("TheT", -1))] = to_seconds(plane.get("DeltaT"), plane.get("DeltaTUnit", "s"))
    measured = rising([times.get(t) for t in range(layout.sizes.get("t", 1))])
    if measured is not None:
        return measured
    step = to_seconds(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    return _at_even_times(step, layout)


def _at_even_times(step: float | None, layout: TiffLayout) -> tuple[float, ...] | None:
    if not step:
        return None
    return tuple(t * step for t in range(layout.sizes.get("t", 1)))


def directories(stream: BinaryIO) -> Iterator[int]:
    """Offsets of the main directory chain of a TIFF file, as written in it (TIFF 6.0, BigTIFF).

    The last one yielded may lie beyond the end of the file: then the file is cut off.
    """
    head = stream.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = int.from_bytes(head[2:4], order) == 43
    word, count_bytes, entry = (8, 8, 20) if big else (4, 2, 12)
    at = int.from_bytes(head[8:16] if big else head[4:8], order)
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        yield at
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
