"""From annotation files and slides to a dataset; what cannot be a label is left out with its reason."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.dataset.image_files import PictureFinder
from finetune.dataset.importers import FoundArea, FoundLabels, Imported, read_labels
from finetune.dataset.samples import SPLITS, Area, Dataset, Label, SlideEntry, whole
from finetune.errors import DatasetError, LabelFileError
from wsi import open_slide
from wsi.errors import SlideError
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.regions.qupath import class_name

EXHAUSTIVE = ("auto", "whole", "areas", "reviewed", "searched", "none")
"""What may be said of where all objects are labelled."""
_MOST_LISTED = 200


@dataclass(frozen=True)
class BuildOptions:
    """How annotations become labels.

    Attributes
    ----------
    names : tuple of str
        Classes that are wanted, in this order; empty takes all that are found.
    rename : mapping of str to str
        Class in the file to class in the dataset.
    ignore : tuple of str
        Classes of the file that are left out.
    unnamed : str
        Class of labels without one; '' refuses them.
    exhaustive : str
        'auto' goes by the format's convention, 'whole' says that every object of every slide is labelled, 'areas'
        only those inside annotations of class `area_names`, 'reviewed' those of a run's tiles in which every object has
        a verdict, 'searched' these and the tiles in which there is none, 'none' nothing.
    area_names : tuple of str
        Classes of annotations that delimit exhaustively labelled areas.
    mpp : float, optional
        um per level-0 px, where the files do not say.
    """

    names: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    unnamed: str = ""
    exhaustive: str = "auto"
    area_names: tuple[str, ...] = ()
    mpp: float | None = None
    kind: str | None = None
    frame: PixelFrame | str | None = None
    """Frame of the coordinates in GeoJSON files that do not record it: 'qupath' or 'level0'. Needed where QuPath crops
    the slide; see `wsi.regions.frames`."""


def build_dataset(name: str, pairs: Sequence[tuple[Path, Path | None]], options: BuildOptions | None = None) -> Dataset:
    """Build a dataset.

    Parameters
    ----------
    name : str
    pairs : sequence of (annotations, pictures)
        Pictures: the slide the annotations are about, or a folder that holds the pictures they name; None looks
        beside the annotations, and in the run's manifest for reviewed runs.
    options : BuildOptions

    Raises
    ------
    LabelFileError
        A file cannot be read, or names classes that are not wanted.
    DatasetError
        A picture is missing or has another size than its annotations say.
    FrameNeededError, FrameError
        It is not known in which px the coordinates of a GeoJSON file are, or the file was made for another slide.
    """
    options = options or BuildOptions()
    if options.exhaustive not in EXHAUSTIVE:
        raise DatasetError(f"exhaustive {options.exhaustive!r} is none of {', '.join(EXHAUSTIVE)}")
    builder = _Builder(options)
    for path, pictures in pairs:
        builder.add(path, read_labels(path, options.kind), pictures)
    return builder.dataset(name)


class _Builder:
    def __init__(self, options: BuildOptions) -> None:
        self.options = options
        self.slides: dict[str, SlideEntry] = {}
        self.frames: dict[str, SlideFrames] = {}
        self.labels: list[Label] = []
        self.areas: list[Area] = []
        self.sources: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.notes: list[str] = []

    def add(self, path: Path, imported: Imported, pictures: Path | None) -> None:
        self.sources.append(
            {"path": str(path), "format": imported.format, "hash": _hash(path), "licence": imported.licence}
        )
        self.notes += imported.notes
        self.refused += imported.refused
        groups: dict[str | None, list[FoundLabels]] = defaultdict(list)
        areas: dict[str | None, list[FoundArea]] = defaultdict(list)
        for name in imported.sizes:
            groups[name] = []
        for found in imported.found:
            groups[found.picture].append(found)
        for area in imported.areas:
            areas[area.picture].append(area)
            groups.setdefault(area.picture, [])
        finder = PictureFinder(path, pictures)
        for picture, items in groups.items():
            file = finder.find(picture)
            entry = self._entry(file, imported.sizes.get(picture or ""))
            if imported.relative:
                items = [found.in_px(entry.width, entry.height) for found in items]
            if imported.framed:
                frames = self.frames[entry.id]
                frame = frames.settle(imported.record, self.options.frame, path)
                items = [found.in_level0(frames, frame) for found in items]
            self.labels += [label for found in items if (label := self._label(found, entry, path.name))]
            incomplete = picture in imported.incomplete
            self.areas += self._areas(entry, items, areas.get(picture, []), imported, incomplete)

    def _entry(self, file: Path, stated: tuple[int, int] | None) -> SlideEntry:
        stem = file.name.split(".")[0] if file.suffix != ".zarr" else file.stem
        names = [stem, f"{file.parent.name}/{stem}", file.name, f"{file.parent.name}/{file.name}", str(file)]
        # Files of one name in several folders, and names that differ behind their first dot, are different slides.
        taken = ((name, self.slides.get(name)) for name in names)
        name, known = next((n, entry) for n, entry in taken if entry is None or entry.path == str(file))
        if known is None:
            try:
                with open_slide(file, mpp=self.options.mpp) as slide:
                    self.frames[name] = SlideFrames.of(slide)
                    known = SlideEntry(
                        name, str(file), slide.fingerprint, slide.width, slide.height, slide.mpp, patient=name
                    )
            except SlideError as error:
                raise DatasetError(f"picture of {name}: {error}") from error
            self.slides[name] = known
        if stated and 0 not in stated and stated != (known.width, known.height):
            raise DatasetError(
                f"{file} measures {known.width}x{known.height} px, its annotations say {stated[0]}x{stated[1]}; "
                "they belong to another version of the picture, and every box would be misplaced"
            )
        return known

    def _label(self, found: FoundLabels, entry: SlideEntry, source: str) -> Label | None:
        options = self.options
        name = self._named(found)
        if name in options.ignore or self._spelled(found.name, options.ignore) in options.ignore:
            return None
        if name in options.area_names:
            return None
        if not name:
            self._refuse(found, "no class; name one for such labels with --unnamed")
            return None
        if options.names and name not in options.names:
            raise LabelFileError(
                f"{found.where}: class {name!r} is not among {', '.join(options.names)}; add it to --classes, map it "
                f"with --rename '{name}=...', or leave it out with --ignore '{name}'"
            )
        x0, y0, x1, y1 = found.box
        if not np.isfinite(found.box).all():
            self._refuse(found, "a coordinate is not a number")
            return None
        point = found.point
        if not point and (x1 <= x0 or y1 <= y0):
            self._refuse(found, f"box without area ({x0:g}, {y0:g}, {x1:g}, {y1:g})")
            return None
        cut = (max(0.0, x0), max(0.0, y0), min(float(entry.width), x1), min(float(entry.height), y1))
        if cut[2] < cut[0] or cut[3] < cut[1] or (not point and (cut[2] == cut[0] or cut[3] == cut[1])):
            self._refuse(found, f"outside {entry.id} ({entry.width}x{entry.height} px)")
            return None
        ring = found.ring
        if cut != found.box:
            ring = ()
            if max(abs(a - b) for a, b in zip(cut, found.box, strict=True)) > 1:
                self.notes.append(f"{found.where}: cut at the border of {entry.id}")
        return Label(entry.id, name, cut, ring, source)

    def _named(self, found: FoundLabels) -> str:
        """The class of a label in the dataset, '' where it has none."""
        options = self.options
        name = options.rename.get(self._spelled(found.name, options.rename), found.name) or options.unnamed
        for known in (options.names, options.ignore, options.area_names):
            name = self._spelled(name, known)
        return name

    def _spelled(self, name: str, known: Iterable[str]) -> str:
        """A class as the user writes it: QuPath makes 'CD3: CD8' of 'CD3:CD8'."""
        if ":" not in name or name in known:
            return name
        return next((each for each in known if class_name(each) == class_name(name)), name)

    def _refuse(self, found: FoundLabels, reason: str) -> None:
        self.refused.append(f"{found.where}: {found.name or 'unnamed'}: {reason}")

    def _areas(
        self,
        entry: SlideEntry,
        items: Iterable[FoundLabels],
        marked: list[FoundArea],
        imported: Imported,
        incomplete: bool,
    ) -> list[Area]:
        options = self.options
        if options.exhaustive == "auto" and imported.whole_pictures and incomplete:
            self.notes.append(
                f"{entry.id}: a label of it is left out, so it does not count as labelled exhaustively (correct the "
                "row, or say --exhaustive whole where that label does not matter)"
            )
            return []
        if options.exhaustive == "whole" or (options.exhaustive == "auto" and imported.whole_pictures):
            have = any(area.slide == entry.id for area in self.areas)
            return [] if have else [whole(entry)]
        if options.exhaustive == "none":
            return []
        if options.exhaustive in ("reviewed", "searched"):
            bare_too = options.exhaustive == "searched"
            return [Area(entry.id, area.ring, area.names) for area in marked if bare_too or not area.bare]
        areas = []
        for found in items:
            if self._named(found) not in options.area_names:
                continue
            if found.holes:
                self._refuse(found, "an area with a hole, in which labels may be missing; draw it without")
                continue
            areas += [Area(entry.id, ring) for ring in found.pieces or (found.ring,) if len(ring) > 2]
        return areas

    def dataset(self, name: str) -> Dataset:
        found = {label.name for label in self.labels}
        if not self.labels and not self.areas:
            why = f"; {len(self.refused)} were left out, such as {self.refused[0]}" if self.refused else ""
            raise DatasetError(f"dataset {name}: no labels in {len(self.sources)} files{why}")
        names = self.options.names or tuple(sorted(found))
        notes = list(self.notes[:_MOST_LISTED])
        if self.refused:
            notes.insert(0, f"{len(self.refused)} labels left out, {len(self.labels)} used")
        bare = set(self.slides) - {area.slide for area in self.areas}
        if bare:
            notes.append(
                f"{len(bare)} of {len(self.slides)} slides have no exhaustively labelled area; tiles are cut only "
                "where one is, since elsewhere unlabelled objects would be taught as absent (--area-class, "
                "--exhaustive whole)"
            )
        return Dataset(
            name,
            names,
            tuple(self.slides.values()),
            tuple(self.labels),
            tuple(self.areas),
            tuple(self.sources),
            tuple(self.refused[:_MOST_LISTED]),
            tuple(notes),
        )


def with_patients(dataset: Dataset, table: Mapping[str, str] | None = None, pattern: str | None = None) -> Dataset:
    """Say which patient every slide comes from.

    Parameters
    ----------
    table : mapping of slide id to patient, optional
    pattern : str, optional
        Regular expression; its first group (or whole match) in the slide's id is the patient.

    Raises
    ------
    DatasetError
        A slide is left without a patient.
    """
    entries = []
    for entry in dataset.slides:
        if table is not None:
            patient = table.get(entry.id)
        else:
            match = re.search(pattern or "", entry.id)
            patient = None if match is None else (match[1] if match.groups() else match[0])
        if not patient:
            raise DatasetError(f"slide {entry.id}: no patient in the table or by the pattern; name one for every slide")
        entries.append(replace(entry, patient=patient))
    return replace(dataset, slides=tuple(entries))


def read_patients(path: Path) -> dict[str, str]:
    """A CSV with columns `slide` and `patient`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        # An open quote would swallow the rows behind it.
        raise DatasetError(f"{path} is no table that can be read ({error}); look for an open quote") from error
    if not rows or not {"slide", "patient"} <= set(rows[0]):
        raise DatasetError(f"{path}: needs the columns slide and patient")
    bad = [number for number, row in enumerate(rows, 1) if not row["slide"] or row["patient"] is None or None in row]
    if bad:
        raise DatasetError(f"{path}: row {bad[0]} has not the cells of the header")
    return {Path(row["slide"]).name.split(".")[0]: row["patient"].strip() for row in rows}


