"""Measuring by generation, through the same engine that answers for users: the model without and with its adapter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from finetune.dataset.cutting import LabelledCut
from finetune.dataset.samples import Dataset
from finetune.evaluation.metrics import Judged, Score, score_answers
from finetune.examples.label_source import TileReader
from finetune.methods.frozen_vision import FrozenVision
from qwenvl.answer import TileObject
from qwenvl.checkpoints.loading import Checkpoint
from qwenvl.decoding.cpu_decoder import LARGEST
from qwenvl.decoding.onednn_linear import unpack_linears
from qwenvl.engines.base import Engine
from qwenvl.engines.local import LocalEngine
from qwenvl.engines.questions import answer_each
from qwenvl.request import Request, Task
from wsi.cleanup import cleaning_up


class Measuring(Protocol):
    """What an engine is measured by."""

    def score(self, engine: Engine) -> Score:
        """Ask and score the answers."""
        ...


@dataclass(frozen=True)
class Exam:
    """Tiles with known labels and the question that is asked about them."""

    cuts: tuple[LabelledCut, ...]
    reader: TileReader
    request: Request
    radius_um: float = 6.0

    def score(self, engine: Engine) -> Score:
        """Ask about every tile and score the answers."""
        pictures = (self.reader.read(cut.slide, cut.tile) for cut in self.cuts)
        judged = [
            Judged(cut.slide, self._truth(cut), answer, scale_of(self.reader.dataset, cut))
            for cut, answer in zip(self.cuts, answer_each(engine, pictures, self.request), strict=True)
        ]
        return score_answers(judged, self.request.labels, radius_um=self.radius_um)

    def _truth(self, cut: LabelledCut) -> tuple[TileObject, ...]:
        kept = tuple(item for item in cut.objects if item.label in self.request.labels)
        if self.request.task is not Task.POINT:
            return kept
        return tuple(item if item.box is None else replace(item, box=None, point=_centre(item.box)) for item in kept)


def scale_of(dataset: Dataset, cut: LabelledCut) -> float | None:
    """um per px of a cut's picture, where its slide states a scale."""
    mpp = dataset.slide(cut.slide).mpp
    return None if mpp is None else mpp * cut.tile.width0 / cut.tile.width


def _centre(box: tuple[float, float, float, float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


_COLUMNS = ("f1", "f1@0.3", "precision", "recall", "ap", "point_f1", "count_error", "parse_rate", "duplicate_rate")
_TEXT_COLUMNS = ("exact", "token_f1", "rouge_l", "parse_rate", "schema_rate", "field_accuracy", "auroc")


@contextmanager
def engine_of(checkpoint: Checkpoint, model: Any, vision: FrozenVision | None) -> Any:
    """An engine for a model in training, with the adapter as it is now.

    A small model on a CPU is copied and its adapter merged, which makes answers several times as quick; a larger one
    answers as it is.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    training = model.training
    state = torch.random.get_rng_state()
    small = checkpoint.device.type == "cpu" and weights <= LARGEST and checkpoint.info.dtype != "nf4"
    with cleaning_up(
        lambda: unpack_linears(model),  # packed weights are for inference, and cannot be copied
        lambda: torch.random.set_rng_state(state),
        lambda: model.train(training),
    ):
        if small:
            if vision is not None:
                vision.pause()
            with cleaning_up(*([] if vision is None else [vision.go_on])):
                plain = copy.deepcopy(model).merge_and_unload()
        else:
            plain = model.base_model.model
        plain.eval()
        if small:
            plain.requires_grad_(False)
        yield LocalEngine(replace(checkpoint, model=plain))


def table(rows: Sequence[tuple[str, Score | None]]) -> str:
    """Scores side by side, as lines of text."""
    written = any(score is not None and score.metric != "f1" for _, score in rows)
    names = _TEXT_COLUMNS if written else _COLUMNS
    lines = [f"{'':12}" + "".join(f"{name:>15}" for name in names)]
    for title, score in rows:
        if score is not None:
            cells = "".join(f"{score.values.get(name, float('nan')):15.3f}" for name in names)
            low, high = score.interval
            what = "conversations" if written else "tiles"
            lines.append(f"{title:12}{cells}   {score.metric} in [{low:.3f}, {high:.3f}], {score.tiles} {what}")
    return "\n".join(lines)
