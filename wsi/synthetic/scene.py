"""A whole slide that exists as rules and is rendered window by window."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.noise import textures
from wsi.synthetic.nuclei import REACH_UM, Nuclei, nuclei_in, stain_nuclei
from wsi.synthetic.stain import RgbImage, Scanner
from wsi.synthetic.tissue import Ground, Layout, Window, ground

MARGIN_UM = 3.0
"""Drawn around every window, so that blur and chromatin rims see the same neighbours in every window."""
_DEFOCUS_UM = 1.6


@dataclass(frozen=True)
class World:
    """A layout, its nuclei and the scanner that looks at it."""

    layout: Layout
    seed: int
    scanner: Scanner

    def nuclei_around(self, window: Window) -> Nuclei:
        """Nuclei that can leave a trace in the window."""
        x0, y0, x1, y1 = window.um
        return nuclei_in(
            self.layout, self.seed, x0 - REACH_UM, y0 - REACH_UM, x1 + REACH_UM, y1 + REACH_UM
        )

    def paint(self, window: Window, nuclei: Nuclei) -> tuple[RgbImage, Ground, int]:
        """Render a window with the nuclei given.

        Returns
        -------
        image : uint8 (h, w, 3)
        ground : Ground
            Of the window grown by `margin`.
        margin : int
            Pixels.
        """
        margin = int(np.ceil(MARGIN_UM / window.mpp))
        wide = window.grown(margin)
        base = ground(self.layout, wide)
        tex = textures(window.mpp)
        px, py = self.layout.texture_shift(wide)
        chromatin = tex.window("chromatin", px, py, wide.width, wide.height)
        h, e = stain_nuclei(nuclei, wide, base.hematoxylin, base.eosin, chromatin)
        marks = base.artefacts
        if "fold" in marks:
            double = 1 + marks["fold"] * np.float32(1.0)
            h, e = h * double, e * double
        light = self.scanner.transmit(h, e)
        if "pen mark" in marks:
            ink = marks["pen mark"][..., None] * (1 - np.array(self.layout.pen_rgb, np.float32))
            light *= 1 - ink
        if "blur" in marks:
            sigma = _DEFOCUS_UM / window.mpp
            size = 2 * min(margin, int(np.ceil(2 * sigma))) + 1
            soft = cv2.GaussianBlur(light, (size, size), sigma)
            light += (soft - light) * marks["blur"][..., None]
        sensor = tex.window("sensor", px, py, wide.width, wide.height)
        image = self.scanner.expose(light, sensor, window.mpp)
        inner = slice(margin, -margin)
        return np.ascontiguousarray(image[inner, inner]), base, margin


def share_inside(polygons: NDArray[np.float64], width: float, height: float) -> NDArray[np.float64]:
    """Part of each polygon (n, k, 2) inside 0..width, 0..height; by samples from the centre outward."""
    centre = polygons.mean(axis=1, keepdims=True)
    rings = np.sqrt((np.arange(4) + 0.5) / 4)
    points = centre[:, None] + (polygons - centre)[:, None] * rings[None, :, None, None]
    inside = (points >= 0).all(-1) & (points[..., 0] <= width) & (points[..., 1] <= height)
    return np.asarray(inside.mean(axis=(1, 2)), np.float64)
