"""Whole papers through a server that answers from the truth: windows, anchors, merging, faults, resuming."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import threading

import pytest
from paper_helpers import oracle_engine, read_made, schema_of, small_pdf
from run_helpers import losing_its_server

from qwenvl.errors import ServerError
from workflows.errors import RunMismatchError
from workflows.run.item_store import ItemStore
from workflows.science.papers.evaluate import read_truth
from workflows.science.papers.pages.document import DocumentError, open_document
from workflows.science.papers.paper import Paper
from workflows.science.papers.reading import ReadSettings, plan_paper, read_paper
from workflows.science.papers.schema import Boxes
from workflows.science.papers.values.placing import Anchor
from wsi.errors import SlideChangedError


def table_of(run):
    return list(csv.DictReader((run / "records.csv").read_text(encoding="utf-8").splitlines()))


HACKED = '{"gene": "HACK1", "method": "ELISA", "n": 9, "value": 99999, "unit": "mg/L"}'


def test_a_faultless_reader_gets_every_record_and_place(made, tmp_path):
    oracle, result, found = read_made(made, tmp_path / "run")
    assert len(oracle.asked) > 1
    assert (found.recall, found.precision, found.value_accuracy) == (1.0, 1.0, 1.0)
    assert (found.anchor_recall, found.anchor_precision, found.page_accuracy) == (1.0, 1.0, 1.0)
    assert found.anchor_iou > 0.85
    assert found.contradicting == 0
    paper = Paper.read(tmp_path / "run")
    assert paper == result.paper
    assert paper.complete
    assert any(len(record.seen) > 1 for record in paper.records)  # windows overlap
    rows = table_of(tmp_path / "run")
    assert [row["gene"] for row in rows] == [record.values["gene"] for record in paper.records]
    pages = {record.page for record in paper.records}
    assert {p.name for p in (tmp_path / "run" / "pages").iterdir()} >= {f"page-{n:03d}.png" for n in pages}
    assert any("cannot be seen" in warning for warning in paper.warnings)


MENDED = (
    {"wrong_page": 0.5, "off_box": 0.5},
    {"cut": 1.0},
    {"broken": 1.0},
    {"wrong_type": 1.0, "prose": 1.0, "twice": 0.5},
)


@pytest.mark.parametrize("faults", MENDED, ids=lambda faults: "+".join(faults))
def test_faults_that_can_be_mended_cost_nothing(made, tmp_path, faults):
    oracle, result, found = read_made(made, tmp_path / "run", **faults)
    assert (found.recall, found.precision, found.anchor_precision) == (1.0, 1.0, 1.0)
    if "cut" in faults:  # asked again in halves
        assert {len(pages) for pages in oracle.asked} >= {1, 2}
        assert result.paper.complete
    if "wrong_page" in faults:
        assert any(note.startswith("page-corrected") for r in result.paper.records for note in r.notes)
    if "wrong_type" in faults:
        assert all("dropped:invalid:1" in window.notes for window in result.paper.windows)
    if "broken" in faults:
        assert not result.paper.complete
        assert any("cut off" in warning for warning in result.paper.warnings)


def test_wrong_values_are_never_anchored_and_always_marked(made, tmp_path):
    oracle, result, found = read_made(made, tmp_path / "run", typo=0.4, contradicted=0.2, invented=0.1)
    assert len(oracle.typos) > 8
    assert found.unmarked_wrong == 0
    assert found.anchor_precision == 1.0
    assert found.contradicting > 0
    anchored = [
        (record.values, name)
        for record in result.paper.records
        for number, name, wrong in oracle.typos
        if record.values[name] == wrong
        and record.fields[name].anchor is Anchor.ANCHORED
        and all(
            record.values[other] == oracle.truth.records[number].values[other].value
            for other in record.values
            if other != name
        )
    ]
    assert anchored == []
    invented = [record for record in result.paper.records if str(record.values["gene"]).startswith("XYZ")]
    assert invented
    assert all(record.fields["gene"].anchor is Anchor.MISSING for record in invented)


def test_a_record_dictated_by_hidden_text_is_not_anchored(made, tmp_path):
    _, result, found = read_made(made, tmp_path / "run", hidden=HACKED)
    (record,) = [r for r in result.paper.records if r.values["gene"] == "HACK1"]
    assert record.fields["gene"].anchor is Anchor.MISSING
    assert record.fields["value"].anchor is Anchor.MISSING
    assert record.fields["n"].anchor is not Anchor.ANCHORED
    assert found.recall == 1.0


def test_a_scan_gives_boxes_of_the_model_only_and_says_so(scan, tmp_path):
    _, result, found = read_made(scan, tmp_path / "run", ReadSettings())
    paper = result.paper
    assert found.recall == 1.0
    assert paper.anchors["model"] == sum(paper.anchors.values()) > 0
    assert "boxes" in paper.request.output_schema["items"]["properties"]
    assert any("No text layer on page 1" in warning for warning in paper.warnings)
    truth = {str(r.values["gene"].value): r for r in read_truth(scan / "paper-001.truth.json").records}
    record = paper.records[0]
    box = record.fields["value"].boxes_pt[0]
    places = [b for _, boxes in truth[str(record.values["gene"])].values["value"].places for b in boxes]
    assert any(max(abs(a - b) for a, b in zip(box, other, strict=True)) < 2 for other in places)


def test_a_stopped_run_goes_on_where_it_stopped(made, tmp_path):
    cancel = threading.Event()
    settings = ReadSettings(window=1, overlap=0)
    pdf = made / "paper-001.pdf"
    with oracle_engine(made) as (oracle, engine), open_document(pdf) as document:
        engine._concurrency = 1  # one batch is four questions
        plan = plan_paper(document, schema_of(made), engine, settings)
        assert len(plan.windows) >= 3
        engine.batch_size = lambda request: 1
        stopped = read_paper(
            document,
            schema_of(made),
            engine,
            tmp_path / "run",
            settings,
            progress=lambda p: cancel.set(),
            cancel=cancel,
        )
        assert stopped.cancelled
        assert stopped.paper.statuses["open"] == len(plan.windows) - 1
        assert not stopped.paper.complete
        assert len(oracle.asked) == 1
        whole = read_paper(document, schema_of(made), engine, tmp_path / "run", settings)
        assert len(oracle.asked) == len(plan.windows)
        straight = read_paper(document, schema_of(made), engine, tmp_path / "other", settings)
        again = read_paper(document, schema_of(made), engine, tmp_path / "run", settings)
        assert len(oracle.asked) == 2 * len(plan.windows)
    assert whole.paper.records == straight.paper.records == again.paper.records
    assert len(whole.paper.records) > len(stopped.paper.records)


def test_a_lost_server_keeps_what_arrived_and_fails_no_page(made, tmp_path):
    settings = ReadSettings(window=1, overlap=0)
    with oracle_engine(made) as (oracle, engine), open_document(made / "paper-001.pdf") as document:
        pages = len(plan_paper(document, schema_of(made), engine, settings).windows)
        with pytest.raises(ServerError, match="cannot be reached"):
            read_paper(document, schema_of(made), losing_its_server(engine, call=1), tmp_path / "run", settings)
        with ItemStore.open(tmp_path / "run") as store:
            assert (len(store.finished()), len(store.failed())) == (-(-pages // 2), 0)
        oracle.asked.clear()
        whole = read_paper(document, schema_of(made), engine, tmp_path / "run", settings)
        assert len(oracle.asked) == pages // 2
        straight = read_paper(document, schema_of(made), engine, tmp_path / "other", settings)
    assert whole.paper.records == straight.paper.records


def test_another_question_is_never_mixed_in(made, tmp_path):
    with oracle_engine(made) as (_, engine), open_document(made / "paper-001.pdf") as document:
        schema = schema_of(made)
        read_paper(document, schema, engine, tmp_path / "run", ReadSettings(pages="1"))
        before = (tmp_path / "run" / "records.json").read_bytes()
        for other in (
            ReadSettings(pages="2"),
            ReadSettings(pages="1", what="Others?"),
            ReadSettings(pages="1", dpi=100),
        ):
            with pytest.raises(RunMismatchError):
                read_paper(document, schema, engine, tmp_path / "run", other)
        assert (tmp_path / "run" / "records.json").read_bytes() == before
        read_paper(document, schema, engine, tmp_path / "run", ReadSettings(pages="2"), overwrite=True)
        assert (tmp_path / "run.bak-1" / "records.json").read_bytes() == before


def test_a_damaged_page_is_left_out_and_named(made, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name in ("schema.json", "paper-001.truth.json"):
        (folder / name).write_bytes((made / name).read_bytes())
    data = (made / "paper-001.pdf").read_bytes()
    (folder / "paper-001.pdf").write_bytes(data.replace(b"/Type /Page\n", b"/Type /Junk\n", 1))
    oracle, result, found = read_made(folder, tmp_path / "run")
    assert all(1 not in pages for pages in oracle.asked)
    assert not result.paper.complete
    assert result.paper.pages[0].error is not None
    assert any(warning.startswith("Page 1 was not read") for warning in result.paper.warnings)
    assert 0 < found.recall < 1
    assert found.precision == 1.0


def test_the_context_bounds_a_window(made):
    with oracle_engine(made) as (_, engine), open_document(made / "paper-001.pdf") as document:
        roomy = plan_paper(document, schema_of(made), engine, ReadSettings(window=9))
        page = roomy.tokens[0]
        assert page == (1216 // 32) * (1696 // 32) + 16
        assert len(roomy.windows) == 1
        question = roomy.question
        fixed = question.words + question.request.generation.max_new_tokens
        tight = plan_paper(document, schema_of(made), engine, ReadSettings(window=9, context=fixed + 2 * page))
        assert {window.count for window in tight.windows} == {2}
        assert all(tight.planned(window) <= fixed + 2 * page for window in tight.windows)
        with pytest.raises(DocumentError, match="lower --dpi"):
            plan_paper(document, schema_of(made), engine, ReadSettings(context=fixed + page - 1))


def test_words_are_counted_by_a_bound_that_no_tokenizer_exceeds(made, real_data):
    """The bound for served models, held against the families' real vocabulary."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(real_data / "tokenizers" / "qwen3_vl" / "tokenizer.json"))
    with oracle_engine(made) as (_, engine), open_document(made / "paper-001.pdf") as document:
        question = plan_paper(document, schema_of(made), engine, ReadSettings()).question
    from qwenvl.prompts import render_chat
    from qwenvl.subject import Subject, ask_about

    text = render_chat(ask_about(question.request, Subject()), question.family)
    counted = len(tokenizer.encode(text, add_special_tokens=False).ids)
    assert counted <= question.words
    named = len(tokenizer.encode("page 1234: <|vision_start|><|vision_end|>", add_special_tokens=False).ids)
    assert named <= 16


