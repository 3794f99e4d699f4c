"""From a slide, or from a run, to the table of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError
from workflows.science.cells.measure.label_image import LabelImage
from workflows.science.cells.measure.measuring import Measured, Report, measure_boxes, measure_labels
from workflows.science.cells.measure.stains import STAINS, Stains
from workflows.science.cells.table import CellTable
from workflows.science.cells.words.sentences import write_sentences
from workflows.science.cells.words.vocabulary import Vocabulary
from wsi.slide import Slide


def cells_of_labels(
    slide: Slide,
    labels: LabelImage,
    *,
    stain: str = "he",
    noun: str = "nucleus",
    vocabulary: Vocabulary | None = None,
    report: Report | None = None,
) -> CellTable:
    """Measure and describe every cell of a label image.

    Parameters
    ----------
    slide : Slide
    labels : LabelImage
        Opened for that slide.
    stain : str
        One of `STAINS`.
    noun : str
        What the sentences call a cell.
    vocabulary : Vocabulary, optional
        Of another table, so that its words mean the same here; by default made from these cells.
    report : callable, optional
        Called with cells done and cells in all.

    Raises
    ------
    CellsError
        There is no cell, the stain is unknown, or the vocabulary does not fit.
    SlideChangedError
        The slide or the label image was rewritten while it was read.
    """
    with slide.watch.held(), labels.watch.held():
        ids, boxes0, measured = measure_labels(slide, labels, _stains(stain), report)
    name = slide.path.name
    keys = [f"{name}/{each}" for each in ids[measured.row].tolist()]
    facts = _facts(slide, stain, "label image", measured) | {"labels": labels.path.name, "label_px0": labels.scale0}
    return _table(
        keys,
        boxes0,
        np.zeros(len(ids), np.int64),
        (noun,),
        np.full(len(ids), np.nan),
        measured,
        facts,
        noun,
        vocabulary,
    )


def cells_of_run(
    run: Path | str,
    slide: Slide,
    *,
    stain: str = "he",
    noun: str = "nucleus",
    vocabulary: Vocabulary | None = None,
    report: Report | None = None,
) -> CellTable:
    """Measure and describe every object of a run that has a box, outlined by threshold inside of it.

    Objects are those of the exports: merged across seams, reviews applied, under the same UUIDs. Points have no extent;
    they are counted in `facts['points']` and left out, as are boxes without a nucleus that could be outlined
    (`facts['without_outline']`).

    Raises
    ------
    CellsError
        The run is of another slide, or has no box; see `cells_of_labels` for the rest.
    """
    from workflows.export.objects import RunObjects
    from workflows.store.run_store import RunStore

    with RunStore.open(run) as store:
        facts_of = store.manifest.slide
        if facts_of.fingerprint != slide.fingerprint:
            raise CellsError(
                f"{run} is a run of {facts_of.name} ({facts_of.fingerprint[:20]}), and {slide.path.name} is another "
                "file. Name the slide of the run."
            )
        objects = RunObjects(store)
        chunks = list(objects)
        keys = [each for chunk in chunks for each in chunk.ids]
        columns = [chunk.columns for chunk in chunks]
        names, facts = (objects.labels, {"run": str(store.manifest.run_id), "model": store.manifest.model.model})
    if not columns or all(part.point.all() for part in columns):
        raise CellsError(f"{run} holds no box, and a point has no extent to measure. Run `qwenvl detect`.")
    point = np.concatenate([part.point for part in columns])
    boxes0 = np.concatenate([part.box for part in columns])[~point]
    label = np.concatenate([part.label for part in columns])[~point].astype(np.int64)
    score = np.concatenate([part.score for part in columns])[~point]
    with slide.watch.held():
        measured = measure_boxes(slide, boxes0, _stains(stain), report)
    kept = [key for key, is_point in zip(keys, point.tolist(), strict=True) if not is_point]
    facts |= _facts(slide, stain, "threshold in box", measured) | {"points": int(point.sum())}
    return _table(
        [kept[row] for row in measured.row.tolist()],
        boxes0,
        label,
        tuple(names),
        score,
        measured,
        facts,
        noun,
        vocabulary,
    )


def _stains(name: str) -> Stains:
    if name not in STAINS:
        raise CellsError(f"stain {name!r} is none of {', '.join(STAINS)}")
    return STAINS[name]


def _facts(slide: Slide, stain: str, outlines: str, measured: Measured) -> dict[str, Any]:
    scale = {}
    if slide.mpp_xy is not None and slide.mpp is not None:
        scale = {"mpp": slide.mpp, "mpp_x": slide.mpp_xy[0], "mpp_y": slide.mpp_xy[1]}
    return {
        "slide": slide.path.name,
        "slide_fingerprint": slide.fingerprint,
        "mpp_source": slide.mpp_source,
        **scale,
        "stain": stain,
        "outlines": outlines,
        "without_outline": len(measured.without),
        "darker_than_around": measured.darker,
    }


def _table(
    keys: list[str],
    boxes0: NDArray[np.float64],
    label: NDArray[np.int64],
    labels: tuple[str, ...],
    score: NDArray[np.float64],
    measured: Measured,
    facts: Mapping[str, object],
    noun: str,
    vocabulary: Vocabulary | None,
) -> CellTable:
    words = vocabulary or Vocabulary.of(measured.names, measured.values, noun=noun)
    rows = measured.row
    return CellTable(
        keys=keys,
        names=measured.names,
        values=measured.values,
        centre0=measured.centre0,
        box0=boxes0[rows],
        label=label[rows],
        labels=labels,
        score=score[rows],
        vocabulary=words,
        facts=facts,
        sentences=write_sentences(words, measured.names, measured.values),
    )
