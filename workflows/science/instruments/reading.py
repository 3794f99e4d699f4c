"""Reading a batch of photographs: sheet and model in, one report out. A stopped batch goes on where it was."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from qwenvl.answer import Answer
from qwenvl.engines.base import Engine
from qwenvl.families import FAMILIES
from qwenvl.images.geometry import CoordinateSpace
from qwenvl.request import Request
from workflows.run.item_store import ItemStore
from workflows.run.items import Item, Progress, run_items
from workflows.run.writing import writing
from workflows.science.instruments.asking import VALUES, Form, PhotographView, readings_of, views_of
from workflows.science.instruments.errors import PhotographError
from workflows.science.instruments.photograph import (
    PhotographPart,
    Pixels,
    list_photographs,
    load_photograph,
    photograph_size,
)
from workflows.science.instruments.report import SHEET, InstrumentReport, PhotographReport, counts_of
from workflows.science.instruments.values.sheet import Sheet, sheet_text
from workflows.science.instruments.values.values import Reading, ValueStatus, nothing
from workflows.store.folder import replace_whole
from workflows.store.provenance import ItemsManifest, model_facts, software_versions, utc_now
from wsi.errors import SlideChangedError
from wsi.files.identity import FileWatch
from wsi.files.names import path_text

_BATCH = 32
_UNREAD = "unread"
"""Note of a photograph whose file cannot be read."""


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
    form: Form = VALUES
    side: int | None = None
    least_score: float = 0.0
    max_new_tokens: int | None = None

    def requests(self, space: CoordinateSpace) -> list[tuple[PhotographView, Request]]:
        """Every view with its question.

        Raises
        ------
        SheetError
        """
        return [
            (view, self.form.request(view, space=space, title=self.sheet.title, max_new_tokens=self.max_new_tokens))
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
    RunLockedError, StoreError, StoreFullError
    EngineError, RequestError
        The model is unusable. What was answered is stored.
    """
    family = FAMILIES.get(engine.info.family)
    space = family.space if family is not None else CoordinateSpace.RELATIVE_1000
    views = asking.requests(space)
    requests = [request for _, request in views]
    files = list_photographs(list(paths))
    manifest = ItemsManifest(
        kind="photographs",
        asked={"questions": " ".join(request.hash for request in requests), "side": str(asking.side)},
        model=model_facts(engine.info),
        versions=software_versions(),
        created=utc_now(),
    )
    with writing(ItemStore.create(out, manifest, overwrite=overwrite)) as store:
        batch = _Batch(files, asking, views, store)
        size = min([_BATCH, *(engine.batch_size(request) for request in requests)])
        done = run_items(
            batch.items, requests, engine, store, on_batch=progress, cancel=cancel, batch_size=size * len(views)
        )
        photographs = tuple(batch.reports())
        report = InstrumentReport(
            schema="napari-qwenvl/instruments/1",
            created=utc_now(),
            model=store.manifest.model,
            form=asking.form.name,
            side=asking.side,
            least_score=asking.least_score,
            requests=tuple(requests),
            request_hashes=tuple(request.hash for request in requests),
            sheet=json.loads(asking.sheet.model_dump_json(by_alias=True, exclude_defaults=True)),
            value_schema=asking.sheet.json_schema(),
            counts=counts_of(photographs),
            versions=store.manifest.versions,
            photographs=photographs,
        )
        report.save(out)
        text = sheet_text(asking.sheet)
        replace_whole(out / SHEET, lambda path: path.write_text(text, encoding="utf-8"))
    return ReadResult(report, out, done.cancelled)