def test_boxes_are_asked_for_as_told(made, tmp_path):
    _, result, _ = read_made(made, tmp_path / "run", ReadSettings(pages="1", boxes=Boxes.NONE))
    properties = result.paper.request.output_schema["items"]["properties"]
    assert set(properties) == {"page", "record"}
    assert all(v.model_box_px is None for r in result.paper.records for v in r.fields.values())


def test_texts_that_a_spreadsheet_would_run_are_made_inert(made, tmp_path):
    dictated = '{"gene": "=HYPERLINK(1)", "method": "ELISA", "value": 3}'
    read_made(made, tmp_path / "run", ReadSettings(pages="1"), hidden=dictated)
    rows = table_of(tmp_path / "run")
    assert any(row["gene"] == "'=HYPERLINK(1)" for row in rows)


def test_the_password_is_stored_nowhere(made, tmp_path):
    pdf = small_pdf(tmp_path / "secret.pdf", (50, 50, "TP53 12"), password="hush-hush")
    with oracle_engine(made) as (_, engine), open_document(pdf, password="hush-hush") as document:
        result = read_paper(document, schema_of(made), engine, tmp_path / "run")
    assert result.paper.document.encrypted
    for path in (tmp_path / "run").iterdir():
        if path.is_file():
            assert b"hush-hush" not in path.read_bytes()
    (raw,) = sqlite3.connect(tmp_path / "run" / "run.sqlite").execute("SELECT json FROM manifest").fetchone()
    assert json.loads(raw)["kind"] == "pages"


def test_a_paper_that_is_rewritten_ends_the_run(made, tmp_path):
    folder = tmp_path / "made"
    shutil.copytree(made, folder)
    paper = folder / "paper-001.pdf"
    with oracle_engine(folder) as (_, engine), open_document(paper) as document:
        asked = engine.answer

        def answer(*given):
            told = asked(*given)
            paper.write_bytes(paper.read_bytes() + b"\n% more")
            return told

        engine.answer = answer
        with pytest.raises(SlideChangedError, match=r"paper-001\.pdf changed while it was read"):
            read_paper(document, schema_of(folder), engine, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a run without an answer leaves nothing"
