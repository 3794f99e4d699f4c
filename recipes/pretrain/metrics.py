"""Agreement of boxes with known truth: greedy matching, F1, class accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.evaluation.metrics import Boxes, iou_matrix


def match(predicted: Boxes, truth: Boxes, threshold: float = 0.5) -> list[tuple[int, int]]:
    """Pairs (predicted, true) of boxes, best overlap first, each box once."""
    overlap = iou_matrix(predicted, truth)
    pairs = []
    while overlap.size and overlap.max() >= threshold:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((int(i), int(j)))
        overlap[i] = -1
        overlap[:, j] = -1
    return pairs


@dataclass
class BoxTally:
    """Counts over many pictures."""

    hits: int = 0
    predicted: int = 0
    true: int = 0
    same_class: int = 0
    classed: int = 0

    def add(
        self, boxes: Boxes, truth: Boxes, labels: list[str] | None = None, names: list[str] | None = None
    ) -> list[tuple[int, int]]:
        """Count one picture and give its pairs; with `labels` and `names`, their classes are compared too."""
        pairs = match(boxes, truth)
        self.hits += len(pairs)
        self.predicted += len(boxes)
        self.true += len(truth)
        if labels is not None and names is not None:
            self.same_class += sum(labels[i] == names[j] for i, j in pairs)
            self.classed += len(pairs)
        return pairs

    @property
    def f1(self) -> float:
        """F1 at the matching threshold; 1 when there was nothing to find and nothing was found."""
        return 2 * self.hits / (self.predicted + self.true) if self.predicted + self.true else 1.0

    @property
    def class_accuracy(self) -> float:
        """Share of matched boxes with the right class."""
        return self.same_class / self.classed if self.classed else 1.0
