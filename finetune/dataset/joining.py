"""Several datasets as one: reviews of runs, drawn layers and annotation files of the same or of other slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune.dataset.samples import Area, Dataset, Label, SlideEntry
from finetune.errors import DatasetError


def join_datasets(name: str, datasets: Sequence[Dataset]) -> Dataset:
    """One dataset of the slides of all; labels of a slide that is in several are put together.

    An area of one dataset says that everything is labelled in it, of the classes of all: whoever joins labels of
    different classes sees to that. A label that is there twice is kept once. Splits are forgotten.

    Raises
    ------
    DatasetError
        There is none, or a slide's file has changed between them.
    """
    if not datasets:
        raise DatasetError(f"dataset {name}: there is nothing to join; add labels of at least one slide")
    slides: dict[str, SlideEntry] = {}
    labels: dict[tuple[object, ...], Label] = {}
    areas: dict[tuple[object, ...], Area] = {}
    names: dict[str, None] = {}
    for dataset in datasets:
        names |= dict.fromkeys(dataset.names)
        ids = {entry.id: _place(slides, entry) for entry in dataset.slides}
        for label in dataset.labels:
            own = replace(label, slide=ids[label.slide])
            labels.setdefault((own.slide, own.name, own.box), own)
        for area in dataset.areas:
            moved = replace(area, slide=ids[area.slide])
            areas.setdefault((moved.slide, moved.ring, moved.names), moved)
    return Dataset(
        name,
        tuple(names),
        tuple(slides.values()),
        tuple(labels.values()),
        tuple(areas.values()),
        sources=tuple(source for dataset in datasets for source in dataset.sources),
        refused=tuple(text for dataset in datasets for text in dataset.refused),
        notes=tuple(text for dataset in datasets for text in dataset.notes),
    )


def _place(slides: dict[str, SlideEntry], entry: SlideEntry) -> str:
    """The id of a slide among those that are there; new where its file is another one."""
    for known in slides.values():
        if known.path == entry.path:
            if known.fingerprint != entry.fingerprint:
                raise DatasetError(
                    f"{entry.path}: its content changed while labels were read; bring the file that was labelled back"
                )
            if known.mpp is None and entry.mpp is not None:
                slides[known.id] = replace(known, mpp=entry.mpp)
            return known.id
    chosen = entry.id
    if chosen in slides:
        chosen = f"{Path(entry.path).parent.name}/{entry.id}"
    if chosen in slides:
        raise DatasetError(f"two slides are called {chosen}; rename one of the files")
    slides[chosen] = replace(entry, id=chosen, patient=chosen, split="")
    return chosen


__all__ = ["join_datasets"]
