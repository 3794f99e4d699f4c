"""The main job: a document and a schema to records, every value with its page and box.

`read_paper` goes from top to bottom: pages, question, windows, answers (kept in the journal of a run folder as they
come, so that a killed run goes on), then the records as a function of journal and document.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from qwenvl.answer import Answer, Status
from qwenvl.engines.base import Engine
from qwenvl.parse.json.extracted import valid_items
from qwenvl.request import Generation
from qwenvl.subject import Subject
from workflows.inputs.watched import check_unchanged, confirm_unchanged
from workflows.run.item_store import ItemStore
from workflows.run.items import Item, Progress, run_items
from workflows.run.splitting import Split, Why, path_of
from workflows.run.writing import writing
from workflows.science.papers.pages.document import DPI, Document, DocumentError, PageError, page_range
from workflows.science.papers.pages.drawing import page_picture, write_picture
from workflows.science.papers.pages.page import Page, TextLayer
from workflows.science.papers.pages.windows import PageWindow, parted, plan_windows, windows_of
from workflows.science.papers.paper import PICTURES, Paper
from workflows.science.papers.question import WindowQuestion, make_question, picture_rule, subject_of
from workflows.science.papers.records import LIBRARIES, paper_of
from workflows.science.papers.schema import Boxes, RecordSchema
from workflows.store.provenance import ItemsManifest, model_facts, software_versions, utc_now
from workflows.store.rows import TILE_DTYPE


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a document is read.

    Attributes
    ----------
    what : str, optional
        The user's words on what to look for.
    pages : str, optional
        '3', '2-5', '7-' or '1-3,8'; all by default.
    dpi : float
        Resolution of the pictures of pages; less where the model takes fewer px.
    boxes : Boxes, optional
        What the model gives boxes for; by default each record where all pages have words to look values up in,
        each value where one has none.
    context : int, optional
        Tokens of a question and its answer together; by default what the model says it holds, else 32,768.
    window : int
        Most pages of one question.
    overlap : int
        Pages that neighbouring questions share, for tables that go on over a page.
    most_records : int
        Most records of one answer.
    generation : Generation
    system_prompt : str, optional
    """

    what: str | None = None
    pages: str | None = None
    dpi: float = DPI
    boxes: Boxes | None = None
    context: int | None = None
    window: int = 4
    overlap: int = 1
    most_records: int = 100
    generation: Generation = field(default_factory=lambda: Generation(max_new_tokens=4096))
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.window <= 100 or not 0 <= self.overlap < max(self.window, 2):
            raise DocumentError(
                f"windows of {self.window} pages that share {self.overlap}: use 1 to 100 pages, sharing fewer than that"
            )
        if self.most_records < 1:
            raise DocumentError("most_records: an answer needs room for one record")


@dataclass(frozen=True)
class ReadingPlan:
    """What reading a document takes, before anything is asked.

    Attributes
    ----------
    pages : tuple of int
        Numbers of the pages that can be read.
    errors : dict
        Why the others cannot, by number.
    sizes : tuple of (int, int)
        Width and height in px of each page's picture.
    question : WindowQuestion
    windows : tuple of PageWindow
    tokens : tuple of int
        Of each page.
    wordless : tuple of int
        Pages without a text layer, on which nothing can be looked up.
    overlap : int
    """

    pages: tuple[int, ...]
    errors: dict[int, str]
    sizes: tuple[tuple[int, int], ...]
    question: WindowQuestion
    windows: tuple[PageWindow, ...]
    tokens: tuple[int, ...]
    wordless: tuple[int, ...]
    overlap: int

    def planned(self, window: PageWindow) -> int:
        """Most tokens of a window's question and answer."""
        pictures = sum(self.tokens[window.first : window.first + window.count])
        return pictures + self.question.words + self.question.request.generation.max_new_tokens

    def lines(self) -> Iterator[str]:
        """What a user is told before the run."""
        question = self.question
        yield f"{len(self.pages)} pages in {len(self.windows)} questions"
        most = max(map(self.planned, self.windows))
        yield f"at most {most:,} of {question.context:,} tokens a question, its answer included"
        if self.wordless:
            shown = ", ".join(map(str, self.wordless[:8])) + (" ..." if len(self.wordless) > 8 else "")
            yield f"no text layer on page {shown}: boxes there can only come from the model"
        for number, error in self.errors.items():
            yield f"page {number} is left out: {error}"


