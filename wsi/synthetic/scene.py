"""A whole slide that exists as rules and is rendered window by window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.plan import plan_section
from wsi.synthetic.tissue.blood import draw_red_cells
from wsi.synthetic.tissue.layout import ARTEFACTS, BACKGROUND, STROMA, TUMOR, SceneWindow, SectionLayout
from wsi.synthetic.tissue.noise import textures
from wsi.synthetic.tissue.nuclei import REACH_UM, Nuclei, nuclei_in, stain_nuclei
from wsi.synthetic.tissue.stain import RgbImage, Scanner
from wsi.synthetic.tissue.tissue import Ground, ground, habitat

MARGIN_UM = 4.0
"""Drawn around every window, so that blur and chromatin rims see the same neighbours in every window."""
BLOCK_PX = 512
"""Side of the pieces that large windows are rendered in."""
_DEFOCUS_UM = 1.3


@dataclass(frozen=True)
class World:
    """A layout, its nuclei and the scanner that looks at it."""

    layout: SectionLayout
    seed: int
    scanner: Scanner

    def nuclei_around(self, window: SceneWindow) -> Nuclei:
        """Nuclei that can leave a trace in the window."""
        x0, y0, x1, y1 = window.um
        return nuclei_in(self.layout, self.seed, x0 - REACH_UM, y0 - REACH_UM, x1 + REACH_UM, y1 + REACH_UM)

    def paint(self, window: SceneWindow, nuclei: Nuclei) -> tuple[RgbImage, Ground, int]:
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
        e = base.eosin
        if STROMA in base.regions or TUMOR in base.regions:
            e = draw_red_cells(self.layout, self.seed, wide, e)
        h, e = stain_nuclei(nuclei, wide, base.hematoxylin, e, chromatin)
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


@dataclass(frozen=True)
class Scene:
    """The deterministic truth of one slide.

    Parameters
    ----------
    width_um, height_um : float
        Size of the slide.
    seed : int
        Everything follows from it.
    scanner : Scanner, optional
        Drawn from the seed when left out.
    artefacts : tuple of str
        Which of `ARTEFACTS` the slide has.
    """

    width_um: float
    height_um: float
    seed: int
    scanner: Scanner | None = None
    artefacts: tuple[str, ...] = ARTEFACTS

    @cached_property
    def world(self) -> World:
        """Layout, seed and scanner, made on first use."""
        layout = plan_section(self.width_um, self.height_um, self.seed, self.artefacts)
        rng = np.random.default_rng([self.seed & 0xFFFFFFFF, 0x5CA])
        scanner = self.scanner or Scanner.random(rng)
        return World(layout, int(rng.integers(1 << 62)), scanner)

    def render(self, x_um: float, y_um: float, width_px: int, height_px: int, mpp: float) -> RgbImage:
        """Render a window; neighbouring windows of one scale continue each other.

        Parameters
        ----------
        x_um, y_um : float
            Top left corner, rounded to the pixel grid of `mpp`.
        width_px, height_px : int
        mpp : float
            um per px. Above 1 um the window is rendered finer and averaged.

        Returns
        -------
        uint8 (height_px, width_px, 3)
            RGB. Glass where the window leaves the slide.
        """
        window = SceneWindow(round(x_um / mpp), round(y_um / mpp), width_px, height_px, mpp)
        fine = int(np.ceil(mpp - 1e-9))
        step = max(1, BLOCK_PX // fine)
        out = np.empty((height_px, width_px, 3), np.uint8)
        for top in range(0, height_px, step):
            for left in range(0, width_px, step):
                w, h = min(step, width_px - left), min(step, height_px - top)
                part = SceneWindow((window.px + left) * fine, (window.py + top) * fine, w * fine, h * fine, mpp / fine)
                image, _ = self.render_block(part)
                if fine > 1:
                    image = np.asarray(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
                out[top : top + h, left : left + w] = image
        return out

    def render_block(self, window: SceneWindow) -> tuple[RgbImage, Nuclei]:
        """Render one window in one piece; also gives the nuclei whose centre lies in it."""
        world = self.world
        x0, y0, x1, y1 = window.um
        nuclei = world.nuclei_around(window)
        image, _, _ = world.paint(window, nuclei)
        x, y = nuclei.centre_um.T
        return image, nuclei[(x >= x0) & (x < x1) & (y >= y0) & (y < y1)]

    def nuclei(self, x_um: float, y_um: float, w_um: float, h_um: float) -> Nuclei:
        """Nuclei whose centre lies in the window; columns in world um."""
        return nuclei_in(self.world.layout, self.world.seed, x_um, y_um, x_um + w_um, y_um + h_um)

    def region_map(self, downsample: float, mpp: float = 0.25) -> NDArray[np.uint8]:
        """Region index (position in `REGIONS`) of every downsample-th pixel of a slide with `mpp`.

        Returns
        -------
        uint8 (floor(height_px / downsample), floor(width_px / downsample))
        """
        step = downsample * mpp
        nx, ny = int(self.width_um / step + 1e-6), int(self.height_um / step + 1e-6)
        x = (np.arange(nx) + 0.5) * step
        out = np.empty((ny, nx), np.uint8)
        rows = max(1, 500_000 // max(nx, 1))
        for top in range(0, ny, rows):
            y = (np.arange(top, min(top + rows, ny)) + 0.5) * step
            px, py = (a.ravel() for a in np.meshgrid(x, y))
            home = habitat(self.world.layout, px, py)
            out[top : top + len(y)] = np.where(home.depth > 0, home.region, BACKGROUND).reshape(len(y), nx)
        return out

    def artefact_map(self, name: str, downsample: float, mpp: float = 0.25) -> NDArray[np.float32]:
        """Strength 0..1 of one of `ARTEFACTS`, on the grid of `region_map`."""
        step = downsample * mpp
        nx, ny = int(self.width_um / step + 1e-6), int(self.height_um / step + 1e-6)
        out = np.zeros((ny, nx), np.float32)
        return self.world.layout.maps(SceneWindow(0, 0, nx, ny, step)).artefacts.get(name, out)
