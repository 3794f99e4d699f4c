"""A list of sections: what belongs together, who the patient is, and which side of the split it is on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workflows.errors import SpatialError
from workflows.science.spatial.sections.fit import COVERED, Fit, check_fit
from workflows.science.spatial.sections.genes import without_empty
from workflows.science.spatial.sections.reading import read_section
from workflows.science.spatial.sections.section import LATTICE, PLACES, Section
from workflows.science.spatial.sections.st import SPOT_SHARE
from workflows.science.spatial.sections.visium import VISIUM_PITCH_UM
from workflows.store.provenance import plain_json
from wsi.cleanup import cleaning_up
from wsi.slide import Slide
from wsi.tissue import TissueMask

TRAIN, HELD_OUT = "train", "held_out"
_COLUMNS = ("counts", "image", "name", "spots", "patient", "split", "pitch_um", "swap_xy")


@dataclass(frozen=True)
class SectionEntry:
    """One section as a user names it.

    Attributes
    ----------
    counts : Path or None
        See `read_section`. None for a slide without counts: places are laid over its tissue, `pitch_um` apart.
    image : Path
        The slide that the places were measured on.
    spots : Path, optional
        Table of places, for the ST form.
    patient : str
        Sections of one patient belong on one side of a split; '' where it is not told.
    split : str
        'train' or 'held_out'.
    """

    counts: Path | None
    image: Path
    name: str | None = None
    spots: Path | None = None
    patient: str = ""
    split: Literal["train", "held_out"] = "train"
    pitch_um: float | None = None
    bin_um: int = 16
    swap_xy: bool = False
    slide_mpp: float | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON values, from which `of_facts` makes it again."""
        return plain_json({**asdict(self), **{k: _absolute(getattr(self, k)) for k in ("counts", "image", "spots")}})

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> SectionEntry:
        """The entry that `facts` describes."""
        paths = {k: None if facts[k] is None else Path(facts[k]) for k in ("counts", "image", "spots")}
        return cls(**{**facts, **paths})


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


@dataclass(frozen=True, eq=False)
class OpenedSection:
    """A section, its slide and the tissue on it, checked against each other."""

    entry: SectionEntry
    section: Section
    slide: Slide
    mask: TissueMask
    fit: Fit


@contextmanager
def opened(entry: SectionEntry) -> Iterator[OpenedSection]:
    """Read a section, open its slide and check that they belong together.

    The slide's scale is that of its file; where the file has none, that of the section.

    Raises
    ------
    SpatialError, SlideError
    SlideChangedError
        The slide was rewritten while the section was open.
    """
    from wsi import open_slide

    section = None
    if entry.counts is not None:
        section = read_section(
            entry.counts, name=entry.name, spots=entry.spots, pitch_um=entry.pitch_um, bin_um=entry.bin_um
        )
        section = without_empty(section.swapped() if entry.swap_xy else section)
    slide = open_slide(entry.image, mpp=entry.slide_mpp)
    if slide.mpp is None and section is not None and section.um_per_px is not None:
        slide.close()
        slide = open_slide(entry.image, mpp=section.um_per_px)
    with cleaning_up(slide.close), slide.watch.held():
        mask = TissueMask.from_slide(slide)
        if section is None:
            section = lay_places(slide, mask, entry.pitch_um or VISIUM_PITCH_UM, entry.name)
            fit = Fit(1.0, 1.0)
        else:
            fit = check_fit(section, slide, mask)
        yield OpenedSection(entry, section, slide, mask, fit)


def lay_places(slide: Slide, mask: TissueMask, pitch_um: float, name: str | None = None) -> Section:
    """Places on the tissue of a slide without counts, in the hexagonal lattice of Visium.

    Raises
    ------
    UnknownMppError
        The slide does not state its scale.
    SpatialError
        Fewer than three places lie on tissue.
    """
    import pandas as pd
    import scipy.sparse
    from anndata import AnnData

    pitch0 = pitch_um / slide.require_mpp()
    spot0 = pitch0 * SPOT_SHARE
    rows = np.arange(pitch0 / 2, slide.height, pitch0 * np.sqrt(3) / 2)
    columns = np.arange(pitch0 / 2, slide.width, pitch0 / 2)
    array = np.array([(c, r) for r in range(len(rows)) for c in range(r % 2, len(columns), 2)], np.int64).reshape(-1, 2)
    places0 = np.column_stack([columns[array[:, 0]], rows[array[:, 1]]])
    low = np.floor(np.maximum(places0 - spot0 / 2, 0))
    high = np.minimum(np.ceil(places0 + spot0 / 2), (slide.width, slide.height))
    kept = mask.coverage(np.concatenate([low, high], axis=1).astype(np.int64)) >= COVERED
    if int(kept.sum()) < 3:
        raise SpatialError(
            f"{slide.path.name} holds {int(kept.sum())} places of {pitch_um:g} um on tissue; take fewer um."
        )
    array, places0 = array[kept], places0[kept]
    obs = pd.DataFrame(
        {"array_row": array[:, 1], "array_col": array[:, 0]}, index=[f"{c}x{r}" for c, r in array.tolist()]
    )
    counts = AnnData(scipy.sparse.csr_matrix((len(array), 0), dtype=np.float32), obs=obs)
    counts.obsm[PLACES] = places0
    words = f"places laid {pitch_um:g} um apart"
    return Section(
        name or slide.path.stem, counts, LATTICE, slide.path, spot0, pitch0, um_per_px=slide.mpp, um_source=words
    )


