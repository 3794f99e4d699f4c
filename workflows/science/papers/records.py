"""From the answers in a run's journal to the records of a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwenvl.answer import Answer, Status
from workflows.run.item_store import ItemStore
from workflows.science.papers.pages.document import Document
from workflows.science.papers.pages.page import Box, Page, TextLayer
from workflows.science.papers.pages.windows import windows_of
from workflows.science.papers.paper import (
    ContradictionFacts,
    DocumentFacts,
    PageFacts,
    Paper,
    RecordFacts,
    SeenFacts,
    ValueFacts,
    WindowFacts,
    count_anchors,
)
from workflows.science.papers.question import WindowQuestion
from workflows.science.papers.schema import leaves_of
from workflows.science.papers.values.finding import Finder
from workflows.science.papers.values.merging import Merged, WindowReading, merge_records
from workflows.science.papers.values.numbers import decimal_comma
from workflows.science.papers.values.placing import FoundText, place_record
from workflows.store.provenance import software_versions

if TYPE_CHECKING:
    from workflows.science.papers.reading import ReadingPlan

LIBRARIES = ("napari-qwenvl", "numpy", "opencv-python-headless", "pypdfium2", "xgrammar")


def paper_of(
    store: ItemStore,
    document: Document,
    plan: ReadingPlan,
    pages: Mapping[int, Page],
    errors: Mapping[int, str],
    *,
    command: str | None,
) -> Paper:
    """Everything that the answers so far say.

    Parameters
    ----------
    store : ItemStore
    document : Document
    plan : ReadingPlan
    pages : mapping
        Those that could be read; of their pictures only the size counts.
    errors : mapping
        Why others could not.
    command : str or None
        Of this call.
    """
    numbers, question = plan.pages, plan.question
    comma = decimal_comma("\n".join(page.printed.text for page in pages.values()))
    finders = {number: Finder(page, comma=comma) for number, page in pages.items()}
    answers = store.answers()
    readings: list[WindowReading] = []
    windows: list[WindowFacts] = []
    for window in sorted(windows_of(plan.windows, answers, plan.overlap), key=lambda each: each.index):
        shown, answer = window.of(numbers), answers.get(window.key)
        found = [] if answer is None else read_answer(answer, window.index, shown, finders, question)
        readings += found
        windows.append(_window_facts(answer, window.index, shown, len(found), plan.planned(window)))
    windows.sort(key=lambda each: each.status == "open")
    merged = merge_records(readings, question.schema.key)
    records = _record_facts(merged, pages)
    facts = [PageFacts.of(pages[n]) if n in pages else PageFacts(page=n, error=errors.get(n)) for n in numbers]
    facts += [PageFacts(page=n, error=error) for n, error in errors.items() if n not in numbers]
    statuses = {status.value: 0 for status in Status} | {"open": 0}
    for window_facts in windows:
        statuses[window_facts.status] += 1
    return Paper(
        document=DocumentFacts(
            name=document.path.name,
            path=str(document.path.absolute()),
            fingerprint=document.fingerprint,
            kind=document.kind,
            encrypted=document.encrypted,
            pages=document.pages,
            read=tuple(numbers),
        ),
        key=question.schema.key,
        records=records,
        anchors=count_anchors(records),
        pages=tuple(sorted(facts, key=lambda page: page.page)),
        windows=tuple(windows),
        statuses=statuses,
        model=store.manifest.model,
        request=question.request,
        request_hash=question.request.hash,
        record_schema=dict(question.schema.schema),
        warnings=tuple(_warnings(facts, windows, question)),
        versions=software_versions(LIBRARIES),
        command=command,
        created=store.manifest.created,
    )


def read_answer(
    answer: Answer, index: int, shown: Sequence[int], finders: Mapping[int, Finder], question: WindowQuestion
) -> list[WindowReading]:
    """The records of one window's answer, each with the places of its values."""
    here = {number: finders[number] for number in shown if number in finders}
    found = []
    for entry in answer.value or ():
        record = entry["record"]
        if not question.schema.valid(record):
            continue
        said = int(entry["page"])
        page = here[said].page if said in here else None
        box = _box(question, entry.get("bbox_2d"), page)
        boxes = {name: place for name, b in (entry.get("boxes") or {}).items() if (place := _box(question, b, page))}
        named = said if said in here else None
        placed = place_record(here, list(leaves_of(record)), named, box, boxes, question.schema.key)
        found.append(WindowReading(record, placed.page, placed.fields, ((index, placed.page),), placed.notes))
    return found


