"""A scene as strips of full width, and their averages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import cv2
import numpy as np

from wsi.synthetic.scene import BLOCK_PX, Scene
from wsi.synthetic.tissue.layout import SceneWindow
from wsi.synthetic.tissue.nuclei import Nuclei
from wsi.synthetic.tissue.stain import RgbImage
from wsi.synthetic.writing.truth import TruthWriter

Progress: TypeAlias = Callable[[int, int], None]


class Strips:
    """Full-width strips of level 0 from top to bottom; nuclei go to the truth as they are drawn."""

    def __init__(
        self,
        scene: Scene,
        mpp: float,
        size: tuple[int, int],
        rows: int,
        writer: TruthWriter | None,
        progress: Progress | None,
    ) -> None:
        self.mpp, self.size, self.rows, self.planted = mpp, size, rows, 0
        self._scene, self._writer, self._progress = scene, writer, progress

    def __iter__(self) -> Iterator[RgbImage]:
        width, height = self.size
        for top in range(0, height, self.rows):
            rows = min(self.rows, height - top)
            strip = np.empty((rows, width, 3), np.uint8)
            for y in range(0, rows, BLOCK_PX):
                for x in range(0, width, BLOCK_PX):
                    window = SceneWindow(x, top + y, min(BLOCK_PX, width - x), min(BLOCK_PX, rows - y), self.mpp)
                    image, nuclei = self._scene.render_block(window)
                    strip[y : y + window.height, x : x + window.width] = image
                    self._record(nuclei)
            if self._progress is not None:
                self._progress(top + rows, height)
            yield strip

    def _record(self, nuclei: Nuclei) -> None:
        self.planted += len(nuclei)
        if self._writer is not None:
            self._writer.nuclei(nuclei)


def shrink(strip: RgbImage, factor: int, columns: int) -> RgbImage:
    """Area average by a whole factor; rows and columns that fill no whole pixel are left out."""
    rows = strip.shape[0] // factor
    if factor == 1 or rows == 0:
        return strip[:rows]
    part = strip[: rows * factor, : columns * factor]
    return np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