def read_sections(path: Path) -> tuple[SectionEntry, ...]:
    """Read a CSV with the columns counts and image, and perhaps name, spots, patient, split, pitch_um, swap_xy.

    Paths are relative to the file.

    Raises
    ------
    SpatialError
        A column is missing or unknown, or a value is none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise SpatialError(f"{path} cannot be read as CSV: {error}") from error
    unknown = [column for column in columns if column not in _COLUMNS]
    missing = [column for column in _COLUMNS[:2] if column not in columns]
    if unknown or missing or not rows:
        raise SpatialError(
            f"{path} needs the columns {', '.join(_COLUMNS[:2])} and a row per section, and may have "
            f"{', '.join(_COLUMNS[2:])}; it has {', '.join(columns) or 'none'} and {len(rows)} rows."
        )
    return tuple(_entry(row, path, number) for number, row in enumerate(rows, start=2))


def _entry(row: dict[str, str | None], path: Path, line: int) -> SectionEntry:
    given = {key: (value or "").strip() for key, value in row.items() if key is not None}

    def value(key: str) -> str:
        return given.get(key, "")

    split = value("split") or TRAIN
    if split not in (TRAIN, HELD_OUT):
        raise SpatialError(f"{path} line {line}: split {split!r} is neither {TRAIN!r} nor {HELD_OUT!r}.")
    if not value("counts") or not value("image"):
        raise SpatialError(f"{path} line {line}: counts and image need a path.")
    try:
        pitch = float(value("pitch_um")) if value("pitch_um") else None
    except ValueError:
        raise SpatialError(f"{path} line {line}: pitch_um {value('pitch_um')!r} is no number.") from None
    swap = value("swap_xy").lower()
    if swap not in ("", "yes", "no", "true", "false", "1", "0"):
        raise SpatialError(f"{path} line {line}: swap_xy {swap!r} is neither yes nor no.")
    return SectionEntry(
        counts=path.parent / value("counts"),
        image=path.parent / value("image"),
        name=value("name") or None,
        spots=path.parent / value("spots") if value("spots") else None,
        patient=value("patient"),
        split="train" if split == TRAIN else "held_out",
        pitch_um=pitch,
        swap_xy=swap in ("yes", "true", "1"),
    )


def check_split(entries: Sequence[SectionEntry], *, by: Literal["patient", "section"] = "patient") -> tuple[str, ...]:
    """Refuse a patient on both sides; what a reader of the results must know.

    Parameters
    ----------
    by : {'patient', 'section'}
        'section' allows sections of one patient on both sides, and says so.

    Raises
    ------
    SpatialError
        A patient, or a slide, is on both sides; or there is nothing to train on.
    """
    sides = {split: [e for e in entries if e.split == split] for split in (TRAIN, HELD_OUT)}
    if not sides[TRAIN]:
        raise SpatialError("All sections are held out: none is left to train on.")
    images = {e.image.resolve() for e in sides[TRAIN]} & {e.image.resolve() for e in sides[HELD_OUT]}
    if images:
        raise SpatialError(f"{sorted(images)[0].name} is on both sides of the split.")
    shared = ({e.patient for e in sides[TRAIN]} & {e.patient for e in sides[HELD_OUT]}) - {""}
    if shared and by == "patient":
        raise SpatialError(
            f"Patient {sorted(shared)[0]} is on both sides of the split. Hold out all sections of a patient, or say "
            "--split-by section where that is meant: the numbers then hold for further sections of the same tissue."
        )
    notes = []
    if shared:
        notes.append(
            f"Sections of {', '.join(sorted(shared))} are on both sides of the split: the numbers say how well "
            "expression carries over within one tumor, not to another patient."
        )
    if sides[HELD_OUT] and any(not e.patient for e in entries):
        notes.append("Not every section names its patient: whether one is on both sides is not known.")
    return tuple(notes)
