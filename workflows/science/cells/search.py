"""Cells that are like a given one: by morphology, by what their sentences say, or by the vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError
from workflows.science.cells.table import CellTable
from workflows.science.cells.words.sentences import UNSAID, SentenceFacts, read_sentence

SPACES = ("morphology", "sentence", "tower")
_PART = 65_536
_UNIT = ("area", "equivalent_diameter", "perimeter", "major_axis", "minor_axis", "aspect_ratio")


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The nearest cells, nearest first.

    Attributes
    ----------
    rows : int64 array (k,)
    distances : float64 array (k,)
        morphology: root mean square of the differences in standard deviations. sentence: mean difference of the
        qualities asked for, 0 none to 1 opposite. tower: 1 - cosine.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CellSearch:
    """A table made ready for searching.

    Attributes
    ----------
    table : CellTable
    """

    table: CellTable

    @cached_property
    def morphology(self) -> NDArray[np.float32]:
        """Features in standard deviations from their mean; lengths, areas and their ratios by their logarithm."""
        values = self.table.values.astype(np.float64)
        for column, name in enumerate(self.table.names):
            if name.startswith(_UNIT):
                values[:, column] = np.log(np.maximum(values[:, column], 1e-6))
        spread = values.std(axis=0)
        return ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)

    @cached_property
    def codes(self) -> NDArray[np.int8]:
        """Word numbers of every cell."""
        return self.table.vocabulary.codes(self.table.names, self.table.values)

    @cached_property
    def _mean(self) -> NDArray[np.float32]:
        return self._vectors().mean(axis=0)

    @cached_property
    def tower(self) -> NDArray[np.float32]:
        """Embeddings around their mean, of length one: all crops are alike first of all, and differ by the rest."""
        return _directions(self._vectors() - self._mean)

    def _vectors(self) -> NDArray[np.float32]:
        if self.table.tower is None:
            raise CellsError("This table has no embeddings. Measure again with: qwenvl cells measure ... --tower")
        return self.table.tower

    def by_cell(self, row: int, k: int = 10, space: str = "morphology") -> Neighbours:
        """Cells like the one in `row`, which is left out.

        Raises
        ------
        CellsError
            There is no such space, or the table lacks it.
        """
        if space not in SPACES:
            raise CellsError(f"space {space!r} is none of {', '.join(SPACES)}")
        if space == "sentence":
            diameter = float(self.table.values[row, self.table.names.index(self.table.vocabulary.diameter)])
            far = self._unlike(SentenceFacts(tuple(self.codes[row].tolist()), diameter))
        elif space == "tower":
            far = 1 - self.tower @ self.tower[row]
        else:
            far = _root_mean_square(self.morphology, self.morphology[row])
        far = far.astype(np.float64)
        far[row] = np.inf
        return _nearest(far, min(k, len(far) - 1))

    def by_sentence(self, text: str, k: int = 10) -> Neighbours:
        """Cells that a sentence, or parts of one, describes; what it does not mention does not count.

        Raises
        ------
        CellsError
            See `read_sentence`.
        """
        return _nearest(self._unlike(read_sentence(self.table.vocabulary, text)), k)

    def by_vector(self, vector: NDArray[np.float32], k: int = 10) -> Neighbours:
        """Cells whose crops the tower sees like this one; `vector` is from `embed` with the same model.

        Raises
        ------
        CellsError
            The table has no embeddings, or of another length.
        """
        if self._vectors().shape[1:] != vector.shape:
            raise CellsError(
                f"The crop's vector has {vector.shape[-1]} numbers, the table's have {self._vectors().shape[1]}: "
                "they are of different models."
            )
        return _nearest((1 - self.tower @ _directions((vector - self._mean)[None])[0]).astype(np.float64), k)

    def _unlike(self, said: SentenceFacts) -> NDArray[np.float64]:
        """Mean difference over what was said: half per step between words, and of the diameter its ratio."""
        parts = [
            np.abs(self.codes[:, place].astype(np.float64) - code) / 2
            for place, code in enumerate(said.codes)
            if code != UNSAID
        ]
        if said.diameter:
            column = self.table.names.index(self.table.vocabulary.diameter)
            measured = np.maximum(self.table.values[:, column].astype(np.float64), 1e-6)
            parts.append(np.minimum(1, np.abs(np.log2(measured / said.diameter))))
        return np.asarray(np.mean(parts, axis=0), np.float64)


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


def _root_mean_square(table: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float64]:
    far = np.empty(len(table))
    for start in range(0, len(table), _PART):
        part = table[start : start + _PART] - one
        far[start : start + _PART] = np.sqrt(np.einsum("ij,ij->i", part, part) / part.shape[1])
    return far


def _nearest(far: NDArray[np.float64], k: int) -> Neighbours:
    k = min(k, len(far))
    some = np.argpartition(far, k - 1)[:k] if 0 < k < len(far) else np.arange(len(far))[: max(k, 0)]
    # Ties in the order of the table, so that the answer is the same every time.
    rows = some[np.lexsort((some, far[some]))]
    return Neighbours(rows.astype(np.int64), far[rows])
