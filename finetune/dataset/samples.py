"""The dataset: labels of slides in level-0 px, each slide known by its fingerprint, and where all is labelled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import DatasetError, LeakError
from wsi import Slide, open_slide
from wsi.files.address import as_path, may_exist

FORMAT = 1
SPLITS = ("train", "validation", "test")
_HEAD, _LABELS, _AREAS = "dataset.json", "labels.jsonl", "areas.jsonl"

Box = tuple[float, float, float, float]
Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Label:
    """One labelled object in level-0 px.

    Attributes
    ----------
    slide : str
        Id of its slide in the dataset.
    name : str
        Class.
    box : (x_min, y_min, x_max, y_max)
        A point has no extent: x_min == x_max and y_min == y_max.
    ring : tuple of (x, y)
        Outline where the annotation has one; empty otherwise.
    source : str
        File it comes from.
    """

    slide: str
    name: str
    box: Box
    ring: Ring = ()
    source: str = ""

    @property
    def is_point(self) -> bool:
        """Whether only a place is known, no extent."""
        return self.box[0] == self.box[2] and self.box[1] == self.box[3]


@dataclass(frozen=True, slots=True)
class Area:
    """A part of a slide in which every object of some classes is labelled, so that absence means something.

    Attributes
    ----------
    ring : tuple of (x, y)
        Outline in level-0 px.
    names : tuple of str
        Classes that are labelled exhaustively in it; empty means all of the dataset.
    """

    slide: str
    ring: Ring
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """A slide of a dataset.

    Attributes
    ----------
    path : str
        Where the file was when the dataset was built.
    patient : str
        Whom it comes from; the slide's own id where nobody said.
    split : str
        'train', 'validation', 'test', or '' before splitting.
    """

    id: str
    path: str
    fingerprint: str
    width: int
    height: int
    mpp: float | None = None
    patient: str = ""
    split: str = ""


@dataclass(frozen=True)
class Dataset:
    """Labels of some slides; immutable. `save` writes it, `Dataset.open` reads it."""

    name: str
    names: tuple[str, ...]
    """Classes, in the order in which they are asked for."""
    slides: tuple[SlideEntry, ...]
    labels: tuple[Label, ...]
    areas: tuple[Area, ...] = ()
    sources: tuple[Mapping[str, Any], ...] = ()
    """Per annotation file: path, hash, format, licence."""
    refused: tuple[str, ...] = ()
    """Labels that were left out when it was built, each with its reason."""
    notes: tuple[str, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        ids = Counter(slide.id for slide in self.slides)
        twice = [name for name, number in ids.items() if number > 1]
        if twice:
            raise DatasetError(f"dataset {self.name}: slide {twice[0]} is there twice; give them different names")
        strange = sorted({label.name for label in self.labels} - set(self.names))
        if strange:
            raise DatasetError(f"dataset {self.name}: labels of unknown classes {', '.join(strange)}")
        lost = sorted(({label.slide for label in self.labels} | {area.slide for area in self.areas}) - set(ids))
        if lost:
            raise DatasetError(f"dataset {self.name}: labels of slides it does not have: {', '.join(lost[:3])}")

    # ------------------------------------------------------------------ what it holds

    @property
    def hash(self) -> str:
        """'sha256:' and 32 hexadecimal digits over slides (by fingerprint), labels, areas and splits."""
        digest = hashlib.sha256()
        for slide in self.slides:
            digest.update(f"{slide.id}\0{slide.fingerprint}\0{slide.patient}\0{slide.split}\n".encode())
        for rows in (map(_row, self.labels), map(_row, self.areas)):
            for row in rows:
                digest.update(json.dumps(row, sort_keys=True).encode())
        return f"sha256:{digest.hexdigest()[:32]}"

    def slide(self, slide_id: str) -> SlideEntry:
        """The entry of a slide. Raises DatasetError for an unknown id."""
        for entry in self.slides:
            if entry.id == slide_id:
                return entry
        raise DatasetError(f"dataset {self.name} has no slide {slide_id!r}")

    def of_split(self, split: str) -> tuple[SlideEntry, ...]:
        """Slides of one split."""
        return tuple(entry for entry in self.slides if entry.split == split)

    def by_slide(self) -> dict[str, list[Label]]:
        """Labels of every slide."""
        found: dict[str, list[Label]] = {entry.id: [] for entry in self.slides}
        for label in self.labels:
            found[label.slide].append(label)
        return found

    def counts(self, split: str | None = None) -> dict[str, int]:
        """Labels per class, of one split or of all; every class is there, also with 0."""
        wanted = {entry.id for entry in self.slides if split is None or entry.split == split}
        found = Counter(label.name for label in self.labels if label.slide in wanted)
        return {name: found.get(name, 0) for name in self.names}

    def require_no_leak(self) -> None:
        """Raise LeakError where a patient or the same pixels are in two splits."""
        for what in ("patient", "fingerprint"):
            seen: dict[str, SlideEntry] = {}
            for entry in self.slides:
                key = getattr(entry, what)
                first = seen.setdefault(key, entry) if key else entry
                if first.split != entry.split:
                    same = "of patient" if what == "patient" else "with the same pixels"
                    raise LeakError(
                        f"dataset {self.name}: slides {same} {key} are in '{first.split}' ({first.id}) and in "
                        f"'{entry.split}' ({entry.id}), so scores would be of pictures seen in training. "
                        f"Split again: qwenvl dataset split --by patient"
                    )

    def manifest(self) -> dict[str, Any]:
        """What an adapter says of the data it learned from."""
        return {
            "name": self.name,
            "hash": self.hash,
            "classes": list(self.names),
            "sources": [dict(source) for source in self.sources],
            "splits": {
                split: {
                    "slides": [entry.id for entry in self.of_split(split)],
                    "fingerprints": [entry.fingerprint for entry in self.of_split(split)],
                    "patients": sorted({entry.patient for entry in self.of_split(split)}),
                    "labels": self.counts(split),
                }
                for split in SPLITS
                if self.of_split(split)
            },
        }

    # ------------------------------------------------------------------ pixels

    def find(self, entry: SlideEntry, images: Path | None = None) -> Path:
        """Where a slide's file is now: where it was, beside the dataset, or under `images`.

        Raises
        ------
        DatasetError
            In none of these places.
        """
        stored = as_path(entry.path)
        places = [stored]
        if self.folder is not None:
            places += [self.folder / stored, self.folder / stored.name]
        if images is not None:
            places = [images / stored.name, *places]
        for place in places:
            if may_exist(place):
                return place
        raise DatasetError(
            f"slide {entry.id} of dataset {self.name}: {entry.path} is not there any more; name the folder that "
            "holds it now with --images (Python: images=...)"
        )

    def open_slide(self, entry: SlideEntry, images: Path | None = None, *, check: bool = True) -> Slide:
        """Open a slide, and see that it is still the one that was labelled.

        Raises
        ------
        DatasetError
            Missing, or its content has changed.
        """
        slide = open_slide(self.find(entry, images), mpp=entry.mpp)
        if check and slide.fingerprint != entry.fingerprint:
            slide.close()
            raise DatasetError(
                f"{entry.path}: its content is not what slide {entry.id} was labelled on "
                f"({slide.fingerprint}, then {entry.fingerprint}); bring the old file back, or build the dataset again"
            )
        return slide

    # ------------------------------------------------------------------ disk

    def save(self, folder: Path, *, overwrite: bool = False) -> Dataset:
        """Write to a folder; each file under another name first. Returns the dataset as it lies there.

        Raises
        ------
        DatasetError
            The folder holds a dataset already and `overwrite` is False.
        """
        if (folder / _HEAD).exists() and not overwrite:
            raise DatasetError(f"{folder} holds a dataset already; name another folder, or say --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        head = {
            "format": FORMAT,
            "name": self.name,
            "hash": self.hash,
            "classes": list(self.names),
            "slides": [dataclasses.asdict(entry) for entry in self.slides],
            "sources": [dict(s) for s in self.sources],
            "refused": list(self.refused),
            "notes": list(self.notes),
        }
        _write_lines(folder / _LABELS, self.labels)
        _write_lines(folder / _AREAS, self.areas)
        _write(folder / _HEAD, json.dumps(head, indent=1, ensure_ascii=False) + "\n")
        return dataclasses.replace(self, folder=folder)

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Read a dataset.

        Raises
        ------
        DatasetError
            Not a dataset, of a later version, or damaged.
        """
        folder = Path(folder)
        path = folder / _HEAD
        if not path.is_file():
            raise DatasetError(f"{folder} is no dataset ({_HEAD} is missing); make one with qwenvl dataset build")
        try:
            head = json.loads(path.read_text(encoding="utf-8"))
            if head["format"] > FORMAT:
                raise DatasetError(f"{folder} was written by a later version of napari-qwenvl; update it")
            dataset = cls(
                name=head["name"],
                names=tuple(head["classes"]),
                slides=tuple(SlideEntry(**row) for row in head["slides"]),
                labels=tuple(
                    Label(r["slide"], r["name"], _box(r["box"]), _ring(r.get("ring", ())), r.get("source", ""))
                    for r in _read_lines(folder / _LABELS)
                ),
                areas=tuple(
                    Area(r["slide"], _ring(r["ring"]), tuple(r.get("names", ()))) for r in _read_lines(folder / _AREAS)
                ),
                sources=tuple(head["sources"]),
                refused=tuple(head["refused"]),
                notes=tuple(head["notes"]),
                folder=folder,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{folder} is damaged: {error}; build it again") from error
        if dataset.hash != head["hash"]:
            raise DatasetError(f"{folder} was changed by hand: its hash is not the stored one; build it again")
        return dataset


def whole(entry: SlideEntry, names: Sequence[str] = ()) -> Area:
    """The whole slide as an exhaustively labelled area."""
    w, h = float(entry.width), float(entry.height)
    return Area(entry.id, ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h)), tuple(names))


def _row(item: Label | Area) -> dict[str, object]:
    row = {key: value for key, value in dataclasses.asdict(item).items() if value not in ((), "")}
    if "ring" in row:
        row["ring"] = [[round(x, 2), round(y, 2)] for x, y in row["ring"]]
    if "box" in row:
        row["box"] = [round(value, 3) for value in row["box"]]
    return row


def _box(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (float(value) for value in values)
    return x0, y0, x1, y1


def _ring(points: Iterable[Sequence[float]]) -> Ring:
    return tuple((float(point[0]), float(point[1])) for point in points)


def _write_lines(path: Path, items: Sequence[Label | Area]) -> None:
    _write(path, "".join(json.dumps(_row(item), ensure_ascii=False) + "\n" for item in items))


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
