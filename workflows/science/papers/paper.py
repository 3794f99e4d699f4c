"""What was read out of one document: records, the place of each value, and where it all comes from."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, JsonValue

from qwenvl.request import Request
from workflows.errors import RunNotFoundError
from workflows.science.papers.pages.page import Box, Page, TextLayer
from workflows.science.papers.values.finding import How
from workflows.science.papers.values.placing import Anchor
from workflows.store.folder import replace_whole
from workflows.store.provenance import Facts, ModelFacts

RECORDS, TABLE, PICTURES = "records.json", "records.csv", "pages"
"""Names in the folder of a run: the JSON of the paper, its table, and the folder of pictures of its pages."""


class DocumentFacts(Facts):
    """The document as it was read."""

    name: str
    path: str = Field(description="Path on the machine that read it.")
    fingerprint: str = Field(description="Hash of the file's content.")
    kind: str = Field(description="'pdf' or 'picture'.")
    encrypted: bool
    pages: int = Field(description="Pages of the file.")
    read: tuple[int, ...] = Field(description="Numbers of the pages that were asked about, from 1.")


class CaptionFacts(Facts):
    """A caption."""

    number: str
    text: str
    box_pt: Box


class TableFacts(Facts):
    """A table found by its rules."""

    box_pt: Box
    rows_pt: tuple[Box, ...] = Field(description="Place of each row.")
    cells: tuple[tuple[str, ...], ...] = Field(description="Words of each row by column.")
    caption: CaptionFacts | None


class FigureFacts(Facts):
    """A picture or drawing."""

    box_pt: Box
    raster: bool = Field(description="Embedded pixels, whose print is in no text layer.")
    caption: CaptionFacts | None


class PageFacts(Facts):
    """A page as it was read. Frames: pt and px have their origin at the top left of the page as shown, y down."""

    page: int
    width_pt: float = 0.0
    height_pt: float = 0.0
    width_px: int = 0
    height_px: int = 0
    dpi: float = Field(0.0, description="Resolution of the picture that the model saw.")
    text_layer: TextLayer | None = None
    words: int = Field(0, description="Words that can be seen on the page.")
    hidden: tuple[str, ...] = Field(
        (), description="Words of the file that leave no ink on the page; no value is anchored to them."
    )
    tables: tuple[TableFacts, ...] = ()
    figures: tuple[FigureFacts, ...] = ()
    error: str | None = Field(None, description="Why the page could not be read.")

    @classmethod
    def of(cls, page: Page) -> PageFacts:
        """Facts of a page."""

        def caption(region: Any) -> CaptionFacts | None:
            c = region.caption
            return None if c is None else CaptionFacts(number=c.number, text=c.text, box_pt=c.box_pt)

        return cls(
            page=page.number,
            width_pt=page.width_pt,
            height_pt=page.height_pt,
            width_px=page.picture.shape[1],
            height_px=page.picture.shape[0],
            dpi=page.scale * 72,
            text_layer=page.text_layer,
            words=len(page.printed.words),
            hidden=page.printed.hidden,
            tables=tuple(
                TableFacts(box_pt=t.box_pt, rows_pt=t.rows, cells=t.cells, caption=caption(t)) for t in page.tables
            ),
            figures=tuple(FigureFacts(box_pt=f.box_pt, raster=f.raster, caption=caption(f)) for f in page.figures),
        )


class ValueFacts(Facts):
    """One value and where it stands."""

    value: JsonValue
    anchor: Anchor = Field(
        description="'anchored': found among the page's words. 'model': box from the model only, there being no words "
        "to look in. 'elsewhere': a number or short text printed on the page, but not beside the record's other "
        "values. 'missing': not found on the page. 'absent': no value."
    )
    page: int | None = Field(None, description="Where it stands, or was looked for.")
    boxes_pt: tuple[Box, ...] = Field((), description="One per line of print, in pt.")
    boxes_px: tuple[Box, ...] = Field((), description="The same in px of the page's picture.")
    how: How | None = Field(None, description="How alike value and print are.")
    occurrences: int = Field(0, description="Places on that page that hold the same value.")
    beside: bool = Field(False, description="It stands with the record's other values.")
    table: int | None = Field(None, description="Number of the table on that page, from 0.")
    row: int | None = Field(None, description="Row of that table, from 0.")
    model_box_px: Box | None = Field(None, description="Where the model said it stands, whatever was found.")


class SeenFacts(Facts):
    """A reading of a record."""

    window: int
    page: int | None


class ContradictionFacts(Facts):
    """Another record that cannot be true as well."""

    record: int
    fields: tuple[str, ...]
    same_place: bool = Field(
        description="Both were read off the same print, so one is misread; else the document says both."
    )


class RecordFacts(Facts):
    """One record."""

    record: int
    values: dict[str, JsonValue] = Field(description="The user's record.")
    page: int | None = Field(description="Page that holds most of it.")
    fields: dict[str, ValueFacts] = Field(description="Each single value by its path in the record.")
    seen: tuple[SeenFacts, ...] = Field(description="Every reading of it: more than one where windows overlap.")
    contradicts: tuple[ContradictionFacts, ...] = ()
    notes: tuple[str, ...] = ()


class WindowFacts(Facts):
    """One question and how it was answered."""

    window: int
    pages: tuple[int, ...]
    status: str
    records: int = Field(description="Valid records of its answer.")
    planned_tokens: int = Field(description="Most tokens that question and answer could take.")
    prompt_tokens: int
    new_tokens: int
    notes: tuple[str, ...] = ()
    error: str | None = None


class Paper(Facts):
    """Everything read out of one document. `records.json` in the folder of a run."""

    version: Literal["papers-1"] = "papers-1"
    document: DocumentFacts
    key: tuple[str, ...] = Field(description="Properties that tell records apart.")
    records: tuple[RecordFacts, ...]
    anchors: dict[str, int] = Field(description="Values by anchor.")
    pages: tuple[PageFacts, ...]
    windows: tuple[WindowFacts, ...]
    statuses: dict[str, int] = Field(description="Windows by status.")
    model: ModelFacts
    request: Request
    request_hash: str
    record_schema: dict[str, JsonValue] = Field(description="The user's schema of one record.")
    warnings: tuple[str, ...] = ()
    versions: dict[str, str]
    command: str | None = None
    created: str

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read the JSON of a run's folder, or the file itself.

        Raises
        ------
        RunNotFoundError
            There is none.
        """
        path = Path(path)
        path = path / RECORDS if path.is_dir() else path
        if not path.is_file():
            raise RunNotFoundError(f"{path} is not there. Read the document first: qwenvl papers read ...")
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of a record's values in the order of the user's schema."""
        found = self.record_schema["properties"]
        return tuple(found) if isinstance(found, dict) else ()

    @property
    def complete(self) -> bool:
        """Whether every page was read and every question answered to its end."""
        whole = all(page.error is None for page in self.pages)
        unknown = ("failed", "truncated", "refused", "open")
        return whole and not any(self.statuses.get(status) for status in unknown)

    def write(self, folder: Path) -> None:
        """Write `records.json` and `records.csv` into a folder, each whole or not at all."""
        text = self.model_dump_json(indent=1)
        replace_whole(folder / RECORDS, lambda path: _write_text(path, text + "\n"))
        write_csv(folder / TABLE, [self])


def count_anchors(records: Sequence[RecordFacts]) -> dict[str, int]:
    """Values by anchor; every anchor is there, also with 0."""
    found = Counter(value.anchor for record in records for value in record.fields.values())
    return {anchor.value: found[anchor] for anchor in Anchor}


def write_csv(path: Path, papers: Sequence[Paper]) -> None:
    """One row per record: document, page, and for each property its value, anchor, page and box in pt.

    A box of several lines is the one around them. Texts that a spreadsheet would run are made inert.
    """
    names = list(dict.fromkeys(name for paper in papers for name in paper.properties))
    head = ["document", "record", "page"]
    for name in names:
        head += [name, f"{name}:anchor", f"{name}:page", f"{name}:box_pt"]
    head += ["contradicts", "notes"]
    from workflows.export.tables import inert

    def fill(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(head)
            for paper in papers:
                for record in paper.records:
                    row: list[Any] = [inert(paper.document.name), record.record, record.page]
                    for name in names:
                        row += _cells(record, name)
                    row += [" ".join(str(c.record) for c in record.contradicts), " ".join(record.notes)]
                    table.writerow(row)

    replace_whole(path, fill)


def _cells(record: RecordFacts, name: str) -> list[object]:
    from workflows.export.tables import inert

    value = record.values.get(name)
    field = record.fields.get(name)
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    shown = inert(shown) if isinstance(shown, str) else shown
    if field is None:
        parts = [f for path, f in record.fields.items() if path.startswith((f"{name}.", f"{name}["))]
        anchors = sorted({part.anchor.value for part in parts})
        return [shown, " ".join(anchors), "", ""]
    box = ""
    if field.boxes_pt:
        low = [min(b[i] for b in field.boxes_pt) for i in (0, 1)]
        high = [max(b[i] for b in field.boxes_pt) for i in (2, 3)]
        box = " ".join(f"{v:.1f}" for v in (*low, *high))
    return [shown, field.anchor.value, field.page, box]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