class _Batch:
    """Photographs, what is asked about each, and what their answers say."""

    def __init__(
        self, files: Sequence[Path], asking: Asking, views: Sequence[tuple[PhotographView, Request]], store: ItemStore
    ) -> None:
        self._files, self._asking, self._views, self._store = files, asking, views, store
        self._watches: dict[Path, FileWatch] = {}
        self._errors: dict[Path, str] = {}
        self._open: tuple[Path, Pixels] | None = None
        for path in files:
            try:
                self._watches[path] = FileWatch.of(path)
            except OSError as error:
                self._errors[path] = str(error)
        keys = [self._key(path, n) for path in self._watches for n in range(len(views))]
        self._numbers = store.numbers(keys)

    @property
    def items(self) -> list[Item]:
        """Every view of every photograph; photographs of one content are one."""
        of_content = {watch.fingerprint: path for path, watch in self._watches.items()}
        return [
            Item(self._numbers[self._key(path, n)], partial(self._load, path, view), request)
            for path in of_content.values()
            for n, (view, request) in enumerate(self._views)
        ]

    def _key(self, path: Path, view: int) -> str:
        return f"{self._watches[path].fingerprint} {view}"

    def _load(self, path: Path, view: PhotographView) -> Pixels | Answer:
        if self._open is None or self._open[0] != path:
            try:
                with self._watches[path].held():
                    self._open = path, load_photograph(path)
            except (OSError, PhotographError, SlideChangedError) as error:
                self._open = None
                return Answer.failure(str(error), notes=(_UNREAD,))
        pixels = self._open[1]
        return PhotographPart.of((pixels.shape[1], pixels.shape[0]), view.region, self._asking.side).cut(pixels)

    def reports(self) -> Iterator[PhotographReport]:
        """Reports of the photographs whose views all have an answer."""
        answers = self._store.answers()
        for path in self._files:
            if path in self._errors:
                yield self._unread(path, None, self._errors[path])
                continue
            found = [answers.get(self._key(path, n)) for n in range(len(self._views))]
            told = [answer for answer in found if answer is not None]
            if len(told) == len(found):
                yield self._report(path, told)

    def _report(self, path: Path, answers: Sequence[Answer]) -> PhotographReport:
        watch, sheet = self._watches[path], self._asking.sheet
        fingerprint = watch.fingerprint
        unread = next((answer.error for answer in answers if _UNREAD in answer.notes), None)
        if unread is not None:
            return self._unread(path, fingerprint, unread)
        try:
            with watch.guarded():
                size = photograph_size(path)
        except (PhotographError, SlideChangedError) as error:
            return self._unread(path, fingerprint, str(error))
        readings: dict[str, Reading] = {}
        for (view, _), answer in zip(self._views, answers, strict=True):
            readings |= self._readings(view, answer, size)
        readings = {name: readings[name] for name in sheet.fields}
        return PhotographReport(
            name=path_text(path.name),
            path=path_text(path),
            fingerprint=fingerprint,
            width=size[0],
            height=size[1],
            complete=_complete(sheet, readings),
            values=_values(sheet, readings),
            readings=readings,
            answers=tuple(answer.raw for answer in answers),
        )

    def _readings(self, view: PhotographView, answer: Answer, size: tuple[int, int]) -> dict[str, Reading]:
        found = readings_of(view, self._asking.form, answer)
        if any(one.box is not None for one in found.values()):
            part = PhotographPart.of(size, view.region, self._asking.side)
            found = {
                name: one if one.box is None else one.model_copy(update={"box": part.in_photograph(one.box)})
                for name, one in found.items()
            }
        return {name: self._sure(one) for name, one in found.items()}

    def _sure(self, one: Reading) -> Reading:
        least = self._asking.least_score
        if one.status is not ValueStatus.READ or least <= 0 or (one.score is not None and one.score >= least):
            return one
        score = "unknown" if one.score is None else f"{one.score:.2f}"
        reasons = (*one.reasons, f"its score is {score}, less than {least:g}")
        return one.model_copy(update={"status": ValueStatus.INVALID, "value": None, "reasons": reasons})

    def _unread(self, path: Path, fingerprint: str | None, error: str) -> PhotographReport:
        fields = self._asking.sheet.fields
        failed = {name: nothing(field, ValueStatus.FAILED, error) for name, field in fields.items()}
        return PhotographReport(
            name=path_text(path.name),
            path=path_text(path),
            fingerprint=fingerprint,
            width=None,
            height=None,
            complete=False,
            values=dict.fromkeys(fields),
            readings=failed,
            error=error,
        )


def _complete(sheet: Sheet, readings: dict[str, Reading]) -> bool:
    return all(readings[name].status is ValueStatus.READ for name, field in sheet.fields.items() if field.required)


def _values(sheet: Sheet, readings: dict[str, Reading]) -> dict[str, Any]:
    """Values by field, valid by the sheet's own JSON Schema: `judge` sees to it, and this makes sure."""
    values = {name: one.value for name, one in readings.items()}
    Draft202012Validator(sheet.json_schema()).validate(values)
    return values
