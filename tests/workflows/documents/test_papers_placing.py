"""Placing a record's values: beside one another or not proved, on the page named or the one that holds them."""

from __future__ import annotations

import pytest
from paper_helpers import small_pdf

from workflows.science.papers.pages.document import open_document
from workflows.science.papers.schema import leaves_of
from workflows.science.papers.values.finding import Finder
from workflows.science.papers.values.placing import Anchor, place_record

ROWS = (("Gene", "n", "Value"), ("TP53", "12", "3.5"), ("BRCA1", "7", "12"), ("MYC", "31", "8.25"))


@pytest.fixture(scope="module")
def finders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placing")
    cells = [
        (55 + 90 * column, 112 + 16 * row, text) for row, texts in enumerate(ROWS) for column, text in enumerate(texts)
    ]
    grid = [(50 + 90 * column, 100 + 16 * row, 90, 16) for row in range(4) for column in range(3)]
    table = small_pdf(
        folder / "table.pdf",
        (50, 92, "Table 1. Levels in mg/L after 5 washes."),
        *cells,
        (50, 250, "Page 31 of 99, 31 mice."),
        boxes=grid,
    )
    prose = small_pdf(
        folder / "prose.pdf",
        (50, 60, "We found VIM by ELISA (n = 44) at 0.75 ng/mL in all"),
        (50, 72, "preparations. GATA3 was at 18.5 ng/mL."),
        (50, 200, "Unrelated: 44 days, 900 mice."),
    )
    found = {}
    for number, path in enumerate((table, prose), start=1):
        with open_document(path) as document:
            found[number] = Finder(document.page(1), comma=False)
    return found


def place(finders, said, record, **claims):
    return place_record(finders, list(leaves_of(record)), said, **claims)


def test_a_row_is_anchored_cell_by_cell(finders):
    placed = place(finders, 1, {"gene": "TP53", "n": 12, "value": 3.5, "unit": "mg/L"})
    assert {f.anchor for f in placed.fields.values()} == {Anchor.ANCHORED}
    assert placed.fields["n"].occurrences == 2  # also BRCA1's value
    boxes = {name: f.boxes_pt[0] for name, f in placed.fields.items()}
    assert boxes["gene"][1] == pytest.approx(boxes["n"][1], abs=1) == pytest.approx(boxes["value"][1], abs=1)
    assert boxes["gene"][0] < boxes["n"][0] < boxes["value"][0]


def test_a_number_of_another_row_is_no_anchor(finders):
    placed = place(finders, 1, {"gene": "TP53", "n": 31, "value": 3.6})
    assert placed.fields["n"].anchor is Anchor.ELSEWHERE
    assert placed.fields["value"].anchor is Anchor.MISSING
    assert placed.fields["gene"].anchor is Anchor.ANCHORED


def test_two_values_do_not_share_one_print(finders):
    placed = place(finders, 1, {"gene": "BRCA1", "n": 7, "value": 7})
    assert sorted(f.anchor for f in placed.fields.values()).count(Anchor.ANCHORED) == 2


def test_words_of_the_caption_belong_to_its_rows_and_numbers_do_not(finders):
    placed = place(finders, 1, {"gene": "MYC", "value": 8.25, "unit": "mg/L", "n": 5})
    assert placed.fields["unit"].anchor is Anchor.ANCHORED
    assert placed.fields["unit"].beside
    assert placed.fields["n"].anchor is Anchor.ELSEWHERE


def test_a_wrong_page_is_corrected_and_noted(finders):
    placed = place(finders, 2, {"gene": "MYC", "n": 31, "value": 8.25}, record_box_pt=(0, 0, 400, 300))
    assert (placed.page, placed.notes) == (1, ("page-corrected:2",))
    assert placed.fields["n"].model_box_pt is None  # it was claimed for another page
    assert place(finders, 9, {"gene": "MYC", "n": 31, "value": 8.25}).notes == ("page-unknown",)


def test_prose_is_anchored_within_its_paragraph(finders):
    placed = place(finders, 2, {"gene": "VIM", "n": 44, "value": 0.75, "unit": "ng/mL"})
    assert {f.anchor for f in placed.fields.values()} == {Anchor.ANCHORED}
    assert placed.fields["n"].boxes_pt[0][1] < 80
    far = place(finders, 2, {"gene": "VIM", "n": 900})
    assert far.fields["n"].anchor is Anchor.ELSEWHERE


