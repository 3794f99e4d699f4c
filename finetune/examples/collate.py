"""Rows to batches: padded on the right, pictures turned into the checkpoint's own patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.examples.examples import ExamplePlan
from finetune.examples.tokens import IGNORED
from qwenvl.images.preprocess import preprocess
from qwenvl.images.processor import ProcessorSettings

KEYS = "picture_keys"
"""Entry of a batch that names its pictures for `FrozenVision`; taken out before the model is called."""
PLACES = "places"
"""Entry of a batch that says where a label may be a coordinate; taken out as well."""
SOURCES = "sources"
"""Entry of a batch that names the source of each row; taken out as well."""


@dataclass(frozen=True)
class Collator:
    """Makes the model's inputs of some plans.

    Attributes
    ----------
    processor : ProcessorSettings
    pad_token : int
    image_token : int
    sources : bool
        Whether batches name the source of each row.
    """

    processor: ProcessorSettings
    pad_token: int
    image_token: int
    sources: bool = False

    def __call__(self, plans: Sequence[ExamplePlan]) -> dict[str, object]:
        """Inputs of `model(**inputs)` with `labels`, and the pictures' keys under `KEYS`.

        `mm_token_type_ids` is given, positions are left to the model: they need it and nothing else.
        """
        longest = max(len(plan.tokens.ids) for plan in plans)
        shape = (len(plans), longest)
        ids = torch.full(shape, self.pad_token, dtype=torch.int64)
        labels = torch.full(shape, IGNORED, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.int64)
        for row, plan in enumerate(plans):
            length = len(plan.tokens.ids)
            ids[row, :length] = torch.tensor(plan.tokens.seen or plan.tokens.ids)
            labels[row, :length] = torch.tensor(plan.tokens.labels)
            mask[row, :length] = 1
        batch: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            PLACES: (labels != IGNORED) & torch.tensor([plan.turn.places for plan in plans])[:, None],
            "mm_token_type_ids": ((ids == self.image_token) & (mask == 1)).long(),
        }
        shown = [plan for plan in plans if plan.load is not None]
        if shown:
            patches = preprocess([plan.load() for plan in shown if plan.load is not None], self.processor)
            batch |= {"pixel_values": patches.pixel_values, "image_grid_thw": patches.image_grid_thw}
        batch[KEYS] = [plan.key for plan in shown]
        if self.sources:
            batch[SOURCES] = [plan.source for plan in plans]
        return batch
