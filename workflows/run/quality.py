"""Quality control before the model: which tiles are flagged, why, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from qwenvl.answer import Answer, Status
from wsi.pixels.quality import QualityReference, TileQuality, quality_reference, tile_quality
from wsi.slide import RGB, Slide
from wsi.tile import Tile
from wsi.tissue import TissueMask

REASONS = ("glass", "blur", "pen", "fold", "saturation")
"""Why a tile can be flagged: little tissue, out of focus, felt pen, folded tissue, clipped light."""
_NOTE = "quality:"
_LIMITS = {
    "glass": "least_tissue",
    "blur": "least_focus",
    "pen": "most_pen",
    "fold": "most_fold",
    "saturation": "most_saturation",
}


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QualitySettings(_Closed):
    """Thresholds of the quality control. A limit of null does not look at that measure."""

    mode: Literal["off", "mark", "skip"] = Field(
        "off",
        description="'mark' asks about flagged tiles as well and notes why they were flagged; 'skip' does not ask "
        "about them: they are excluded, which is reported and is never taken for negative tissue.",
    )
    least_tissue: float | None = Field(0.02, ge=0, le=1, description="Share of a tile's px that are stained.")
    least_focus: float | None = Field(0.37, ge=0, description="Fine over coarse detail; measured up to 0.8 um/px.")
    most_pen: float | None = Field(0.1, ge=0, le=1, description="Share of px under felt pen.")
    most_fold: float | None = Field(0.15, ge=0, le=1, description="Share of px in folds.")
    most_saturation: float | None = Field(0.2, ge=0, le=1, description="Share of the tissue that is clipped.")

    def flags(self, quality: TileQuality) -> dict[str, float]:
        """Reasons to flag a tile, each with the value that was measured."""
        limits = (
            ("glass", quality.tissue, self.least_tissue, -1),
            ("blur", quality.focus, self.least_focus, -1),
            ("pen", quality.pen, self.most_pen, 1),
            ("fold", quality.fold, self.most_fold, 1),
            ("saturation", quality.saturation, self.most_saturation, 1),
        )
        return {
            reason: value
            for reason, value, limit, sign in limits
            if limit is not None and not math.isnan(value) and sign * value > sign * limit
        }

    @classmethod
    def of_words(cls, mode: str, limits: Iterable[str] = ()) -> Self:
        """Settings in the words of the command line: a mode, and limits such as 'blur=0.4' or 'pen=off'.

        Raises
        ------
        pydantic.ValidationError
            The mode or a number is out of range, or a limit names no reason.
        """
        fields: dict[str, object] = {"mode": mode}
        for words in limits:
            reason, _, value = words.partition("=")
            fields[_LIMITS.get(reason.strip(), reason)] = None if value.strip() == "off" else value
        return cls.model_validate(fields)

    @property
    def words(self) -> tuple[str, tuple[str, ...]]:
        """Mode and limits in the words of the command line; see `of_words`."""
        values = {reason: getattr(self, field) for reason, field in _LIMITS.items()}
        return self.mode, tuple(
            f"{reason}={'off' if value is None else f'{value:g}'}" for reason, value in values.items()
        )

    @property
    def identity(self) -> str:
        """What has to be equal for two runs to be the same run: nothing where no tile is looked at."""
        return "off" if self.mode == "off" else self.model_dump_json()


class FlaggedTiles(_Closed):
    """Tiles that were flagged for one reason; a tile may have several."""

    reason: str = Field(description=f"One of {', '.join(REASONS)}.")
    tiles: int
    tissue_px0: float = Field(description="Tissue these tiles own, in level-0 px.")
    tissue_mm2: float | None = Field(description="The same in mm2; null when the scale is unknown.")


class QualityFacts(_Closed):
    """What quality control found before the model was asked."""

    settings: QualitySettings
    inspected: int = Field(description="Tiles whose pixels were looked at.")
    flagged: int = Field(description="Of these, tiles with at least one reason.")
    share: float = Field(description="Share of the tissue of the inspected tiles that lies in flagged ones.")
    reasons: tuple[FlaggedTiles, ...] = Field(description="Every reason, also those that no tile has.")


@dataclass(frozen=True)
class Inspector:
    """Looks at the tiles of one slide."""

    settings: QualitySettings
    mpp: float | None
    reference: QualityReference

    @classmethod
    def of(cls, settings: QualitySettings | None, slide: Slide, mask: TissueMask) -> Inspector | None:
        """An inspector for a slide, or None where quality control is off."""
        if settings is None or settings.mode == "off":
            return None
        return cls(settings, slide.mpp, quality_reference(slide, mask))

    def inspect(self, tile: Tile, picture: RGB) -> tuple[str, ...]:
        """The notes of a tile that is flagged, such as 'quality:blur=0.21'; none for one that is not."""
        scale = None if self.mpp is None else self.mpp * math.sqrt(tile.width0 * tile.height0 / picture.size * 3)
        found = self.settings.flags(tile_quality(picture, scale, self.reference))
        return tuple(f"{_NOTE}{reason}={value:.3g}" for reason, value in found.items())

    @property
    def skips(self) -> bool:
        """True where flagged tiles are not asked."""
        return self.settings.mode == "skip"


def excluded(notes: tuple[str, ...]) -> Answer:
    """The answer of a tile that is not asked because of its notes."""
    reasons = ", ".join(sorted(reasons_of(notes)))
    return Answer(Status.EXCLUDED, notes=notes, finish_reason="excluded", error=f"quality control: {reasons}")


def reasons_of(notes: Iterable[str]) -> set[str]:
    """Why a tile was flagged, from the notes of its answer."""
    return {note[len(_NOTE) :].partition("=")[0] for note in notes if note.startswith(_NOTE)}


def quality_facts(
    settings: QualitySettings, notes: Iterable[Iterable[str]], tissue_px0: NDArray[np.float64], mm2_per_px: float | None
) -> QualityFacts:
    """Counts and areas per reason.

    Parameters
    ----------
    notes : iterable of iterable of str
        Notes of the last answer of every tile that was inspected.
    tissue_px0 : float64 array (n,)
        Tissue that each of these tiles owns, in level-0 px.
    """
    found = [reasons_of(each) for each in notes]
    flagged = np.array([bool(each) for each in found], bool)
    rows = []
    for reason in REASONS:
        chosen = np.array([reason in each for each in found], bool)
        area = float(tissue_px0[chosen].sum())
        rows.append(
            FlaggedTiles(
                reason=reason,
                tiles=int(chosen.sum()),
                tissue_px0=area,
                tissue_mm2=None if mm2_per_px is None else area * mm2_per_px,
            )
        )
    whole = float(tissue_px0.sum())
    return QualityFacts(
        settings=settings,
        inspected=len(found),
        flagged=int(flagged.sum()),
        share=float(tissue_px0[flagged].sum()) / whole if whole else 0.0,
        reasons=tuple(rows),
    )
