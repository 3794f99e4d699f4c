"""The slides that a folder, a pattern or a file stands for: one row each, however many files a slide has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workflows._words import plural
from wsi.errors import SlideError
from wsi.readers.vendor.dicom import DicomSlide, slides_in
from wsi.readers.vendor.dicom_header import WHOLE_SLIDE, is_dicom, may_be_dicom, read_instance


@dataclass(frozen=True, slots=True)
class FoundSlide:
    """Slides with their names, and what was put together or left out.

    Attributes
    ----------
    slides : tuple of (str or None, Path)
        A name, None where that of the file is meant, and the file to open.
    notes : tuple of str
    """

    slides: tuple[tuple[str | None, Path], ...]
    notes: tuple[str, ...] = ()


def slides_among(paths: Sequence[Path], *, by_folder: Path | None = None, listed: bool = False) -> FoundSlide:
    """The slides among files and folders, in their order.

    The files of a DICOM series in one folder are one slide, opened by the file of its level 0. A folder stands for
    the DICOM slides in it and below it. DICOM files of other kinds (segmentations, annotations, a label alone) are
    left out, with a note; any other file is a slide.

    Parameters
    ----------
    by_folder : Path, optional
        DICOM slides below this folder are called as the folders on the way to them, with an underscore between;
        those that do not lie alone in theirs have the name of their file in addition.
    listed : bool
        The paths are all that a folder holds: a folder without DICOM slides is left out.
    """
    found: dict[tuple[str, str], tuple[str | None, Path]] = {}
    notes: list[str] = []
    files = 0
    others: Counter[str] = Counter()
    known: dict[Path, dict[Path, DicomSlide]] = {}

    def add(slide: DicomSlide, alone: bool) -> None:
        folder = slide.path.parent
        named = _name(slide.path, by_folder, alone)
        found.setdefault((str(folder), slide.volume[0].series), (named, slide.path))

    for path in paths:
        if path.is_dir() and not path.name.lower().endswith(".zarr"):
            slides = slides_in(path)
            for slide in slides:
                add(slide, alone=sum(each.path.parent == slide.path.parent for each in slides) == 1)
                files += len(slide.files)
            if not slides and not listed:
                found[str(path), ""] = None, path
            continue
        kind = _dicom_kind(path)
        if kind is None:
            found[str(path), ""] = None, path
        elif kind != "":
            others[kind] += 1
        else:
            folder = path.parent
            if folder not in known:
                here = slides_in(folder, below=False)
                known[folder] = {file: slide for slide in here for file in slide.every_file}
            if (slide_here := known[folder].get(path)) is None:
                others["label, overview or thumbnail without its slide"] += 1
            else:
                files += 1
                add(slide_here, alone=len({each.path for each in known[folder].values()}) == 1)
    slides_found = sum(series != "" for _, series in found)
    if files > slides_found:
        notes.append(f"{plural(files, 'DICOM file')} are {plural(slides_found, 'slide')}: a series is one slide.")
    notes += [f"{plural(number, 'DICOM file')} left out, no whole slide: {kind}." for kind, number in others.items()]
    return FoundSlide(tuple(found.values()), tuple(notes))


def names_dicom(path: Path) -> bool:
    """True for a file that is called and begins as DICOM files are and do."""
    return may_be_dicom(path) and is_dicom(path)


def _dicom_kind(path: Path) -> str | None:
    """'' for a file of a whole slide, the kind of another DICOM file, None where it is no readable DICOM."""
    if not names_dicom(path):
        return None
    try:
        instance = read_instance(path)
    except (SlideError, OSError):
        return None
    return "" if instance.sop_class == WHOLE_SLIDE else instance.kind


def _name(path: Path, by_folder: Path | None, alone: bool) -> str:
    """The id of a DICOM slide, from the file of its level 0."""
    below = by_folder is not None and path.is_relative_to(by_folder)
    folders = path.parent.relative_to(by_folder).parts if by_folder is not None and below else ()
    return "_".join(folders if folders and alone else (*folders, _stem(path)))


def _stem(path: Path) -> str:
    """The name of a DICOM file; the dots of a UID are no suffix."""
    return path.stem if path.suffix.lower() in (".dcm", ".dicom") else path.name