def split_dataset(
    dataset: Dataset,
    *,
    by: str = "patient",
    validation: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    lists: Mapping[str, Sequence[str]] | None = None,
) -> Dataset:
    """Give every slide a split, whole patients (or slides) at a time.

    Parameters
    ----------
    by : {'patient', 'slide'}
    validation, test : float
        Shares of the patients or slides; at least one goes to each split whose share is not 0.
    lists : mapping of split to slide ids, optional
        In place of drawing; slides in no list go to 'train'.

    Raises
    ------
    DatasetError
        Too few patients for the splits asked, or a list names an unknown slide.
    LeakError
        The lists tear a patient apart.
    """
    if lists is not None:
        chosen: dict[str, str] = {}
        known = {entry.id for entry in dataset.slides}
        for split, ids in lists.items():
            if split not in SPLITS:
                raise DatasetError(f"split {split!r} is none of {', '.join(SPLITS)}")
            for name in ids:
                if name not in known:
                    raise DatasetError(f"the list of split {split} names slide {name!r}, which is not in the dataset")
                if chosen.setdefault(name, split) != split:
                    raise DatasetError(f"slide {name} is in the lists of {chosen[name]} and {split}")
        entries = [replace(entry, split=chosen.get(entry.id, "train")) for entry in dataset.slides]
    else:
        if by not in ("patient", "slide"):
            raise DatasetError(f"by {by!r} is none of patient, slide")
        groups: dict[str, list[SlideEntry]] = defaultdict(list)
        for entry in dataset.slides:
            groups[entry.patient if by == "patient" else entry.id].append(entry)
        keys = sorted(groups)
        asked = {"validation": validation, "test": test}
        counts = {split: max(1, round(share * len(keys))) if share else 0 for split, share in asked.items()}
        if sum(counts.values()) >= len(keys):
            raise DatasetError(
                f"{len(keys)} {by}s are too few for validation {validation:g} and test {test:g}; label more, "
                "ask for smaller shares, or split --by slide where the slides are independent"
            )
        order = [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]
        held = dict.fromkeys(order[: counts["validation"]], "validation")
        held |= dict.fromkeys(order[counts["validation"] : sum(counts.values())], "test")
        split_of = {entry.id: held.get(key, "train") for key, items in groups.items() for entry in items}
        entries = [replace(entry, split=split_of[entry.id]) for entry in dataset.slides]
    result = replace(dataset, slides=tuple(entries))
    if by == "patient" or lists is not None:
        result.require_no_leak()
    return result


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(f for f in path.rglob("*") if f.is_file())[:5000] if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode())
        if file.suffix not in (".sqlite-wal", ".sqlite-shm"):
            digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()[:32]}"
