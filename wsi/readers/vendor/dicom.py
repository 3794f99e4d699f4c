"""DICOM whole slides: which files make one slide, what they state, and what else a file may be.

Headers are read by pydicom, up to the functional groups that all frames share; px are read by OpenSlide, which
takes the files of one series from the folder of the file that it opens.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsi.errors import PlaneError, SlideNotFoundError, UnsupportedSlideError
from wsi.files.fingerprint import fingerprint_path
from wsi.readers.description import whole_levels
from wsi.readers.vendor.dicom_header import (
    DIRECTORY,
    VOLUME,
    WHOLE_SLIDE,
    Instance,
    is_dicom,
    level_factors,
    may_be_dicom,
    positive,
    read_instance,
)
from wsi.readers.vendor.openslide import OpenSlideSource

_DEEPEST, _MOST_FILES = 4, 20_000
_LISTED, _FILES_LISTED = 24, 3


@dataclass(frozen=True)
class DicomSlide:
    """The files of one series that are one slide.

    Attributes
    ----------
    volume : tuple of Instance
        The levels, largest first, the parts of a concatenation in their order; never empty.
    associated : tuple of Instance
        Label, overview and thumbnail.
    copies : tuple of (Path, Path)
        Files that state the instance of another file, and that one.
    unreadable : tuple of Path
        Files beside it that are called DICOM and cannot be read as such.
    spread : bool
        Further instances of the series lie in other folders.
    """

    volume: tuple[Instance, ...]
    associated: tuple[Instance, ...] = ()
    copies: tuple[tuple[Path, Path], ...] = ()
    unreadable: tuple[Path, ...] = ()
    spread: bool = False

    @property
    def path(self) -> Path:
        """The file of level 0."""
        return self.volume[0].path

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of it, in an order that does not depend on their names."""
        return tuple(each.path for each in (*self.volume, *self.associated))

    @property
    def every_file(self) -> tuple[Path, ...]:
        """`files`, and the copies among them."""
        return (*self.files, *(path for path, _ in self.copies))

    @property
    def levels(self) -> tuple[Instance, ...]:
        """One instance per level, largest first."""
        return tuple({each.source: each for each in reversed(self.volume)}.values())[::-1]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each level in px."""
        return [(level.width, level.height) for level in self.levels]

    @property
    def stated_factors(self) -> list[tuple[float, float] | None]:
        """Level-0 px per px of each level along x and y, from PixelSpacing; None where it is not stated."""
        first = self.levels[0]
        return [level_factors(first, level) for level in self.levels]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of these files, in one sentence each."""
        found = []
        if "RESAMPLED" in self.volume[0].image_type:
            found.append(
                f"The largest image of this DICOM series, {self.path.name}, is a resampled one; the original may be "
                "missing. Level 0 is what is here."
            )
        for each in self.levels:
            tiles = -(-each.width // each.tile[0]) * -(-each.height // each.tile[1])
            stored = sum(part.frames for part in self.volume if part.source == each.source)
            if each.full and stored < tiles:
                found.append(
                    f"{each.path.name} states {stored} frames, and its {each.width}x{each.height} px need {tiles}: "
                    "reading what is missing fails."
                )
        if self.copies:
            found.append(f"Copies of its files are left out: {_some(path.name for path, _ in self.copies)}.")
        if self.unreadable:
            found.append(
                f"Files beside it cannot be read as DICOM and are left out: {_some(p.name for p in self.unreadable)}. "
                "They may be levels of it that were cut off in copying."
            )
        return tuple(found)

    def require_readable(self) -> None:
        """Raise UnsupportedSlideError where OpenSlide would read something else than the files state.

        That is: more than one focal plane or optical path, missing parts of a concatenation, two images of one
        size or two labels, two files that state the same instance with different content, or a series spread over
        folders.
        """
        if self.spread:
            raise UnsupportedSlideError(
                f"The files of the DICOM series {self.volume[0].series} lie in several folders, {self.path.parent} "
                "among them, and none holds them all. Put the files of the slide into one folder."
            )
        for copy, of in self.copies:
            if fingerprint_path(copy) != fingerprint_path(of):
                raise UnsupportedSlideError(
                    f"{of} and {copy.name} state to be the same DICOM instance, and their content differs. Move the "
                    "wrong one out of the folder."
                )
        shown: dict[str, Instance] = {}
        for each in self.associated:
            if (other := shown.setdefault(each.flavour, each)).source != each.source:
                raise UnsupportedSlideError(
                    f"{other.path} and {each.path.name} are two {each.flavour or 'unnamed'} images of one DICOM "
                    "series. Put one of them into another folder."
                )
        sizes: dict[tuple[int, int], Instance] = {}
        for each in self.volume:
            if min(each.width, each.height, *each.tile) < 1:
                raise UnsupportedSlideError(
                    f"{each.path} states {each.width}x{each.height} px in tiles of {each.tile[0]}x{each.tile[1]}: its "
                    "size is missing, or its header is cut off. Copy or export it again."
                )
            if each.focal_planes > 1 or each.optical_paths > 1:
                raise UnsupportedSlideError(
                    f"{each.path} states {each.focal_planes} focal planes and {each.optical_paths} optical paths; one "
                    "of each is read. Export one plane of one path, or convert the slide to OME-TIFF."
                )
            present = {other.part for other in self.volume if other.source == each.source}
            if missing := sorted(set(range(1, each.parts + 1)) - present):
                raise UnsupportedSlideError(
                    f"{each.path} is part {each.part} of {each.parts} of one DICOM image. Put what is missing beside "
                    f"it: part {_some(map(str, missing))}."
                )
            other = sizes.setdefault((each.width, each.height), each)
            if other.source != each.source:
                raise UnsupportedSlideError(
                    f"{other.path} and {each.path.name} are two images of {each.width}x{each.height} px in one DICOM "
                    "series (focal planes, optical paths, or two scans). Put one of them into another folder."
                )

    def __str__(self) -> str:
        first = self.volume[0]
        words = [f"series {first.description!r}"] if first.description else []
        words += [f"container {first.container!r}"] if first.container else []
        words += [f"{first.width}x{first.height} px"]
        if first.spacing and (mm := positive(first.spacing[0])):
            words.append(f"{1000 * mm:g} um/px")
        return f"{', '.join(words)} ({_some(path.name for path in self.files)})"


def slides_in(folder: Path, *, below: bool = True) -> tuple[DicomSlide, ...]:
    """The slides among the DICOM files of a folder and of those `below` it, four deep, by folder and file name.

    A series is one slide. Nothing is checked yet: see `DicomSlide.require_readable`. A series whose files lie in
    several folders is a slide of the folder that holds all its instances; where none does, it is one per folder.
    """
    homes: dict[str, list[DicomSlide]] = defaultdict(list)
    for here in _folders(folder) if below else (folder,):
        instances, unreadable = _scan(here)
        for series in dict.fromkeys(each.series for each in instances):
            same = [each for each in instances if each.series == series]
            if _has_volume(same):
                homes[series].append(_slide(same, unreadable))
    found = []
    for slides in homes.values():
        whole = {each.uid for slide in slides for each in (*slide.volume, *slide.associated)}
        complete = [s for s in slides if len(s.volume) + len(s.associated) == len(whole)]
        found += complete[:1] or [replace(slide, spread=True) for slide in slides]
    return tuple(sorted(found, key=lambda slide: min((str(p.parent), p.name) for p in slide.files)))


def slide_of(path: Path, series: int | None = None) -> DicomSlide:
    """The slide that a DICOM file belongs to, or that a folder of them holds.

    Parameters
    ----------
    path : Path
        A file stands for its series in its folder; a folder, or a DICOMDIR in it, for the one slide below it.
    series : int, optional
        Which slide of a folder with several, in the order in which the error lists them.

    Raises
    ------
    SlideNotFoundError
        No whole slide is in the folder; the message names what else is there.
    PlaneError
        Several slides are in the folder; the message lists them.
    UnsupportedSlideError
        The file is DICOM, and no whole slide, or one that cannot be read; see `DicomSlide.require_readable`.
    """
    if path.is_dir():
        return _choose(path, series)
    instance = read_instance(path)
    if instance.sop_class == DIRECTORY:
        return _choose(path.parent, series)
    if instance.sop_class != WHOLE_SLIDE:
        raise UnsupportedSlideError(f"{path} is DICOM of the kind {_what(instance)}. {_REMEDY}")
    same, unreadable = _beside(path, instance)
    real = Path(os.path.realpath(path))
    if path.is_symlink() and real.parent != path.parent and real.is_file():
        there, lost = _beside(real, read_instance(real))
        if len(there) > len(same):
            same, unreadable = there, lost
    if not _has_volume(same):
        shown = ", ".join(sorted({each.flavour or "unnamed" for each in same}))
        raise UnsupportedSlideError(
            f"{path} belongs to a DICOM series that holds no image of the tissue (VOLUME), only {shown}. Put the "
            "other files of the slide beside it, and open one of them."
        )
    if series not in (None, 0):
        raise PlaneError(
            f"{path} is a file of one slide: leave series={series} out, or give the folder to choose by series."
        )
    slide = _slide(same, unreadable)
    slide.require_readable()
    return slide


_REMEDY = (
    "Slides are of the kind 'VL Whole Slide Microscopy Image Storage'; save this one as TIFF or PNG to use it as "
    "an ordinary image."
)


def _choose(folder: Path, series: int | None) -> DicomSlide:
    slides = slides_in(folder)
    if not slides:
        kinds = sorted({_what(each) for each in _scan(folder, other_kinds=True)[0]})
        what = (
            f" Its DICOM files are {_some(kinds)}. {_REMEDY}"
            if kinds
            else (" Give the slide file itself; for MRXS that is the .mrxs beside its folder.")
        )
        raise SlideNotFoundError(
            f"{folder} is a folder without a slide: it is no OME-Zarr, and holds no DICOM slide.{what}"
        )
    if len({slide.volume[0].series for slide in slides}) == 1:
        slides[0].require_readable()
    listed = "; ".join(f"{number}: {slide}" for number, slide in enumerate(slides[:_LISTED]))
    more = f"; and {len(slides) - _LISTED} more" if len(slides) > _LISTED else ""
    if series is None and len(slides) > 1:
        raise PlaneError(
            f"{folder} holds {len(slides)} slides. Give one of a slide's files, or its number: --series 0 on the "
            f"command line, open_slide(path, series=0) in Python. {listed}{more}."
        )
    if not 0 <= (series or 0) < len(slides):
        raise PlaneError(f"{folder} holds slides 0 to {len(slides) - 1}, not {series}. {listed}{more}.")
    chosen = slides[series or 0]
    chosen.require_readable()
    return chosen


def _folders(folder: Path) -> Iterator[Path]:
    """The folder and those below it that are no OME-Zarr, as far as is looked."""
    seen = 0
    for root, names, files in os.walk(folder):
        here = Path(root)
        names[:] = sorted(name for name in names if not name.lower().endswith(".zarr"))
        if len(here.relative_to(folder).parts) >= _DEEPEST:
            names.clear()
        yield here
        seen += len(files)
        if seen > _MOST_FILES:
            return


def _scan(folder: Path, *, other_kinds: bool = False) -> tuple[list[Instance], list[Path]]:
    """The whole-slide instances of one folder (or those of every kind), and its files that are DICOM by name only."""
    found, unreadable = [], []
    for path in sorted(folder.iterdir()):
        if not (may_be_dicom(path) and path.is_file()):
            continue
        try:
            if is_dicom(path):
                instance = read_instance(path)
                if other_kinds or instance.sop_class == WHOLE_SLIDE:
                    found.append(instance)
            elif path.suffix.lower() == ".dcm":
                unreadable.append(path)
        except (UnsupportedSlideError, OSError):
            unreadable.append(path)
    return found, unreadable


def _beside(path: Path, instance: Instance) -> tuple[list[Instance], list[Path]]:
    """The files of a series in the folder of one of them, which is among them whatever it is called."""
    found, unreadable = _scan(path.parent)
    same = [each for each in found if each.series == instance.series]
    return (same if any(each.path == path for each in same) else [instance, *same]), unreadable


def _what(instance: Instance) -> str:
    """Kind and ImageType, as a message says them."""
    kind = repr(instance.kind)
    return f"{kind} with ImageType {chr(92).join(instance.image_type)}" if instance.image_type else kind


def _has_volume(instances: Sequence[Instance]) -> bool:
    return any(each.flavour == VOLUME for each in instances)


def _slide(instances: Sequence[Instance], unreadable: Sequence[Path]) -> DicomSlide:
    kept: dict[str, Instance] = {}
    copies = [(each.path, kept[each.uid].path) for each in instances if kept.setdefault(each.uid, each) is not each]
    volume = sorted(
        (each for each in kept.values() if each.flavour == VOLUME),
        key=lambda each: (-each.width * each.height, -each.width, each.source, each.part),
    )
    associated = sorted(
        (each for each in kept.values() if each.flavour != VOLUME), key=lambda each: (each.flavour, each.uid)
    )
    return DicomSlide(tuple(volume), tuple(associated), tuple(copies), tuple(unreadable))


def _some(names: Iterable[str]) -> str:
    """The first few names of a list."""
    every = list(names)
    more = f" and {len(every) - _FILES_LISTED} more" if len(every) > _FILES_LISTED else ""
    return ", ".join(every[:_FILES_LISTED]) + more


class DicomSource(OpenSlideSource):
    """A DICOM slide: what its files state by pydicom, its px by OpenSlide.

    Parameters
    ----------
    path : Path
        A file of it, or a folder that holds it.
    series : int, optional
        Which slide of a folder with several.

    Raises
    ------
    SlideNotFoundError, PlaneError, UnsupportedSlideError
        See `slide_of`.
    """

    def __init__(self, path: Path, series: int | None = None) -> None:
        slide = slide_of(path, series)
        beside = path.is_file() and any(path == each for each in slide.files)
        try:
            super().__init__(path if beside else slide.path)
        except UnsupportedSlideError as error:
            raise UnsupportedSlideError(
                f"{path} is a DICOM slide that OpenSlide does not read: {error.__cause__}. It reads 8-bit RGB, "
                "uncompressed, in JPEG or in JPEG 2000; convert the files to one of these."
            ) from error
        stated = self.description
        sizes = [(level.width, level.height) for level in stated.levels]
        if sizes != slide.sizes:
            self.close()
            raise UnsupportedSlideError(
                f"{path}: OpenSlide finds levels of {_sizes(sizes)} px, the files state {_sizes(slide.sizes)}. "
                "Export the slide again."
            )
        levels, notes = whole_levels(sizes, slide.stated_factors, [level.tile for level in slide.levels])
        spacing = slide.levels[0].spacing
        self.description = replace(
            stated,
            levels=levels,
            mpp_from="PixelSpacing of the DICOM image of level 0" if spacing and stated.mpp_xy else "",
            image=str(slide),
            files=slide.files,
            notes=(*notes, *slide.notes),
        )


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sizes)