@dataclass(frozen=True)
class PaperResult:
    """A finished or stopped run."""

    paper: Paper
    folder: Path
    cancelled: bool


def plan_paper(document: Document, schema: RecordSchema, engine: Engine, settings: ReadSettings) -> ReadingPlan:
    """Lay out a run.

    Raises
    ------
    DocumentError
        No page can be read, or none fits into the context.
    """
    rule, _ = picture_rule(engine, settings.dpi)
    pages: list[int] = []
    sizes: list[tuple[int, int]] = []
    errors: dict[int, str] = {}
    wordless: list[int] = []
    for number in page_range(settings.pages, document.pages):
        try:
            width, height = document.size(number)
            if document.kind == "pdf":
                sizes.append(rule.size_of(width, height, rule.scale_of(width, height)))
            else:
                sizes.append((int(width), int(height)))
            signs = document.signs(number)
        except PageError as error:
            errors[number] = str(error)
            del sizes[len(pages) :]
            continue
        pages.append(number)
        wordless += [] if signs else [number]
    if not pages:
        raise DocumentError(f"{document.path}: no page can be read. {next(iter(errors.values()))}")
    boxes = settings.boxes or (Boxes.VALUE if wordless else Boxes.RECORD)
    question = make_question(
        schema,
        engine,
        what=settings.what,
        boxes=boxes,
        dpi=settings.dpi,
        extent_px=(max(w for w, _ in sizes), max(h for _, h in sizes)),
        pages=max(pages),
        most_records=settings.most_records,
        generation=settings.generation,
        system_prompt=settings.system_prompt,
        context=settings.context,
    )
    tokens = tuple(question.page_tokens(*size) for size in sizes)
    windows = plan_windows(tokens, question.room, most=settings.window, overlap=settings.overlap)
    return ReadingPlan(
        tuple(pages), errors, tuple(sizes), question, tuple(windows), tokens, tuple(wordless), settings.overlap
    )


def read_paper(
    document: Document,
    schema: RecordSchema,
    engine: Engine,
    out: Path | str,
    settings: ReadSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    command: str | None = None,
) -> PaperResult:
    """Read a document, or go on where an earlier run of the same question stopped.

    Parameters
    ----------
    document : Document
    schema : RecordSchema
        Of one record.
    engine : Engine
    out : Path or str
        Run folder: the journal, `records.json`, `records.csv` and a picture of each page that holds a value.
    settings : ReadSettings, optional
    overwrite : bool
        Set another run found there aside (renamed, not deleted).
    progress : callable, optional
        Called after each batch.
    cancel : threading.Event, optional
        Stops after the batch at hand; what was answered is kept and written.
    command : str, optional
        For the provenance.

    Raises
    ------
    DocumentError
        No page can be read, or none fits into the context.
    RunMismatchError
        The folder holds another run.
    EngineError, RequestError
        The model is unusable. What was answered is stored.
    SlideChangedError
        The file was rewritten while it was read. Nothing of that batch is stored, and no report is written.
    """
    plan = plan_paper(document, schema, engine, settings or ReadSettings())
    with writing(ItemStore.create(out, _manifest(document, plan, engine), overwrite=overwrite)) as store:
        cancelled = _ask(store, document, plan, engine, progress, cancel)
        paper = _finish(store, document, plan, command)
    return PaperResult(paper, Path(out), cancelled)


def _manifest(document: Document, plan: ReadingPlan, engine: Engine) -> ItemsManifest:
    question = plan.question
    laid = {
        "sizes": plan.sizes,
        "windows": [(w.index, w.first, w.count) for w in plan.windows],
        "context": question.context,
        "key": question.schema.key,
        "schema": dict(question.schema.schema),
    }
    text = json.dumps(laid, sort_keys=True)
    return ItemsManifest(
        kind="pages",
        asked={
            "document": document.fingerprint,
            "question": question.request.hash,
            "pages": ",".join(map(str, plan.pages)),
            "windows": hashlib.sha256(text.encode()).hexdigest()[:32],
        },
        model=model_facts(engine.info),
        versions=software_versions(LIBRARIES),
        created=utc_now(),
    )


