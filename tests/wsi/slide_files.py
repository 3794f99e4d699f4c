"""Slide files of known content, written small and quickly."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
import zarr


def tissue(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A colourful picture, uint8 (height, width, 3), that JPEG does not find trivial."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3) * 300 + cv2.GaussianBlur(noise, (0, 0), 1) * 40
    return np.clip(blurred + np.float32([190, 120, 170]), 0, 255).astype(np.uint8)


def halved(picture: np.ndarray, factor: int) -> np.ndarray:
    """The picture averaged by a whole factor; what does not fill a px is dropped, as pyramid writers do."""
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    return cv2.resize(picture[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)


def jpeg_tiles(picture: np.ndarray, tile: int, space: str = "YCBCR", subsampling: str = "420") -> list[bytes]:
    """JPEG tiles of a picture, row by row, edges padded."""
    codes = []
    for y in range(0, picture.shape[0], tile):
        for x in range(0, picture.shape[1], tile):
            part = picture[y : y + tile, x : x + tile]
            padding = ((0, tile - part.shape[0]), (0, tile - part.shape[1])) + ((0, 0),) * (picture.ndim - 2)
            part = np.ascontiguousarray(np.pad(part, padding, mode="edge"))
            if picture.ndim == 2:
                codes.append(imagecodecs.jpeg8_encode(part, level=85))
            else:
                codes.append(
                    imagecodecs.jpeg8_encode(
                        part, level=85, colorspace="RGB", outcolorspace=space, subsampling=subsampling
                    )
                )
    return codes


def write_svs(
    path: Path,
    picture: np.ndarray,
    *,
    tile: int = 128,
    factors: tuple[int, ...] = (1, 4),
    mpp: str | None = "0.5",
    associated: bool = True,
    photometric: str = "ycbcr",
    codes: dict[int, list[bytes]] | None = None,
) -> Path:
    """An Aperio-style slide: tiled levels, a thumbnail in strips, label and macro. `codes` replaces tiles."""
    height, width = picture.shape[:2]
    stated = f"|MPP = {mpp}" if mpp else ""
    space = "RGB" if photometric == "rgb" else "YCBCR"
    with tifffile.TiffWriter(path) as tif:
        for number, factor in enumerate(factors):
            level = picture if factor == 1 else halved(picture, factor)
            arrow = f" -> {level.shape[1]}x{level.shape[0]}" if number else ""
            tiles = (codes or {}).get(number) or jpeg_tiles(level, tile, space, "444" if space == "RGB" else "420")
            tif.write(
                iter(tiles),
                shape=level.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                photometric=photometric,
                subsampling=(1, 1) if space == "RGB" else (2, 2),
                compression="jpeg",
                compressionargs={"outcolorspace": space},  # else tifffile's tag says YCbCr
                description=f"Aperio Image Library v12 \r\n{width}x{height} ({tile}x{tile}){arrow} JPEG/RGB"
                f" Q=85|AppMag = 20{stated}",
                metadata=None,
            )
            if number == 0 and associated:
                small = cv2.resize(picture, (64, 48))
                tif.write(small, photometric="rgb", description="Aperio \nthumbnail", metadata=None)
        if associated:
            for name, value, kind in (("label", 40, 1), ("macro", 90, 9)):
                image = np.full((20, 30, 3), value, np.uint8)
                text = f"Aperio Image Library v12 \r\n{name} 30x20"
                tif.write(image, photometric="rgb", description=text, metadata=None, subfiletype=kind)
    return path


def write_pyramid(path: Path, picture: np.ndarray, *, in_subifds: bool, ome: bool = False, **options: Any) -> Path:
    """A tiled TIFF pyramid of three levels, in pages or in SubIFDs."""
    options = {"tile": (128, 128), "photometric": "rgb", **options}
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25} if ome else None
    with tifffile.TiffWriter(path, ome=ome) as tif:
        tif.write(picture, subifds=2 if in_subifds else 0, metadata=metadata, **options)
        for factor in (2, 4):
            tif.write(halved(picture, factor), subfiletype=1, metadata=None, **options)
    return path


def write_ngff(
    path: Path,
    levels: list[np.ndarray],
    axes: str,
    *,
    version: str = "0.5",
    scale: float | None = 0.5,
    unit: str | None = "micrometer",
    omero: list[str] | None = None,
    chunk: int = 64,
) -> Path:
    """An OME-Zarr image; `levels` have the axes named, `omero` are channel colours."""
    modern = version == "0.5"
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if modern else 2)
    datasets = []
    for number, array in enumerate(levels):
        chunks = tuple(min(chunk, n) if axis in "yx" else 1 for axis, n in zip(axes, array.shape, strict=True))
        stored = group.create_array(str(number), shape=array.shape, chunks=chunks, dtype=array.dtype)
        stored[...] = array
        factor = levels[0].shape[axes.index("x")] / array.shape[axes.index("x")]
        steps = [(scale or 1.0) * factor if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": steps}]})
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": unit} if unit and axis in "zyx" else {})
        for axis in axes
    ]
    image = {"axes": described, "datasets": datasets, "name": "made"}
    extra = {"omero": {"channels": [{"color": color} for color in omero]}} if omero else {}
    if modern:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image], **extra}
    else:
        group.attrs.update({"multiscales": [{"version": "0.4", **image}], **extra})
    return path


def zipped(folder: Path, target: Path, *, inside: str = "") -> Path:
    """A folder as a zip without compression, at its root or in a folder of its own."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, inside + file.relative_to(folder).as_posix())
    return target


def marked_stack(times: int, depths: int, channels: int, side: int = 48) -> np.ndarray:
    """uint8 (t, z, c, y, x) with 100 t + 10 z + c in every px."""
    t, z, c = np.meshgrid(range(times), range(depths), range(channels), indexing="ij")
    return np.broadcast_to((100 * t + 10 * z + c)[..., None, None], (times, depths, channels, side, side)).astype(
        np.uint8
    )
