"""The rows of a cohort: which slides, under which names, with which facts of their own."""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workflows.cohort.folder import RESERVED
from workflows.errors import CohortError
from wsi.files.address import RemotePath, as_path, may_exist
from wsi.files.names import path_of, path_text
from wsi.regions.frames import PixelFrame

COLUMNS = ("slide", "id", "mpp", "mask", "frame", "group")
"""Columns with a meaning; every other one is metadata."""

SUFFIXES = (
    ".svs",
    ".ndpi",
    ".tif",
    ".tiff",
    ".mrxs",
    ".scn",
    ".bif",
    ".vms",
    ".vmu",
    ".svslide",
    ".qptiff",
    ".dcm",
    ".ome.zarr",
    ".zarr",
)
"""What counts as a slide in a folder. Plain pictures have to be named by a table or a glob."""

_LONGEST = 150
_NO_UTF8 = "the line is not UTF-8 text and names no file that is there; save the table as CSV UTF-8"
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CohortRow:
    """One slide of a cohort.

    Attributes
    ----------
    number : int
        Line of the table, the heading being line 1; position in a folder or glob, from 1.
    id : str
        Name of the run folder.
    slide : str
        Absolute path, as text (see `wsi.files.names`).
    mpp : float or None
        um per level-0 px, where the table says it.
    mask : str or None
        Tissue mask of this slide: a method, or the absolute path of a GeoJSON.
    frame : PixelFrame or None
        Frame of the coordinates in that GeoJSON, where the file does not record it.
    group : str
    metadata : mapping
        Further columns, as they are written.
    """

    number: int
    id: str
    slide: str
    mpp: float | None = None
    mask: str | None = None
    frame: PixelFrame | None = None
    group: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowFinding:
    """Something wrong with one row: it is not run, and the others are."""

    row: int
    id: str
    problem: str

    def __str__(self) -> str:
        return f"row {self.row} ({self.id or 'no id'}): {self.problem}"


@dataclass(frozen=True, slots=True)
class Cohort:
    """The rows of a cohort in their order, what is wrong with some of them, and what was put together or left out."""

    source: str
    rows: tuple[CohortRow, ...]
    findings: tuple[RowFinding, ...] = ()
    notes: tuple[str, ...] = ()


def read_cohort(source: str | Path) -> Cohort:
    """Read a table (CSV), a folder of slides, or a glob.

    Paths in a table are relative to its folder. The separator may be comma, semicolon or tab.

    Raises
    ------
    CohortError
        There is nothing of that name, it holds no slides, or the heading cannot be used.
    """
    path = as_path(source)
    if path.is_dir() and not path.name.lower().endswith(".zarr"):
        nothing = f"no slide ({', '.join(SUFFIXES)}, DICOM without a suffix) lies in this folder"
        return _of_files(path, sorted(filter(_may_be_slide, path.iterdir())), nothing, by_folder=path, listed=True)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _read_table(path)
    if may_exist(path):  # before patterns: a name may hold brackets
        return _of_files(path, [path], "")
    if glob.has_magic(str(source)):
        pattern = str(source)
        if path.parent.is_dir():  # a folder may have brackets in its name
            pattern = os.path.join(glob.escape(str(path.parent)), path.name)
        files = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
        return _of_files(path, files, "this pattern finds nothing", by_folder=_fixed_part(pattern))
    raise CohortError(f"{source} does not exist. Give a table (CSV), a folder of slides, or a pattern.")


def name_of(path: Path) -> str:
    """The id of a slide that has none: its file name without suffix, as text (see `wsi.files.names`)."""
    lower = path.name.lower()
    longest = max((s for s in (*SUFFIXES, ".ome.tif", ".ome.tiff") if lower.endswith(s)), key=len, default=None)
    return path_text(path.name[: -len(longest)] if longest else path.stem)


def folded(name: str) -> str:
    """What two ids share where some file system takes them for the same name."""
    return unicodedata.normalize("NFC", name).casefold()


def why_unsafe(name: str) -> str | None:
    """Why an id is no safe folder name on every file system, or None."""
    if not name.strip() or name in (".", ".."):
        return "an id is needed"
    if found := _UNSAFE.search(name):
        return f"holds {found.group()!r}"
    if name[0] in ".-~ " or name[-1] in ". ":
        return "begins or ends with a character that shells or file systems treat apart"
    if _DEVICES.fullmatch(name) or folded(name) in RESERVED:
        return "is a reserved name"
    if len(name.encode()) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    return None


def _may_be_slide(path: Path) -> bool:
    """True for what a folder's listing may hold as a slide: known suffixes, DICOM, folders that may hold DICOM."""
    from workflows.cohort.study.found import names_dicom

    if path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    return path.name.lower().endswith(SUFFIXES) or path.is_dir() or names_dicom(path)


def _fixed_part(pattern: str) -> Path:
    """The folder of a pattern's files, or of its first wildcard where that is in a folder's name."""
    folder = Path(os.path.dirname(pattern))
    parents = (folder, *folder.parents)
    fixed = next((parent for parent in parents if not glob.has_magic(str(parent).replace("[[]", ""))), folder)
    return Path(str(fixed).replace("[[]", "[").replace("[?]", "?").replace("[*]", "*"))


def _of_files(
    source: Path, files: Sequence[Path], nothing: str, *, by_folder: Path | None = None, listed: bool = False
) -> Cohort:
    from workflows.cohort.study.found import slides_among

    found = slides_among(files, by_folder=by_folder, listed=listed)
    if not found.slides:
        raise CohortError(f"{source}: {nothing}.{''.join(f' {note}' for note in found.notes)}")
    rows = [
        CohortRow(number, path_text(name) if name is not None else name_of(path), path_text(path.absolute()))
        for number, (name, path) in enumerate(found.slides, 1)
    ]
    return Cohort(path_text(source), tuple(rows), tuple(_id_findings(rows)), found.notes)


