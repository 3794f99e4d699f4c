"""Held-out tiles with what the model said before training and says now, for people to look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.metrics import iou_matrix
from qwenvl.answer import TileObject

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig

FOLDER, FILE = "before-after", "tiles.json"
_IOU = 0.5


@dataclass(frozen=True)
class HeldOutAgreement:
    """How the objects of one answer agree with the labels: of the right class, at IoU 0.5, each label once."""

    found: int
    missed: int
    invented: int


def agreement(truth: Sequence[TileObject], said: Sequence[TileObject]) -> HeldOutAgreement:
    """Count what was found, missed and invented among boxes."""
    labels = [item for item in truth if item.box is not None]
    objects = [item for item in said if item.box is not None]
    found = 0
    if labels and objects:
        overlaps = iou_matrix(np.array([o.box for o in labels]), np.array([o.box for o in objects]))
        same = np.array([[a.label == b.label for b in objects] for a in labels])
        overlaps = np.where(same, overlaps, 0.0)
        for place in np.argsort(-overlaps, axis=None):
            row, column = np.unravel_index(place, overlaps.shape)
            if overlaps[row, column] < _IOU:
                break
            found += 1
            overlaps[row, :] = 0.0
            overlaps[:, column] = 0.0
    return HeldOutAgreement(found, len(labels) - found, len(objects) - found)


def write_before_after(config: FinetuneConfig, adapter: Path, folder: Path, *, most: int = 8) -> Path | None:
    """Ask about some held-out tiles without and with an adapter, and write pixels and answers.

    Tiles are drawn by the run's seed among those that have a label: not the best ones, not the worst.

    Parameters
    ----------
    config : FinetuneConfig
    adapter : Path
    folder : Path
        Of the run; tiles go to its subfolder 'before-after'.
    most : int

    Returns
    -------
    Path or None
        The JSON file: a list of {slide, path, rect (x0, y0, x1, y1 in level-0 px), size (width, height), picture,
        truth, before, after (lists of {label, box in tile px, score}), counts}. None where nothing is held out.

    Raises
    ------
    FinetuneError, CheckpointError
    """
    from PIL import Image

    from finetune.dataset.cutting import Cutter
    from finetune.dataset.samples import Dataset
    from finetune.examples.label_source import TileReader, validation_cuts
    from finetune.methods.loading import load_base
    from finetune.train import request_of
    from qwenvl.checkpoints.adapters.adapter import AdapterSwitch
    from qwenvl.engines.local import LocalEngine

    if config.dataset is None:
        return None
    dataset = Dataset.open(config.dataset)
    if not dataset.of_split("validation"):
        return None
    names = config.labels or dataset.names
    cutter = Cutter(dataset, config.tile, names)
    cuts = [
        cut
        for cut in validation_cuts(cutter, "validation", most=config.evaluate.tiles, seed=config.seed)
        if cut.objects
    ]
    if not cuts:
        return None
    order = np.random.default_rng(config.seed).permutation(len(cuts))[:most]
    cuts = [cuts[i] for i in sorted(order.tolist())]
    reader, request = TileReader(dataset, config.images), request_of(config, names)
    pictures = [reader.read(cut.slide, cut.tile) for cut in cuts]
    # Users load the adapter on 16-bit weights, as it was measured.
    switch = AdapterSwitch(load_base(config.model_copy(update={"quantise": "none"})))
    before = LocalEngine(switch.use(None)).answer(pictures, request)
    after = LocalEngine(switch.use(adapter)).answer(pictures, request)
    switch.use(None)
    partial = folder / f"{FOLDER}.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, (cut, pixels, was, now) in enumerate(zip(cuts, pictures, before, after, strict=True)):
        name = f"tile-{number:02}.png"
        Image.fromarray(pixels).save(partial / name)
        tile = cut.tile
        truth = tuple(item for item in cut.objects if item.label in names)
        rows.append(
            {
                "slide": cut.slide,
                "path": str(dataset.find(dataset.slide(cut.slide), config.images).absolute()),
                "rect": [tile.x0, tile.y0, tile.x0 + tile.width0, tile.y0 + tile.height0],
                "size": [tile.width, tile.height],
                "picture": name,
                "truth": _plain(truth),
                "before": _plain(was.objects),
                "after": _plain(now.objects),
                "status": {"before": was.status.value, "after": now.status.value},
                "counts": {
                    "before": asdict(agreement(truth, was.objects)),
                    "after": asdict(agreement(truth, now.objects)),
                },
            }
        )
    (partial / FILE).write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    target = folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target / FILE


def _plain(objects: Sequence[TileObject]) -> list[dict[str, object]]:
    return [
        {
            "label": item.label,
            "box": None if item.box is None else [round(float(v), 2) for v in item.box],
            "point": None if item.point is None else [round(float(v), 2) for v in item.point],
            "score": None if item.score is None else round(float(item.score), 4),
        }
        for item in objects
    ]


__all__ = ["FILE", "FOLDER", "HeldOutAgreement", "agreement", "write_before_after"]