def test_short_texts_need_neighbours_as_numbers_do(finders):
    alone = place(finders, 2, {"gene": "at"})
    assert (alone.fields["gene"].anchor, alone.fields["gene"].occurrences) == (Anchor.ELSEWHERE, 2)
    beside = place(finders, 2, {"gene": "VIM", "unit": "by"})
    assert beside.fields["unit"].anchor is Anchor.ANCHORED
    far = place(finders, 2, {"gene": "VIM", "n": 44, "unit": "days"})
    assert (far.fields["unit"].anchor, far.fields["unit"].beside) == (Anchor.ANCHORED, False)


def test_a_misread_name_leaves_its_numbers_anchored(finders):
    placed = place(finders, 1, {"gene": "TPS3", "n": 12, "value": 3.5})
    assert placed.fields["gene"].anchor is Anchor.MISSING
    assert placed.fields["n"].anchor is placed.fields["value"].anchor is Anchor.ANCHORED


def test_one_number_proves_nothing_while_the_name_of_its_record_is_not_printed(finders):
    """A record that was made up meets a number of its kind in many a line."""
    record = {"gene": "HACK1", "method": "ELISA", "n": 44, "value": 99.5}
    by_chance = place(finders, 2, record, key=("gene",))
    assert by_chance.fields["n"].anchor is Anchor.ELSEWHERE
    assert not by_chance.fields["n"].beside
    assert by_chance.fields["method"].anchor is Anchor.ANCHORED, "its word is printed, wherever"
    both = place(finders, 2, {**record, "value": 0.75}, key=("gene",))
    assert {both.fields[name].anchor for name in ("n", "value")} == {Anchor.ANCHORED}, "a misread name"
    assert place(finders, 2, {**record, "gene": "VIM"}, key=("gene",)).fields["n"].anchor is Anchor.ANCHORED


def test_a_number_alone_needs_the_models_box_or_to_be_the_only_one(finders):
    assert place(finders, 2, {"n": 900}).fields["n"].anchor is Anchor.ANCHORED
    assert place(finders, 1, {"n": 31}).fields["n"].anchor is Anchor.ELSEWHERE
    boxed = place(finders, 1, {"n": 31}, record_box_pt=(140, 148, 200, 164))
    assert boxed.fields["n"].anchor is Anchor.ANCHORED
    assert boxed.fields["n"].boxes_pt[0][1] == pytest.approx(151, abs=3)


def test_the_models_box_decides_between_equal_rows(tmp_path):
    pdf = small_pdf(tmp_path / "a.pdf", (50, 50, "VIM 12 low"), (50, 150, "VIM 12 high"))
    with open_document(pdf) as document:
        finder = {1: Finder(document.page(1), comma=False)}
    for box in ((40, 40, 120, 55), (40, 140, 120, 155)):
        placed = place(finder, 1, {"gene": "VIM", "n": 12}, record_box_pt=box)
        assert box[1] < placed.fields["n"].boxes_pt[0][1] + 5 < box[3]
        assert placed.fields["n"].occurrences == 2


def test_only_where_words_cannot_speak_is_the_models_box_taken(made):
    with open_document(made / "paper-001.pdf") as document:
        pages = [document.page(number) for number in range(1, document.pages + 1)]
    page = next(page for page in pages if any(figure.raster for figure in page.figures))
    box = next(figure.box_pt for figure in page.figures if figure.raster)
    finder = {page.number: Finder(page, comma=False)}
    inner = (box[0] + 20, box[1] + 20, box[0] + 60, box[1] + 40)
    (found,) = place(finder, page.number, {"n": 31415}, record_box_pt=inner).fields.values()
    assert (found.anchor, found.boxes_pt) == (Anchor.MODEL, (inner,))
    beside = (box[0], box[3] + 30, box[0] + 40, box[3] + 40)
    (found,) = place(finder, page.number, {"n": 31415}, record_box_pt=beside).fields.values()
    assert (found.anchor, found.boxes_pt) == (Anchor.MISSING, ())


def test_nulls_and_truths_have_no_place(finders):
    placed = place(finders, 1, {"gene": None, "seen": True})
    assert placed.fields["gene"].anchor is Anchor.ABSENT
    assert placed.fields["seen"].anchor is Anchor.MISSING


def test_a_claim_is_never_more_than_a_claim(finders):
    """The model's box on a page with words that do not hold the value: not found, with the claim beside it."""
    box = (60.0, 110.0, 100.0, 120.0)
    placed = place(finders, 1, {"gene": "NOSUCH", "n": 555}, record_box_pt=box)
    for found in placed.fields.values():
        assert (found.anchor, found.boxes_pt, found.model_box_pt) == (Anchor.MISSING, (), box)