def _read_table(path: Path) -> Cohort:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise CohortError(f"{path} cannot be read: {error.strerror}.") from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    records = _records(text, separator)
    _, cells, broken = next(records, (1, [], ""))
    heading = [cell.strip() for cell in cells]
    if broken or any(map(_undecodable, heading)):
        raise CohortError(f"{path}: the heading {broken or 'is not UTF-8 text'}. Save it again as CSV UTF-8.")
    names = [cell.lower() if cell.lower() in COLUMNS else cell for cell in heading]
    while names and not names[-1]:
        names.pop()
    if "slide" not in names:
        raise CohortError(
            f"{path}: the heading has no column 'slide' (found: {', '.join(names) or 'nothing'}). "
            f"Columns are slide, and where you want {', '.join(COLUMNS[1:])}; all others are metadata."
        )
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise CohortError(f"{path}: the heading names a column twice: {', '.join(map(repr, repeated))}.")
    rows: list[CohortRow] = []
    findings: list[RowFinding] = []
    for number, cells, broken in records:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        row, problem = _row(path, number, names, cells)
        rows.append(row)
        if problem := f"the line {broken}" if broken else problem:
            findings.append(RowFinding(row.number, row.id, problem))
    if not rows:
        raise CohortError(f"{path} has a heading and no rows.")
    if len(findings) == len(rows) and all(found.problem == _NO_UTF8 for found in findings):
        raise CohortError(f"{path} is not UTF-8 text. Save it again as CSV UTF-8.")
    wrong = {finding.row for finding in findings}
    findings += [found for found in _id_findings(rows) if found.row not in wrong]
    return Cohort(path_text(path), tuple(rows), tuple(sorted(findings, key=lambda found: found.row)))


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str], str]]:
    """The records of a table: line number, cells, and what is wrong with the quotes of it.

    A quote that is opened and not closed, or closed inside a cell, spoils its own line; the next record begins on
    the next one.
    """
    lines = list(io.StringIO(text, newline=""))

    def rest(start: int) -> Iterator[str]:
        return (lines[number] for number in range(start, len(lines)))

    start = 0
    while start < len(lines):
        reader = csv.reader(rest(start), delimiter=separator, strict=True)
        try:
            yield start + 1, next(reader), ""
            start += reader.line_num
        except csv.Error:
            cells = lines[start].rstrip("\r\n").replace('"', "").split(separator)
            yield start + 1, cells, "has a quote that is not closed, or closed inside of a cell"
            start += 1


def _undecodable(text: str) -> bool:
    """True where text holds bytes that are no UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


def _row(path: Path, number: int, names: Sequence[str], cells: Sequence[str]) -> tuple[CohortRow, str | None]:
    """One line as a row, and what is wrong with it."""
    values = dict(zip(names, (*cells, *[""] * len(names)), strict=False))
    slide, mask = values["slide"], values.get("mask", "")
    problem: str | None = None
    mpp: float | None = None
    if written := values.get("mpp", ""):
        try:
            mpp = float(written.replace(",", "."))
        except ValueError:
            mpp = -1.0
        if not 0 < mpp < 1000:
            problem, mpp = f"mpp {written!r} is no number of micrometres per pixel", None
    frame: PixelFrame | None = None
    if written := values.get("frame", ""):
        try:
            frame = PixelFrame(written.lower())
        except ValueError:
            problem = f"frame {written!r} is none of {', '.join(PixelFrame)}"
    if not slide:
        problem = "the column 'slide' is empty"
    if any(map(_undecodable, cells)) and not _located(path.absolute().parent, slide).exists():
        problem = _NO_UTF8
    if any(cells[len(names) :]):
        problem = f"{len(cells)} cells, and the heading has {len(names)} (is text with a separator quoted?)"
    base = path.absolute().parent
    row = CohortRow(
        number=number,
        id=path_text(values.get("id") or "") or (name_of(as_path(slide)) if slide else ""),
        slide=path_text(_located(base, slide)) if slide else "",
        mpp=mpp,
        mask=_mask_of(mask, base),
        frame=frame,
        group=path_text(values.get("group", "")),
        metadata={name: path_text(values[name]) for name in names if name and name not in COLUMNS},
    )
    return row, problem


def _mask_of(mask: str, base: Path) -> str | None:
    if not mask:
        return None
    from wsi.tissue import METHODS

    return mask if mask in METHODS else path_text(_located(base, mask))


def _located(base: Path, text: str) -> Path:
    """A path of the table, which may begin with `~` for the home folder and may be a name that begins so."""
    if isinstance(address := as_path(text), RemotePath):
        return address
    path = path_of(base / text)
    if path.exists() or not text.startswith("~"):
        return path
    try:
        return path_of(base / Path(text).expanduser())
    except RuntimeError:  # nobody's home
        return path


def _id_findings(rows: Iterable[CohortRow]) -> list[RowFinding]:
    """Ids that are no folder names, and ids that several rows share: neither row is run."""
    findings = []
    sharing: dict[str, list[CohortRow]] = defaultdict(list)
    for row in rows:
        if reason := why_unsafe(row.id):
            findings.append(RowFinding(row.number, row.id, f"the id {row.id!r} {reason}; give a plain name"))
        else:
            sharing[folded(row.id)].append(row)
    for same in sharing.values():
        if len(same) > 1:
            numbers = ", ".join(str(row.number) for row in same)
            findings += [
                RowFinding(
                    row.number,
                    row.id,
                    f"the id {row.id!r} is shared by rows {numbers} (case does not count); give each its own",
                )
                for row in same
            ]
    return findings
