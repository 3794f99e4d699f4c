"""Ordinary pictures: PNG, JPEG and whatever else Pillow decodes whole."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from wsi.errors import ReadError, UnsupportedSlideError
from wsi.readers.description import Description, Layout
from wsi.readers.source import PixelSource, Raw, require_only_image
from wsi.slide import RGB, Level

_ORIENTATION = 274
# What Pillow calls frames in other formats are previews (MPO), layers (PSD) or sizes of one image.
_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
_GRAY_MODES = {"1": np.bool_, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}


class PlainSource(PixelSource):
    """An image that is decoded whole at the first read and kept in memory, one frame at a time.

    Transparency, which such a file itself declares, is shown over white. Its resolution tags state
    printing sizes and never count as a scale.
    """

    name = "plain"

    def __init__(self, path: Path, series: int | None = None) -> None:
        require_only_image(path, series)
        self.path = path
        self._lock = threading.Lock()
        self._frames: dict[int, Raw] = {}
        self._closed = False
        try:
            with _picture(path) as picture:
                width, height = picture.size
                mode, format_ = picture.mode, picture.format or ""
                frames = int(getattr(picture, "n_frames", 1)) if format_ in _ANIMATED else 1
                orientation = _orientation(picture)
                profile = picture.info.get("icc_profile")
        except Exception as error:  # Pillow's plugins raise errors of many kinds
            raise UnsupportedSlideError(
                f"{path} is not an image that any reader knows: {error}. Known are slides (SVS, NDPI, MRXS, "
                "SCN, BIF, DICOM), TIFF, OME-TIFF, OME-Zarr and ordinary pictures; large ones need tiles."
            ) from error
        gray = _GRAY_MODES.get(mode)
        # A frame of GIF may add colours that the first does not have.
        layout = Layout(np.dtype(np.uint8), 3, depths=frames, is_rgb=True)
        if gray is not None and frames == 1:
            layout = Layout(np.dtype(gray), 1)
        self.description = Description(
            levels=(Level(width, height, 1.0),),
            layout=layout,
            orientation=orientation,
            properties={"plain.format": format_},
            files=(path,),
            icc_profile=profile if isinstance(profile, bytes) else None,
            unnamed="z" if frames > 1 else "",
        )

    def _whole(self, frame: int) -> Raw:
        with self._lock:
            if self._closed:
                raise ReadError(f"{self.path} is closed; open it again.")
            pixels = self._frames.get(frame)
            if pixels is None:
                try:
                    with _picture(self.path) as picture:
                        picture.seek(frame)
                        pixels = _decode(picture, self.layout)
                except Exception as error:
                    raise ReadError(
                        f"{self.path}: cannot decode the image: {error}. It is damaged or cut off; "
                        "copy it again from its source."
                    ) from error
                self._frames = {frame: pixels}
            return pixels

    def read_rgb(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int) -> RGB:
        """A region; see `PixelSource`."""
        return self._whole(z)[y : y + height, x : x + width].copy()

    def read_channel(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int) -> Raw:
        """A region of one channel; see `PixelSource`."""
        part = self._whole(z)[y : y + height, x : x + width]
        return part.copy() if part.ndim == 2 else part[..., channel].copy()

    def close(self) -> None:
        """Forget the pixels; see `PixelSource`."""
        with self._lock:
            self._frames, self._closed = {}, True


def _picture(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns above 89 megapixels and refuses above 179; ordinary scans lie between.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _orientation(picture: Image.Image) -> int:
    value = picture.getexif().get(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def _decode(picture: Image.Image, layout: Layout) -> Raw:
    if not layout.is_rgb:
        return np.ascontiguousarray(np.asarray(picture, _GRAY_MODES[picture.mode]))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(picture.convert("RGB"))