def _ask(
    store: ItemStore,
    document: Document,
    plan: ReadingPlan,
    engine: Engine,
    progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
) -> bool:
    """Ask about every open window; halve those whose answer was cut off. True where it was stopped."""
    known: dict[int, Page] = {}
    asked: dict[int, PageWindow] = {}

    def items(windows: Sequence[PageWindow]) -> list[Item]:
        numbers = store.numbers([window.key for window in windows])
        asked.update({numbers[window.key]: window for window in windows})
        return [Item(numbers[w.key], partial(_subject, document, plan, w, known)) for w in windows]

    def split(item: Item, answer: Answer) -> Split | None:
        window, roots = asked[item.key], len(plan.windows)
        if not parted(answer, window):
            return None
        why = Why.LOOP if answer.finish_reason == "loop" else Why.TRUNCATED
        halves = items(window.halves(roots, plan.overlap))
        return Split(item.key, why, len(path_of(window.index, roots)), np.zeros(0, TILE_DTYPE), halves)

    windows = list(windows_of(plan.windows, store.answers(), plan.overlap))
    return run_items(
        items(windows),
        [plan.question.request],
        engine,
        store,
        split=split,
        on_batch=progress,
        refine=lambda _, answer: _salvaged(answer, plan),
        guard=lambda: check_unchanged(document.watch, store),
        cancel=cancel,
        batch_size=None if engine.info.device == "server" else 1,
    ).cancelled


def _subject(document: Document, plan: ReadingPlan, window: PageWindow, known: dict[int, Page]) -> Subject:
    """The pages of a window. Those needed again are kept; PageError where one of them cannot be drawn."""
    numbers = window.of(plan.pages)
    for number in list(known):
        if number < numbers[0]:
            del known[number]
    for number in numbers:
        if number not in known:
            try:
                known[number] = document.page(number, plan.question.rule)
            except PageError as error:
                raise PageError(f"{error}; leave it out with --pages") from error
    return subject_of([known[number] for number in numbers])


def _salvaged(answer: Answer, plan: ReadingPlan) -> Answer:
    """An answer with the entries that are valid each by itself, where it is damaged or cut off as a whole.

    Its objects are left out: boxes here belong to the page that each entry names, not to one picture.
    """
    answer = replace(answer, objects=())
    if answer.value is not None or not answer.raw or answer.status not in (Status.TRUNCATED, Status.FAILED):
        return answer
    text = answer.raw.rpartition(plan.question.family.think_close)[2]
    entries, others = valid_items(text, plan.question.item)
    if answer.status is Status.TRUNCATED:
        return replace(answer, value=entries, notes=(*answer.notes, f"complete:{len(entries)}"))
    if not entries:
        return answer
    notes = (*answer.notes, f"dropped:invalid:{others}")
    return replace(answer, status=Status.REPAIRED, value=entries, notes=notes, error=None)


def _finish(store: ItemStore, document: Document, plan: ReadingPlan, command: str | None) -> Paper:
    """Write what the journal holds: records, table, pictures."""
    pages: dict[int, Page] = {}
    errors = dict(plan.errors)
    for number in plan.pages:
        try:
            page = document.page(number, plan.question.rule)
        except PageError as error:
            errors[number] = str(error)
            continue
        # Without their pixels, the pages of a long paper fit into memory; boxes need the size alone.
        pages[number] = replace(page, picture=np.broadcast_to(np.uint8(255), page.picture.shape))
    confirm_unchanged(document.watch, store)
    paper = paper_of(store, document, plan, pages, errors, command=command)
    paper.write(store.folder)
    marked = sorted({v.page for r in paper.records for v in r.fields.values() if v.page is not None and v.boxes_pt})
    folder = store.folder / PICTURES
    for number in marked:
        folder.mkdir(exist_ok=True)
        picture = page_picture(document.page(number, plan.question.rule), paper)
        write_picture(folder / f"page-{number:03d}.png", picture)
    for path in folder.glob("page-*.png") if folder.is_dir() else ():
        if path.name not in {f"page-{number:03d}.png" for number in marked}:
            path.unlink()  # of an earlier, less complete state of this run
    return paper


def layer_words(layer: TextLayer | None) -> str:
    """A text layer in words."""
    if layer is TextLayer.WORDS:
        return "words"
    if layer is TextLayer.UNREADABLE:
        return "a text layer without meaning (as good as none)"
    return "no text layer (a scan or picture): boxes can only come from the model"
