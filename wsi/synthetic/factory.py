"""Demonstration slides and series of slides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi.synthetic.scene import Scene
from wsi.synthetic.tissue.layout import ARTEFACTS
from wsi.synthetic.tissue.stain import Scanner
from wsi.synthetic.writing.write import WrittenSlide, write_slide


@dataclass(frozen=True)
class SlideFactory:
    """Makes slides that differ only by their seed.

    Attributes
    ----------
    width_px, height_px : int
        Size at level 0.
    mpp : float
        um per px.
    scanner : Scanner, optional
        One scanner for all slides; each slide draws its own when left out.
    artefacts : tuple of str
        Which of `ARTEFACTS` every slide has.
    """

    width_px: int = 4096
    height_px: int = 4096
    mpp: float = 0.25
    scanner: Scanner | None = None
    artefacts: tuple[str, ...] = ARTEFACTS

    def scene(self, seed: int) -> Scene:
        """The scene of one slide."""
        size = self.width_px * self.mpp, self.height_px * self.mpp
        return Scene(*size, seed, self.scanner, self.artefacts)

    def write(self, path: str | Path, seed: int, **options: Any) -> WrittenSlide:
        """Write one slide; options are those of `write_slide`."""
        return write_slide(path, self.scene(seed), mpp=self.mpp, **options)


def make_demo_slide(path: str | Path, seed: int = 7, *, overwrite: bool = False) -> WrittenSlide:
    """Write the slide of the demonstration: 4096 x 4096 px at 0.25 um, truth beside it.

    It has glass, stroma, a tumour with necrosis, lymphoid aggregates, glands, fat, a pen mark and a fold.
    """
    factory = SlideFactory(scanner=Scanner(), artefacts=("fold", "pen mark"))
    return factory.write(path, seed, overwrite=overwrite)
