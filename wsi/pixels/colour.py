"""Colours of a slide as its ICC profile means them, as sRGB (ICC.1; IEC 61966-2-1)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi.errors import ColourError
from wsi.slide import RGB

if TYPE_CHECKING:
    from PIL import ImageCms

COLOURS = ("stored", "srgb")
"""Colours as the file stores them, or converted to sRGB."""
INTENT = "relative colorimetric"
"""White stays white, and colours that both spaces have stay exact; the others are cut to the nearest."""
_DEVICES = ("scnr", "mntr", "prtr", "spac")


class SrgbConverter:
    """Converts stored colours to sRGB by an ICC profile; made once per slide, used from any thread.

    Parameters
    ----------
    profile : bytes
        ICC profile of the stored colours.
    where : object
        The file, for messages.

    Attributes
    ----------
    name : str
        What the profile calls itself.

    Raises
    ------
    ColourError
        The profile cannot be read, or is not one of RGB colours.
    """

    def __init__(self, profile: bytes, where: object) -> None:
        from PIL import ImageCms

        found = _parsed(profile)
        remedy = "Leave out --colour srgb to take the colours as they are stored, or repair the profile."
        if found is None:
            raise ColourError(f"{where} holds an ICC profile of {len(profile)} bytes that cannot be read. {remedy}")
        space, kind = found.profile.xcolor_space.strip(), found.profile.device_class.strip()
        self.name = _name(found)
        if space != "RGB" or kind not in _DEVICES:
            raise ColourError(
                f"{where} holds RGB px and the ICC profile {self.name!r} of {space or 'unknown'} colours (class "
                f"{kind!r}), which does not belong to them. {remedy}"
            )
        try:
            self._transform = ImageCms.buildTransform(
                found,
                ImageCms.createProfile("sRGB"),
                "RGB",
                "RGB",
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            )
        except ImageCms.PyCMSError as error:
            raise ColourError(f"{where}: the ICC profile {self.name!r} cannot be used: {error}. {remedy}") from error

    def __call__(self, pixels: RGB) -> RGB:
        """uint8 (h, w, 3) in stored colours as uint8 (h, w, 3) in sRGB."""
        from PIL import Image

        height, width = pixels.shape[:2]
        image = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(pixels), "raw", "RGB", 0, 1)
        return np.array(self._transform.apply(image))


def profile_name(profile: bytes) -> str:
    """What an ICC profile calls itself, with its colour space; says so where it cannot be read."""
    found = _parsed(profile)
    if found is None:
        return f"a profile of {len(profile)} bytes that cannot be read"
    return f"{_name(found)} ({found.profile.xcolor_space.strip()})"


def _parsed(profile: bytes) -> ImageCms.ImageCmsProfile | None:
    from PIL import ImageCms

    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return None


def _name(found: Any) -> str:
    described = found.profile.profile_description or found.profile.model or "unnamed"
    return " ".join(str(described).split())
