"""The words of a cell's sentence, and the numbers at which one word ends and the next begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError


@dataclass(frozen=True, slots=True)
class Quality:
    """One thing that is said of a cell: three words, and two cuts of one measured feature.

    Attributes
    ----------
    name : str
        'size', 'shape', 'outline', 'stain', 'texture'.
    feature : str
        Column it is read from.
    words : (str, str, str)
        Below the first cut, between the two, from the second on.
    cuts : (float, float)
    relative : bool
        The cuts are thirds of the cells of a table, and the word says how a cell is among them.
    """

    name: str
    feature: str
    words: tuple[str, str, str]
    cuts: tuple[float, float]
    relative: bool

    def codes(self, values: NDArray[np.floating]) -> NDArray[np.int8]:
        """0, 1 or 2 per value."""
        return np.searchsorted(self.cuts, values, side="right").astype(np.int8)


_SIZE = ("small", "medium-sized", "large")
_SIZE_CUTS_UM = (7.0, 10.0)
_SHAPE = Quality("shape", "aspect_ratio", ("round", "oval", "elongated"), (1.3, 2.0), False)
_OUTLINE = Quality("outline", "solidity", ("irregular", "uneven", "smooth"), (0.88, 0.94), False)
_STAIN = ("pale", "medium", "dark")
_TEXTURE = ("even", "mottled", "coarse")


@dataclass(frozen=True)
class Vocabulary:
    """All qualities, in the order of the sentence.

    Attributes
    ----------
    noun : str
        What a cell is called.
    diameter : str
        Column that is stated as a number, and `unit` its unit.
    qualities : tuple of Quality
    """

    noun: str
    diameter: str
    unit: str
    qualities: tuple[Quality, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], values: NDArray[np.floating], *, noun: str = "nucleus") -> Self:
        """The vocabulary of a table of measured cells.

        Size has fixed cuts where the scale is known (a resting lymphocyte's nucleus is about 7 um across), shape and
        outline always. Stain and texture depend on laboratory and scanner: their cuts are the thirds of this table.
        So is size where the scale is unknown.

        Parameters
        ----------
        names : tuple of str
            Columns of `values`, from `feature_names`.
        values : float array (n, len(names))
        noun : str

        Raises
        ------
        CellsError
            There is no cell, or the noun is no word.
        """
        if not len(values):
            raise CellsError("There is no cell to describe: nothing was measured.")
        if not noun or any(mark in noun for mark in ",.\n"):
            raise CellsError(f"The noun {noun!r} does not fit a sentence: no commas, full stops or lines.")
        unit = "um" if "area_um2" in names else "px"
        diameter = f"equivalent_diameter_{unit}"
        dye = names[names.index("solidity") + 1]

        def thirds(feature: str) -> tuple[float, float]:
            low, high = np.quantile(values[:, names.index(feature)], [1 / 3, 2 / 3])
            return float(low), float(high)

        size = (
            Quality("size", diameter, _SIZE, _SIZE_CUTS_UM, False)
            if unit == "um"
            else Quality("size", diameter, _SIZE, thirds(diameter), True)
        )
        return cls(
            noun,
            diameter,
            unit,
            (
                size,
                _SHAPE,
                _OUTLINE,
                Quality("stain", dye, _STAIN, thirds(dye), True),
                Quality("texture", "texture_contrast", _TEXTURE, thirds("texture_contrast"), True),
            ),
        )

    def __getitem__(self, name: str) -> Quality:
        return next(quality for quality in self.qualities if quality.name == name)

    def codes(self, names: tuple[str, ...], values: NDArray[np.floating]) -> NDArray[np.int8]:
        """Word numbers, int8 (n, qualities).

        Raises
        ------
        CellsError
            The table lacks a column that these words are read from: another stain, or another unit.
        """
        missing = sorted({quality.feature for quality in self.qualities} - set(names))
        if missing:
            raise CellsError(
                f"The words need {', '.join(missing)}, and the table has {', '.join(names)}: another stain, or a slide "
                "whose scale is known beside one whose scale is not."
            )
        columns = [quality.codes(values[:, names.index(quality.feature)]) for quality in self.qualities]
        return np.stack(columns, axis=1)

    def to_json(self) -> str:
        """All of it as JSON; `from_json` reads it back."""
        return json.dumps(
            {
                "noun": self.noun,
                "diameter": self.diameter,
                "unit": self.unit,
                "qualities": [
                    {
                        "name": each.name,
                        "feature": each.feature,
                        "words": each.words,
                        "cuts": each.cuts,
                        "relative": each.relative,
                    }
                    for each in self.qualities
                ],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        facts: Mapping[str, Any] = json.loads(text)
        qualities = tuple(
            Quality(each["name"], each["feature"], tuple(each["words"]), tuple(each["cuts"]), each["relative"])
            for each in facts["qualities"]
        )
        return cls(facts["noun"], facts["diameter"], facts["unit"], qualities)
