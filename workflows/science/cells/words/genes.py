"""Cells as sentences of gene names, most expressed first, and back (Levine et al., Cell2Sentence, 2024).

A cell's expressed genes are written in falling order of expression. The order alone tells the expression well, because
log expression falls nearly linearly with the logarithm of the rank; that line is fitted on the matrix the sentences
come from, and turns ranks into expression again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError

TARGET = 10_000.0
"""Counts per cell after normalising, as in the paper."""


@dataclass(frozen=True, slots=True)
class RankFit:
    """log10(1 + expression) = intercept + slope * log10(rank), over all expressed genes of all cells.

    Attributes
    ----------
    slope, intercept : float
    r2 : float
        Share of the variance that the line explains.
    cells : int
    """

    slope: float
    intercept: float
    r2: float
    cells: int

    def expression(self, rank: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected log10(1 + expression) at ranks counted from 1, never negative."""
        return np.maximum(0.0, self.intercept + self.slope * np.log10(rank))


@dataclass(frozen=True, slots=True, eq=False)
class ReadBack:
    """What sentences of genes say.

    Attributes
    ----------
    values : float32 array (cells, genes)
        Expected log10(1 + expression); 0 where a gene is not named.
    unknown : tuple of str
        Names that are no genes of the matrix, most frequent first.
    unknown_words, repeated_words : int
        Words that were left out: no gene, or named again.
    """

    values: NDArray[np.float32]
    unknown: tuple[str, ...]
    unknown_words: int
    repeated_words: int


def normalised(matrix: object) -> Any:
    """log10(1 + counts per 10,000), as a CSR matrix.

    Parameters
    ----------
    matrix : array or scipy sparse matrix (cells, genes)
        Raw counts.

    Raises
    ------
    CellsError
        Values are negative, not finite, or no whole numbers: already normalised.
    """
    from scipy.sparse import csr_matrix

    counts = csr_matrix(matrix, dtype=np.float64)
    values = counts.data
    if len(values) and (not np.isfinite(values).all() or values.min() < 0):
        raise CellsError("The expression matrix holds negative numbers, NaN or infinity; give raw counts.")
    if len(values) and (values[: 1 << 20] % 1).any():
        raise CellsError("The expression matrix holds fractions: it is normalised already. Give raw counts.")
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(TARGET, totals, out=np.zeros_like(totals), where=totals > 0)
    counts.data = np.log10(1 + values * np.repeat(scale, np.diff(counts.indptr)))
    counts.eliminate_zeros()
    return counts


def gene_sentences(matrix: Any, genes: Sequence[str], *, top: int = 100) -> list[str]:
    """A sentence per cell: names of its `top` most expressed genes, apart by spaces; ties in the matrix's order.

    Parameters
    ----------
    matrix : array or scipy sparse matrix (cells, genes)
        Raw counts.
    genes : sequence of str
    top : int

    Returns
    -------
    list of str
        '' for a cell that expresses nothing.

    Raises
    ------
    CellsError
        See `normalised`; or names repeat, hold spaces, or do not fit the matrix.
    """
    names = _checked(genes, np.shape(matrix)[1])
    if top < 1:
        raise CellsError(f"top is {top}; a sentence has at least one gene")
    return [" ".join(names[columns[:top]]) for columns, _ in _ranked(normalised(matrix))]


def fit_ranks(matrix: object) -> RankFit:
    """The line from rank to expression.

    Raises
    ------
    CellsError
        See `normalised`; or fewer than two different ranks are expressed.
    """
    ranks, values, cells = [], [], 0
    for columns, expressed in _ranked(normalised(matrix)):
        if len(columns):
            ranks.append(np.log10(np.arange(1, len(columns) + 1)))
            values.append(expressed)
            cells += 1
    x = np.concatenate(ranks) if ranks else np.zeros(0)
    y = np.concatenate(values) if values else np.zeros(0)
    if not len(x) or x.max() == x.min():
        raise CellsError("No cell expresses two genes or more: there are no ranks to fit.")
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - intercept - slope * x
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float((rest**2).sum()) / total if total > 0 else 1.0
    return RankFit(float(slope), float(intercept), r2, cells)


def read_gene_sentences(sentences: Sequence[str], genes: Sequence[str], fit: RankFit) -> ReadBack:
    """Expression of every gene from sentences, by the rank each is named at; a repeated name counts once, at first.

    Raises
    ------
    CellsError
        Names repeat or hold spaces; or no word at all is a gene, with the nearest names.
    """
    names = _checked(genes, len(genes))
    column = {name: at for at, name in enumerate(names.tolist())}
    values = np.zeros((len(sentences), len(names)), np.float32)
    strange: dict[str, int] = {}
    repeated = known = 0
    for row, sentence in enumerate(sentences):
        found: dict[int, None] = {}
        for word in sentence.split():
            at = column.get(word)
            if at is None:
                strange[word] = strange.get(word, 0) + 1
            elif at in found:
                repeated += 1
            else:
                found[at] = None
        if found:
            known += len(found)
            values[row, list(found)] = fit.expression(np.arange(1, len(found) + 1, dtype=np.float64))
    unknown = tuple(sorted(strange, key=lambda word: (-strange[word], word)))
    if unknown and not known:
        near = difflib.get_close_matches(unknown[0], names.tolist(), n=3, cutoff=0.4)
        hint = f" The nearest to {unknown[0]!r}: {', '.join(near)}." if near else ""
        raise CellsError(f"None of the {len(unknown)} words is a gene of the matrix.{hint}")
    return ReadBack(values, unknown, sum(strange.values()), repeated)


def _ranked(matrix: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Columns and values of every row, highest value first."""
    matrix.sort_indices()
    for start, end in zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist(), strict=True):
        values = matrix.data[start:end]
        order = np.argsort(-values, kind="stable")
        yield matrix.indices[start:end][order].astype(np.int64), values[order]


def _checked(genes: Sequence[str], columns: int) -> NDArray[Any]:
    names = np.array([str(gene) for gene in genes], dtype=object)
    if len(names) != columns:
        raise CellsError(f"The matrix has {columns} columns and {len(names)} gene names.")
    spaced = [name for name in names if not name or len(name.split()) != 1]
    if spaced:
        raise CellsError(f"A gene's name is one word, and {spaced[0]!r} is not.")
    if len(set(names.tolist())) < len(names):
        raise CellsError("Gene names repeat. Make them unique first: adata.var_names_make_unique()")
    return names
