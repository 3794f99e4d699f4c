"""Reading a batch of photographs: sheet and model in, one report out. A stopped batch goes on where it was."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from qwenvl.answer import Answer
from qwenvl.engines.base import Engine
from qwenvl.families import FAMILIES
from qwenvl.geometry import CoordinateSpace
from qwenvl.request import Request
from workflows._folder import LOCK, PARTIAL, free_name, replace_whole
from workflows.errors import ForeignFolderError, RunMismatchError
from workflows.instruments.asking import Form, View, readings_of, request_of, views_of
from workflows.instruments.errors import PhotographError
from workflows.instruments.photograph import Part, Pixels, list_photographs, load_photograph
from workflows.instruments.report import (
    JOURNAL,
    PICTURES,
    REPORT,
    SHEET,
    TABLE,
    InstrumentReport,
    PhotographReport,
    counts_of,
)
from workflows.instruments.sheet import Sheet, sheet_text
from workflows.instruments.values import Reading, ValueStatus, nothing
from workflows.provenance import model_facts, plain_json, software_versions, utc_now
from wsi.fingerprint import fingerprint_path
from wsi.names import path_text

_BATCH = 32


@dataclass(frozen=True)
class Progress:
    """How far a batch is."""

    done: int
    total: int
    counts: dict[str, int]


@dataclass(frozen=True)
class ReadResult:
    """What a batch ended with."""

    report: InstrumentReport
    folder: Path
    cancelled: bool = False


@dataclass(frozen=True)
class Asking:
    """How a batch is asked.

    Attributes
    ----------
    sheet : Sheet
    form : Form
    side : int or None
        Longer side that the model is shown; None leaves the size to the model.
    least_score : float
        Values less sure than this are reported as invalid.
    max_new_tokens : int or None
    """

    sheet: Sheet
    form: Form = Form.VALUES
    side: int | None = None
    least_score: float = 0.0
    max_new_tokens: int | None = None

    def requests(self, space: CoordinateSpace) -> list[tuple[View, Request]]:
        """Every view with its question.

        Raises
        ------
        SheetError
        """
        return [
            (
                view,
                request_of(
                    view, self.form, space=space, title=self.sheet.title, max_new_tokens=self.max_new_tokens
                ),
            )
            for view in views_of(self.sheet)
        ]


def read_photographs(
    paths: Sequence[Path],
    asking: Asking,
    engine: Engine,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> ReadResult:
    """Read a sheet off photographs.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders of photographs.
    asking : Asking
    engine : Engine
    out : Path
        Folder of the report; made where it does not exist. One that holds the same batch is gone on with.
    overwrite : bool
        Set another batch found there aside (renamed, never deleted).
    cancel : threading.Event, optional
        When set, the batch stops after the photographs at hand; its report says nothing of the others.

    Raises
    ------
    PhotographError
        A path does not exist.
    SheetError
        The sheet cannot be asked in this form.
    RunMismatchError, ForeignFolderError
        The folder holds another batch, or other files.
    """
    family = FAMILIES.get(engine.info.family)
    space = family.space if family is not None else CoordinateSpace.RELATIVE_1000
    asked = asking.requests(space)
    files = list_photographs(list(paths))
    journal = _Journal.open(out, asking, [request for _, request in asked], engine, overwrite=overwrite)
    readers = [_Reader(view, request, asking, engine) for view, request in asked]
    done: dict[str, PhotographReport] = {}
    cancelled = False
    for group in _groups(files, min([_BATCH, *(engine.batch_size(request) for _, request in asked)])):
        if cancel is not None and cancel.is_set():
            cancelled = True
            break
        for found in _read_group(group, readers, asking.sheet, journal):
            done[found.path] = found
        if progress is not None:
            progress(Progress(len(done), len(files), counts_of(done.values())))
    report = InstrumentReport(
        schema="napari-qwenvl/instruments/1", created=utc_now(), model=model_facts(engine.info), form=str(asking.form),
        side=asking.side, least_score=asking.least_score, requests=tuple(request for _, request in asked),
        request_hashes=tuple(request.hash for _, request in asked),
        sheet=json.loads(asking.sheet.model_dump_json(by_alias=True, exclude_defaults=True)),
        value_schema=asking.sheet.json_schema(), counts=counts_of(done.values()), versions=software_versions(),
        photographs=tuple(done.values()),
    )  # fmt: skip
    report.save(out)
    return ReadResult(report, out, cancelled)


class _Reader:
    """Asks one question about one view of photographs."""

    def __init__(self, view: View, request: Request, asking: Asking, engine: Engine) -> None:
        self.view, self._request, self._asking, self._engine = view, request, asking, engine

    def read(self, photographs: Sequence[Pixels]) -> list[tuple[dict[str, Reading], str]]:
        """Readings and the model's words of each photograph."""
        parts: list[Part | PhotographError] = []
        for pixels in photographs:
            try:
                parts.append(Part.of(pixels, self.view.region, self._asking.side))
            except PhotographError as error:
                parts.append(error)
        shown = [part for part in parts if isinstance(part, Part)]
        answers = iter(self._engine.answer([part.pixels for part in shown], self._request) if shown else [])
        return [
            self._told(part, next(answers))
            if isinstance(part, Part)
            else (_failed(self.view.fields, str(part)), "")
            for part in parts
        ]

    def _told(self, part: Part, answer: Answer) -> tuple[dict[str, Reading], str]:
        readings = readings_of(self.view, self._asking.form, answer)
        placed = {
            name: one if one.box is None else one.model_copy(update={"box": part.in_photograph(one.box)})
            for name, one in readings.items()
        }
        return {name: self._sure(one) for name, one in placed.items()}, answer.raw

    def _sure(self, one: Reading) -> Reading:
        least = self._asking.least_score
        if one.status is not ValueStatus.READ or least <= 0 or (one.score is not None and one.score >= least):
            return one
        score = "unknown" if one.score is None else f"{one.score:.2f}"
        reasons = (*one.reasons, f"its score is {score}, less than {least:g}")
        return one.model_copy(update={"status": ValueStatus.INVALID, "value": None, "reasons": reasons})


