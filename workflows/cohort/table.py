"""The rows of a cohort: which slides, under which names, with which facts of their own."""

from __future__ import annotations

import csv
import glob
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workflows.cohort.folder import RESERVED
from workflows.errors import CohortError
from wsi.frames import PixelFrame

COLUMNS = ("slide", "id", "mpp", "mask", "frame", "group")
"""Columns with a meaning; every other one is metadata."""

SUFFIXES = (
    ".svs", ".ndpi", ".tif", ".tiff", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".qptiff", ".dcm",
    ".ome.zarr", ".zarr",
)  # fmt: skip
"""What counts as a slide in a folder. Plain pictures have to be named by a table or a glob."""

_LONGEST = 150
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One slide of a cohort.

    Attributes
    ----------
    number : int
        Line of the table, the heading being line 1; position in a folder or glob, from 1.
    id : str
        Name of the run folder.
    slide : str
        Absolute path.
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
class Finding:
    """Something wrong with one row: it is not run, and the others are."""

    row: int
    id: str
    problem: str

    def __str__(self) -> str:
        return f"row {self.row} ({self.id or 'no id'}): {self.problem}"


@dataclass(frozen=True, slots=True)
class Cohort:
    """The rows of a cohort in their order, and what is wrong with some of them."""

    source: str
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()


def read_cohort(source: str | Path) -> Cohort:
    """Read a table (CSV), a folder of slides, or a glob.

    Paths in a table are relative to its folder. The separator may be comma, semicolon or tab.

    Raises
    ------
    CohortError
        There is nothing of that name, it holds no slides, or the heading cannot be used.
    """
    path = Path(source)
    if path.is_dir() and not path.name.lower().endswith(".zarr"):
        files = sorted(p for p in path.iterdir() if p.name.lower().endswith(SUFFIXES) and p.name[0] != ".")
        return _of_files(str(source), files, f"no slide ({', '.join(SUFFIXES)}) lies in this folder")
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _read_table(path)
    if glob.has_magic(str(source)):
        files = sorted(Path(name) for name in glob.glob(str(source), recursive=True))
        return _of_files(str(source), files, "this pattern finds nothing")
    if path.exists():
        return _of_files(str(source), [path], "")
    raise CohortError(f"{source} does not exist. Give a table (CSV), a folder of slides, or a pattern.")


def name_of(path: Path) -> str:
    """The id of a slide that has none: its file name without suffix."""
    lower = path.name.lower()
    longest = max(
        (s for s in (*SUFFIXES, ".ome.tif", ".ome.tiff") if lower.endswith(s)), key=len, default=None
    )
    return path.name[: -len(longest)] if longest else path.stem


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


def _of_files(source: str, files: Sequence[Path], nothing: str) -> Cohort:
    if not files:
        raise CohortError(f"{source}: {nothing}.")
    rows = [Row(number, name_of(path), str(path.absolute())) for number, path in enumerate(files, 1)]
    return Cohort(source, tuple(rows), tuple(_id_findings(rows)))


def _read_table(path: Path) -> Cohort:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(
            f"{path} is not UTF-8 text ({error.reason}). Save it again as CSV UTF-8."
        ) from error
    except OSError as error:
        raise CohortError(f"{path} cannot be read: {error.strerror}.") from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    heading = [cell.strip() for cell in next(reader, [])]
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
    rows: list[Row] = []
    findings: list[Finding] = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        row, problem = _row(path, reader.line_num, names, cells)
        rows.append(row)
        if problem:
            findings.append(Finding(row.number, row.id, problem))
    if not rows:
        raise CohortError(f"{path} has a heading and no rows.")
    wrong = {finding.row for finding in findings}
    findings += [found for found in _id_findings(rows) if found.row not in wrong]
    return Cohort(str(path), tuple(rows), tuple(sorted(findings, key=lambda found: found.row)))


def _row(path: Path, number: int, names: Sequence[str], cells: Sequence[str]) -> tuple[Row, str | None]:
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
    if any(cells[len(names) :]):
        problem = f"{len(cells)} cells, and the heading has {len(names)} (is text with a separator quoted?)"
    base = path.absolute().parent
    row = Row(
        number=number,
        id=values.get("id") or (name_of(Path(slide)) if slide else ""),
        slide=str(base / Path(slide).expanduser()) if slide else "",
        mpp=mpp,
        mask=_mask_of(mask, base),
        frame=frame,
        group=values.get("group", ""),
        metadata={name: values[name] for name in names if name and name not in COLUMNS},
    )
    return row, problem


def _mask_of(mask: str, base: Path) -> str | None:
    if not mask:
        return None
    from wsi.tissue import METHODS

    return mask if mask in METHODS else str(base / Path(mask).expanduser())


def _id_findings(rows: Iterable[Row]) -> list[Finding]:
    """Ids that are no folder names, and ids that several rows share: neither row is run."""
    findings = []
    sharing: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if reason := why_unsafe(row.id):
            findings.append(Finding(row.number, row.id, f"the id {row.id!r} {reason}; give a plain name"))
        else:
            sharing[folded(row.id)].append(row)
    for same in sharing.values():
        if len(same) > 1:
            numbers = ", ".join(str(row.number) for row in same)
            findings += [
                Finding(
                    row.number, row.id,
                    f"the id {row.id!r} is shared by rows {numbers} (case does not count); give each its own",
                )
                for row in same
            ]  # fmt: skip
    return findings
