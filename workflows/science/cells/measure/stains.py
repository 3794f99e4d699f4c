"""Colour deconvolution: how much of each dye a pixel holds.

Light is absorbed exponentially (Beer-Lambert), so that optical densities of dyes add up; a matrix of their colours
takes them apart again (Ruifrok and Johnston, Anal Quant Cytol Histol 23:291, 2001). The vectors are those that
scikit-image takes from that paper (`skimage.color.hed_from_rgb`, `hdx_from_rgb`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_HEMATOXYLIN = (0.65, 0.70, 0.29)
_EOSIN = (0.07, 0.99, 0.11)
_DAB = (0.27, 0.57, 0.78)
_OF_VALUE = (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)
"""Optical density of every 8-bit value; 0 counts as 1."""


@dataclass(frozen=True)
class Stains:
    """Two dyes and what is left.

    Attributes
    ----------
    name : str
        As on the command line.
    dyes : tuple of str
        Names of the dyes, the nuclear one first.
    vectors : tuple of (r, g, b)
        Optical density of each dye; none at all measures darkness alone.
    """

    name: str
    dyes: tuple[str, ...]
    vectors: tuple[tuple[float, float, float], ...]

    @cached_property
    def _unmixing(self) -> NDArray[np.float32]:
        """(3, dyes): from optical densities of R, G, B to amounts of the dyes."""
        if not self.vectors:
            return np.full((3, 1), 1 / 3, np.float32)
        colours = [np.array(vector) / np.linalg.norm(vector) for vector in self.vectors]
        rest = np.cross(colours[0], colours[1])
        matrix = np.stack([*colours, rest / np.linalg.norm(rest)])
        return np.linalg.inv(matrix)[:, : len(self.dyes)].astype(np.float32)

    def unmix(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Amount of every dye, never negative.

        Parameters
        ----------
        picture : uint8 array (..., 3)
            RGB.

        Returns
        -------
        float32 array (dyes, ...)
            In units of optical density (base 10) along the dye's colour.
        """
        density = _OF_VALUE[picture]
        amounts = density.reshape(-1, 3) @ self._unmixing
        return np.maximum(amounts, 0).T.reshape(-1, *picture.shape[:-1])


STAINS = {
    stains.name: stains
    for stains in (
        Stains("he", ("hematoxylin", "eosin"), (_HEMATOXYLIN, _EOSIN)),
        Stains("hdab", ("hematoxylin", "dab"), (_HEMATOXYLIN, _DAB)),
        Stains("gray", ("darkness",), ()),
    )
}
"""Stainings by name: H&E, immunohistochemistry with DAB, and anything else by its darkness alone."""