def _read_group(
    group: Sequence[Path], readers: Sequence[_Reader], sheet: Sheet, journal: _Journal
) -> Iterator[PhotographReport]:
    """Reports of some photographs, in order; those already in the journal are not asked about again."""
    found: dict[Path, PhotographReport] = {}
    fresh: list[tuple[Path, str, Pixels]] = []
    for path in group:
        try:
            fingerprint = fingerprint_path(path)
            known = journal.known(fingerprint)
            if known is not None:
                found[path] = known.model_copy(update={"name": path_text(path.name), "path": path_text(path)})
                continue
            fresh.append((path, fingerprint, load_photograph(path)))
        except (OSError, PhotographError) as error:
            found[path] = _unread(path, sheet, str(error))
    told = [reader.read([pixels for _, _, pixels in fresh]) for reader in readers] if fresh else []
    for number, (path, fingerprint, pixels) in enumerate(fresh):
        readings: dict[str, Reading] = {}
        for rows in told:
            readings |= rows[number][0]
        readings = {name: readings[name] for name in sheet.fields}
        report = PhotographReport(
            name=path.name, path=str(path), fingerprint=fingerprint, width=pixels.shape[1], height=pixels.shape[0],
            complete=_complete(sheet, readings), values=_values(sheet, readings), readings=readings,
            answers=tuple(rows[number][1] for rows in told),
        )  # fmt: skip
        journal.add(report)
        found[path] = report
    for path in group:
        yield found[path]


def _unread(path: Path, sheet: Sheet, error: str) -> PhotographReport:
    return PhotographReport(
        name=path.name, path=str(path), fingerprint=None, width=None, height=None, complete=False,
        values=dict.fromkeys(sheet.fields), readings=_failed(sheet.fields, error), error=error,
    )  # fmt: skip


def _failed(fields: Any, error: str) -> dict[str, Reading]:
    return {name: nothing(field, ValueStatus.FAILED, error) for name, field in fields.items()}


def _complete(sheet: Sheet, readings: dict[str, Reading]) -> bool:
    return all(
        readings[name].status is ValueStatus.READ for name, field in sheet.fields.items() if field.required
    )


def _values(sheet: Sheet, readings: dict[str, Reading]) -> dict[str, Any]:
    """Values by field, valid by the sheet's own JSON Schema: `judge` sees to it, and this makes sure."""
    values = {name: one.value for name, one in readings.items()}
    Draft202012Validator(sheet.json_schema()).validate(values)
    return values


def _groups(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), max(1, size)):
        yield files[start : start + max(1, size)]


class _Journal:
    """What was read so far: a line per photograph, in a folder that belongs to one sheet, form and model."""

    def __init__(self, path: Path, known: dict[str, PhotographReport]) -> None:
        self._path, self._known = path, known

    @classmethod
    def open(
        cls, folder: Path, asking: Asking, requests: Sequence[Request], engine: Engine, *, overwrite: bool
    ) -> _Journal:
        """The journal of a folder, made where there is none.

        Raises
        ------
        RunMismatchError, ForeignFolderError
        """
        identity = {
            "requests": [request.hash for request in requests], "model": engine.info.fingerprint,
            "adapter": engine.info.adapter, "sheet": sheet_text(asking.sheet), "side": asking.side,
            "least_score": asking.least_score,
        }  # fmt: skip
        head = json.dumps(plain_json(identity), sort_keys=True)
        path = folder / JOURNAL
        if folder.exists() and not folder.is_dir():
            raise ForeignFolderError(f"{folder} is a file; name a folder with -o")
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            if lines and lines[0] == head:
                return cls(path, _rows(lines[1:]))
            if not overwrite:
                raise RunMismatchError(
                    f"{folder} holds readings of another sheet, form or model; name another folder with -o, or set it "
                    "aside with --overwrite"
                )
            folder.rename(free_name(folder))
        elif folder.is_dir():
            ours = {JOURNAL, REPORT, TABLE, SHEET, LOCK, PICTURES}
            foreign = sorted(p.name for p in folder.iterdir() if p.name.removesuffix(PARTIAL) not in ours)
            if foreign:
                raise ForeignFolderError(
                    f"{folder} holds other files ({foreign[0]}); name an empty or new folder with -o"
                )
        folder.mkdir(parents=True, exist_ok=True)
        replace_whole(folder / SHEET, lambda part: _put(part, sheet_text(asking.sheet)))
        replace_whole(path, lambda part: _put(part, head + "\n"))
        return cls(path, {})

    def known(self, fingerprint: str) -> PhotographReport | None:
        """What was read of a photograph with this content; None where it is new, or failed."""
        return self._known.get(fingerprint)

    def add(self, report: PhotographReport) -> None:
        """Keep a photograph's readings; those that failed are asked for again the next time."""
        if any(one.status is ValueStatus.FAILED for one in report.readings.values()):
            return
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(report.model_dump_json() + "\n")


def _rows(lines: Sequence[str]) -> dict[str, PhotographReport]:
    """Reports by fingerprint; a last line that a killed process left half written is left out."""
    from pydantic import ValidationError

    found: dict[str, PhotographReport] = {}
    for line in lines:
        try:
            report = PhotographReport.model_validate_json(line)
        except ValidationError:
            continue
        if report.fingerprint is not None:
            found[report.fingerprint] = report
    return found


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
