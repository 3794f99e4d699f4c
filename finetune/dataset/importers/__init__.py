"""Annotation files to labels: one reader per format, all in level-0 px."""

from finetune.dataset.importers.found import FoundArea, FoundLabels, Imported
from finetune.dataset.importers.registry import READERS, read_labels

__all__ = ["READERS", "FoundLabels", "FoundArea", "Imported", "read_labels"]