def _box(question: WindowQuestion, numbers: Any, page: Page | None) -> Box | None:
    """The model's box in pt of a page; None where it gave none, or one without extent."""
    if page is None or not numbers:
        return None
    box_px = question.to_px(numbers, page)
    return None if box_px is None else page.to_pt(box_px)


def _window_facts(answer: Answer | None, index: int, shown: Sequence[int], records: int, planned: int) -> WindowFacts:
    if answer is None:
        return WindowFacts(
            window=index,
            pages=tuple(shown),
            status="open",
            records=0,
            planned_tokens=planned,
            prompt_tokens=0,
            new_tokens=0,
        )
    notes = answer.notes
    if answer.prompt_tokens + answer.new_tokens > planned:
        notes = (*notes, "more-tokens-than-planned")
    return WindowFacts(
        window=index,
        pages=tuple(shown),
        status=answer.status.value,
        records=records,
        planned_tokens=planned,
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
        notes=notes,
        error=answer.error,
    )


def _record_facts(merged: Merged, pages: Mapping[int, Page]) -> tuple[RecordFacts, ...]:
    made = []
    for number, (reading, others) in enumerate(zip(merged.records, merged.contradictions, strict=True)):
        values = dict(leaves_of(reading.values))
        fields = {path: _value_facts(values[path], reading.fields[path], pages) for path in values}
        made.append(
            RecordFacts(
                record=number,
                values=dict(reading.values),
                page=reading.page,
                fields=fields,
                seen=tuple(SeenFacts(window=w, page=p) for w, p in reading.seen),
                contradicts=tuple(
                    ContradictionFacts(record=c.other, fields=c.fields, same_place=c.same_place) for c in others
                ),
                notes=reading.notes,
            )
        )
    return tuple(made)


def _value_facts(value: object, found: FoundText, pages: Mapping[int, Page]) -> ValueFacts:
    page = None if found.page is None else pages[found.page]
    table = row = None
    if page is not None and found.boxes_pt:
        table = page.table_at(found.boxes_pt[0])
        row = None if table is None else page.tables[table].row_of(found.boxes_pt[0])
    claim = found.model_box_pt
    return ValueFacts(
        value=value,
        anchor=found.anchor,
        page=found.page,
        boxes_pt=found.boxes_pt,
        boxes_px=() if page is None else tuple(page.to_px(box) for box in found.boxes_pt),
        how=found.how,
        occurrences=found.occurrences,
        beside=found.beside,
        table=table,
        row=row,
        model_box_px=None if page is None or claim is None else page.to_px(claim),
    )


def _warnings(pages: Sequence[PageFacts], windows: Sequence[WindowFacts], question: WindowQuestion) -> list[str]:
    """What a reader of the records must know."""
    found = []
    bare = [p.page for p in pages if p.error is None and p.text_layer is not TextLayer.WORDS]
    if bare:
        found.append(
            f"No text layer on page {_listed(bare)}: no value there could be looked up; boxes are the model's only."
        )
    for page in pages:
        if page.hidden:
            found.append(
                f"Page {page.page} holds {len(page.hidden)} words that cannot be seen on it "
                f"({' '.join(page.hidden)[:80]!r}). They are no anchors."
            )
        if page.error is not None:
            found.append(f"Page {page.page} was not read: {page.error}")
    coarse: dict[int, list[int]] = {}
    for page in pages:
        if page.error is None and page.width_pt and page.dpi < question.rule.dpi - 0.5 and page.dpi != 72.0:
            coarse.setdefault(round(page.dpi), []).append(page.page)
    for dpi, numbers in coarse.items():
        found.append(
            f"Page {_listed(numbers)}: shown at {dpi} dpi instead of {question.rule.dpi:.0f}, since the model takes at "
            f"most {question.rule.max_pixels:,} px. Print below {round(500 / dpi)} pt is too small to be read there."
        )
    cut = [n for w in windows if w.status == "truncated" for n in w.pages]
    if cut:
        found.append(
            f"The answer about page {_listed(cut)} was cut off: records may be missing. Give more --max-new-tokens."
        )
    for window in windows:
        if window.status in ("failed", "refused"):
            found.append(f"Page {_listed(window.pages)}: {window.status}. {window.error or ''}".strip())
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))
