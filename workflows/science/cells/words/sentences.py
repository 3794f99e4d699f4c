"""Short standard sentences of cells, and what can be read back from a sentence.

    Large, oval nucleus, 11.2 um across, smooth outline, dark stain, coarse texture.

Every sentence has the same form, so that it can be learned, compared word by word, and searched for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError
from workflows.science.cells.words.vocabulary import Vocabulary

UNSAID = -1
_ACROSS = re.compile(r"(\d+(?:\.\d+)?) (um|µm|μm|px) across")
_ENDS = {"outline": " outline", "stain": " stain", "texture": " texture"}


@dataclass(frozen=True, slots=True)
class SentenceFacts:
    """What a sentence says.

    Attributes
    ----------
    codes : tuple of int
        Word number of each quality, `UNSAID` where it is not mentioned.
    diameter : float or None
        The number before 'across', in the vocabulary's unit.
    """

    codes: tuple[int, ...]
    diameter: float | None


def write_sentences(vocabulary: Vocabulary, names: tuple[str, ...], values: NDArray[np.floating]) -> list[str]:
    """One sentence per row of a table.

    Parameters
    ----------
    vocabulary : Vocabulary
    names : tuple of str
    values : float array (n, len(names))
    """
    codes = vocabulary.codes(names, values)
    number = codes.astype(np.int64) @ (3 ** np.arange(codes.shape[1]))
    kinds, kind = np.unique(number, return_inverse=True)
    forms = [_form(vocabulary, [int(each) // 3**place % 3 for place in range(codes.shape[1])]) for each in kinds]
    diameters = values[:, names.index(vocabulary.diameter)].tolist()
    digits = 1 if vocabulary.unit == "um" else 0
    return [forms[k] % f"{d:.{digits}f}" for k, d in zip(kind.tolist(), diameters, strict=True)]


def _form(vocabulary: Vocabulary, codes: list[int]) -> str:
    said = {quality.name: quality.words[code] for quality, code in zip(vocabulary.qualities, codes, strict=True)}
    noun = vocabulary.noun.replace("%", "%%")
    relative = " for this image" if vocabulary["size"].relative else ""
    return (
        f"{said['size'].capitalize()}{relative}, {said['shape']} {noun}, %s {vocabulary.unit} across, "
        f"{said['outline']} outline, {said['stain']} stain, {said['texture']} texture."
    )


def read_sentence(vocabulary: Vocabulary, text: str) -> SentenceFacts:
    """What a sentence says in the words of a vocabulary; parts of the standard sentence will do ('dark stain, round').

    Raises
    ------
    CellsError
        It says nothing in these words, two things of one quality, or a size in another unit.
    """
    words = re.sub(r"[,.;]", " ", text.lower())
    codes = []
    for quality in vocabulary.qualities:
        end = _ENDS.get(quality.name, "")
        found = {
            code
            for code, word in enumerate(quality.words)
            if re.search(rf"(?<![\w-]){re.escape(word + end)}(?![\w-])", words)
        }
        if len(found) > 1:
            raise CellsError(
                f"{text!r} says two things about {quality.name}: {', '.join(quality.words[c] for c in found)}."
            )
        codes.append(found.pop() if found else UNSAID)
    across = _ACROSS.search(text)
    diameter = None
    if across is not None:
        unit = "px" if across[2] == "px" else "um"
        if unit != vocabulary.unit:
            raise CellsError(f"{text!r} gives a size in {unit}, and these cells are measured in {vocabulary.unit}.")
        diameter = float(across[1])
    if diameter is None and set(codes) == {UNSAID}:
        raise CellsError(f"{text!r} says nothing in the words of this table. They are: {describe(vocabulary)}.")
    return SentenceFacts(tuple(codes), diameter)


def describe(vocabulary: Vocabulary) -> str:
    """All words, for messages and docs: 'small, medium-sized, large; round, ...'."""
    return "; ".join(
        ", ".join(word + _ENDS.get(quality.name, "") for word in quality.words) for quality in vocabulary.qualities
    )
