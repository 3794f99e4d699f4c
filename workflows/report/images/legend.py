"""The legend beside an overview: what was asked, colours, counts, a colour bar, a scale bar, and warnings."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from workflows._words import plural
from workflows.report.images.colours import FAILED, SKIPPED, RGBColour
from workflows.report.report import Report
from wsi.slide import RGB

WIDTH = 460
_MARGIN = 24
INSET = WIDTH - 2 * _MARGIN
"""Side in px of the enlarged part."""
_INK = (30, 30, 30)
_GRAY = (110, 110, 110)
_ROUND_UM = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)


@dataclass
class Legend:
    """What the legend says; drawing the picture fills `bar` and `inset`."""

    report: Report
    colours: dict[str, RGBColour]
    bar: tuple[str, float] | None = None
    """Name of the colour bar, and the value at its end."""
    inset: RGB | None = None
    """An enlarged part of the slide, uint8 (h, w, 3)."""

    @staticmethod
    def top(values: NDArray[np.float32]) -> float:
        """End of the colour bar: the 99th percentile of what is known, and more than 0."""
        known = values[np.isfinite(values)]
        return float(np.quantile(known, 0.99)) or 1.0 if known.size else 1.0


def draw_legend(picture: RGB, factor: float, legend: Legend) -> RGB:
    """The picture with the legend at its right, uint8 (h, w + WIDTH, 3), and a scale bar inside it.

    `factor` is px of the picture per level-0 px.
    """
    _draw_scale_bar(picture, factor, legend.report)
    panel = Image.new("RGB", (WIDTH, 4096), "white")
    pen = _Pen(ImageDraw.Draw(panel))
    report = legend.report
    pen.text(report.slide.name, 24)
    pen.text(_question(report), 17, _GRAY)
    pen.text(f"{report.model.model}", 17, _GRAY)
    pen.skip(14)
    for line, colour in _entries(report, legend.colours):
        pen.entry(line, colour)
    if legend.bar is not None:
        pen.bar(*legend.bar)
    _tiles(pen, report)
    for warning in report.warnings:
        pen.text(warning, 15, _GRAY)
    if legend.inset is not None:
        pen.skip(14)
        pen.text("Densest place, enlarged", 17)
        panel.paste(Image.fromarray(legend.inset), (_MARGIN, pen.y))
        pen.skip(INSET)
    height = max(picture.shape[0], pen.y + _MARGIN)
    whole = np.full((height, picture.shape[1] + WIDTH, 3), 255, np.uint8)
    whole[: picture.shape[0], : picture.shape[1]] = picture
    whole[: min(height, 4096), picture.shape[1] :] = np.asarray(panel)[:height]
    return whole


class _Pen:
    """Writes lines from top to bottom."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw, self.y = draw, _MARGIN

    def skip(self, height: int) -> None:
        """Leave space."""
        self.y += height

    def text(self, words: str, size: int, colour: RGBColour = _INK, *, left: int = _MARGIN) -> None:
        """Wrapped text; at most six lines of it."""
        font = ImageFont.load_default(size)
        lines = textwrap.wrap(words, max(8, int((WIDTH - left - _MARGIN) / (size * 0.52))))
        for line in [*lines[:5], lines[5] + " …"] if len(lines) > 6 else lines:
            self.draw.text((left, self.y), line, colour, font)
            self.y += round(size * 1.35)
        self.y += 4

    def entry(self, words: str, colour: RGBColour) -> None:
        """A colour and what it stands for."""
        self.draw.rectangle((_MARGIN, self.y + 2, _MARGIN + 20, self.y + 20), colour)
        self.text(words, 18, left=_MARGIN + 32)

    def hatch(self, words: str, colour: RGBColour) -> None:
        """A hatched swatch and what it stands for."""
        for offset in range(-20, 21, 7):
            left, right = max(0, offset), min(20, offset + 20)
            y = self.y + 2
            self.draw.line((_MARGIN + left, y + left - offset, _MARGIN + right, y + right - offset), colour, 2)
        self.draw.rectangle((_MARGIN, self.y + 2, _MARGIN + 20, self.y + 22), outline=colour)
        self.text(words, 18, left=_MARGIN + 32)

    def bar(self, name: str, top: float) -> None:
        """The colour bar from 0 to `top`."""
        ramp = np.linspace(0, 255, WIDTH - 2 * _MARGIN).astype(np.uint8)[None].repeat(20, axis=0)
        colours = cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
        self.text(name, 17)
        self.draw._image.paste(Image.fromarray(colours), (_MARGIN, self.y))
        self.y += 24
        font = ImageFont.load_default(15)
        for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
            place = (_MARGIN + share * (WIDTH - 2 * _MARGIN), self.y)
            self.draw.text(
                place, f"{share * top:,.0f}" if top >= 100 else f"{share * top:.3g}", _INK, font, anchor=anchor
            )
        self.y += 30


def _question(report: Report) -> str:
    request = report.request
    return f"{request.task}: {', '.join(request.labels) or request.prompt or ''}".rstrip(": ")


def _entries(report: Report, colours: dict[str, RGBColour]) -> list[tuple[str, RGBColour]]:
    results = report.results
    if results.task in ("detect", "point"):
        return [
            (f"{of.label}: {of.count:,}" + (f" ({of.per_mm2:,.0f} per mm2)" if of.per_mm2 else ""), colours[of.label])
            for of in results.labels  # type: ignore[union-attr]
        ]
    if results.task == "classify":
        return [(f"{of.label}: {plural(of.tiles, 'tile')}", colours[of.label]) for of in results.labels]
    return []


def _tiles(pen: _Pen, report: Report) -> None:
    counts = report.tiles.counts
    left_out = counts.skipped + counts.excluded
    pen.skip(10)
    pen.text(f"{report.tiles.total - counts.pending - left_out:,} of {report.tiles.total:,} tiles asked", 17)
    pen.text(f"{report.tiles.tissue_answered:.1%} of the tissue answered", 17)
    if counts.failed:
        pen.hatch(f"failed: {plural(counts.failed, 'tile')}", FAILED)
    if counts.pending:
        pen.hatch(f"not asked yet: {plural(counts.pending, 'tile')}", _GRAY)
    if left_out:
        pen.hatch(f"left out: {plural(left_out, 'tile')}", SKIPPED)
    pen.skip(10)


def _draw_scale_bar(picture: RGB, factor: float, report: Report) -> None:
    """A bar of a round length in the lower left corner, where the scale is known."""
    if report.slide.mpp is None:
        return
    px_per_um = factor / report.slide.mpp
    fitting = [um for um in _ROUND_UM if um * px_per_um <= picture.shape[1] / 5]
    if not fitting:
        return
    um = fitting[-1]
    words = f"{um} um" if um < 1000 else f"{um // 1000} mm"
    height, length = picture.shape[0], round(um * px_per_um)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(22)
    wide = max(length, round(draw.textlength(words, font)))
    draw.rectangle((16, height - 64, 40 + wide, height - 16), "white")
    draw.rectangle((28, height - 30, 28 + length, height - 24), _INK)
    draw.text((28, height - 60), words, _INK, font)
    picture[:] = np.asarray(image)
