"""Single cells: measured, put into standard sentences, searched, and written as training samples.

Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.cells.crops import CropSize, iter_crops, read_crop
    from workflows.cells.describing import cells_of_labels, cells_of_run
    from workflows.cells.genes import RankFit, fit_ranks, gene_sentences, read_gene_sentences
    from workflows.cells.label_image import LabelImage
    from workflows.cells.samples import write_samples
    from workflows.cells.search import CellSearch, Neighbours
    from workflows.cells.sentences import read_sentence, write_sentences
    from workflows.cells.stains import STAINS, Stains
    from workflows.cells.table import CellTable, read_table
    from workflows.cells.tower import embed
    from workflows.cells.vocabulary import Quality, Vocabulary

_HOMES = {
    "crops": ("CropSize", "iter_crops", "read_crop"),
    "describing": ("cells_of_labels", "cells_of_run"),
    "genes": ("RankFit", "fit_ranks", "gene_sentences", "read_gene_sentences"),
    "label_image": ("LabelImage",),
    "samples": ("write_samples",),
    "search": ("CellSearch", "Neighbours"),
    "sentences": ("read_sentence", "write_sentences"),
    "stains": ("STAINS", "Stains"),
    "table": ("CellTable", "read_table"),
    "tower": ("embed",),
    "vocabulary": ("Quality", "Vocabulary"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "STAINS", "CellSearch", "CellTable", "CropSize", "LabelImage", "Neighbours", "Quality", "RankFit", "Stains",
    "Vocabulary", "cells_of_labels", "cells_of_run", "embed", "fit_ranks", "gene_sentences", "iter_crops",
    "read_crop", "read_gene_sentences", "read_sentence", "read_table", "write_samples", "write_sentences",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"workflows.cells.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
