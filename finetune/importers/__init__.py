"""Annotation files to labels: one reader per format, all in level-0 px."""

from finetune.importers.found import Found, FoundArea, Imported
from finetune.importers.registry import READERS, read_labels

__all__ = ["READERS", "Found", "FoundArea", "Imported", "read_labels"]
