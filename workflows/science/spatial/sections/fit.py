"""Do counts and slide belong together? Spots of a section lie on its tissue; those of another do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import SpatialError
from workflows.science.spatial.sections.section import Section
from wsi.slide import Slide
from wsi.tissue import TissueMask

LEAST_ON_TISSUE = 0.9
"""Share of spots that have to lie on tissue: on real sections 0.99 do, of swapped or foreign ones 0.2 to 0.85."""

COVERED = 0.5
"""Share of a spot that is tissue, from which on it lies on tissue."""

_CLEARLY = 0.05  # by how much another reading has to be better to be named
_LEAST_LIKENESS = 0.3
_SIZE_TOLERANCE = 0.02
_SIDE = 256


@dataclass(frozen=True)
class Fit:
    """How well spots lie on a slide.

    Attributes
    ----------
    on_tissue : float
        Share of spots at least half of which is tissue.
    on_slide : float
        Share of spots whose centre lies on the slide.
    likeness : float or None
        Correlation of the slide with the small picture that came with the counts; None where there is none.
    """

    on_tissue: float
    on_slide: float
    likeness: float | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return {"on_tissue": self.on_tissue, "on_slide": self.on_slide, "likeness": self.likeness}


def check_fit(section: Section, slide: Slide, mask: TissueMask | None = None) -> Fit:
    """Refuse counts and a slide that do not belong together.

    Raises
    ------
    SpatialError
        Spots fall off the slide or its tissue; the message says whether exchanging x and y would mend it. Or the
        slide has another size or look than the picture the counts were made with.
    """
    mask = TissueMask.from_slide(slide) if mask is None else mask
    size0 = slide.width, slide.height
    found = _fit(section.places0, section, mask, size0)
    if min(found.on_tissue, found.on_slide) < LEAST_ON_TISSUE:
        _explain(found, section, slide, mask)
    if section.size0 is not None:
        ratio = np.array(section.size0) / size0
        if np.abs(ratio - 1).max() > _SIZE_TOLERANCE:
            raise SpatialError(
                f"{slide.path} measures {slide.width}x{slide.height} px, and the picture that {section.name} was "
                f"measured on {section.size0[0]:.0f}x{section.size0[1]:.0f}. Image and matrix are of different "
                "sections, or the slide is not the full-resolution picture given to Space Ranger."
            )
    likeness = _likeness(section, slide)
    if likeness is not None and likeness < _LEAST_LIKENESS:
        raise SpatialError(
            f"{slide.path} does not look like {section.hires}, the picture that came with the counts of "
            f"{section.name} (correlation {likeness:.2f}). Image and matrix are of different sections."
        )
    return Fit(found.on_tissue, found.on_slide, likeness)


def _fit(places0: NDArray[np.float64], section: Section, mask: TissueMask, size0: tuple[int, int]) -> Fit:
    inside = ((places0 >= 0) & (places0 < size0)).all(axis=1)
    half = max(1.0, section.spot0 / 2)
    low = np.clip(np.floor(places0 - half), 0, np.array(size0) - 1)
    high = np.clip(np.ceil(places0 + half), low + 1, size0)
    covered = mask.coverage(np.concatenate([low, high], axis=1).astype(np.int64))
    return Fit(float((inside & (covered >= COVERED)).mean()), float(inside.mean()))


def _explain(found: Fit, section: Section, slide: Slide, mask: TissueMask) -> None:
    """Raise with the likeliest reason."""
    size0 = slide.width, slide.height
    head = (
        f"{section.name}: of {section.counts.n_obs} spots, {found.on_slide:.0%} lie on {slide.path.name} "
        f"({slide.width}x{slide.height} px) and {found.on_tissue:.0%} on its tissue."
    )
    exchanged = _fit(section.places0[:, ::-1], section, mask, size0)
    if exchanged.on_tissue >= found.on_tissue + _CLEARLY and exchanged.on_tissue >= LEAST_ON_TISSUE:
        raise SpatialError(
            f"{head} With x and y exchanged {exchanged.on_tissue:.0%} lie on tissue: the columns of the positions "
            "are swapped. Mend the table, or say --swap-xy."
        )
    largest = float(section.places0.max(initial=1.0))
    for factor in (max(size0) / largest * share for share in (1.0, 0.9, 0.8, 0.7)):
        if not 0.8 < factor < 1.25:
            scaled = _fit(section.places0 * factor, section, mask, size0)
            if scaled.on_tissue >= LEAST_ON_TISSUE:
                raise SpatialError(
                    f"{head} The positions seem to count px of a picture {1 / factor:.2f} times as large. Give the "
                    "full-resolution picture that the counts were made with."
                )
    raise SpatialError(
        f"{head} Image and matrix are of different sections, or the picture was cropped, turned or resized after "
        "the spots were placed. Give the picture that the counts were made with."
    )


def _likeness(section: Section, slide: Slide) -> float | None:
    """Correlation of brightness between the slide and the small picture; None where that shows nothing."""
    if section.hires is None:
        return None
    import cv2

    from wsi.files.image_files import read_image

    small = read_image(section.hires, cv2.IMREAD_GRAYSCALE)
    if small is None or float(small.std()) < 1:
        return None  # a placeholder, as test data has
    thumb = cv2.cvtColor(slide.thumbnail(1024), cv2.COLOR_RGB2GRAY)
    one, other = (
        cv2.GaussianBlur(cv2.resize(each, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), (0, 0), 2).ravel()
        for each in (small, thumb)
    )
    if float(one.std()) < 1 or float(other.std()) < 1:
        return None
    return float(np.corrcoef(one, other)[0, 1])
