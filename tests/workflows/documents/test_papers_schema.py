"""The user's schema, windows over pages, and the question that comes of both."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from qwenvl.answer import Answer, Status
from workflows.science.papers.pages.document import DocumentError
from workflows.science.papers.pages.windows import PageWindow, plan_windows, windows_of
from workflows.science.papers.schema import Boxes, RecordSchema, SchemaNotUsableError, leaves_of

GENE = {"type": "string"}


def schema(**properties: object) -> dict:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("given_schema", "words"),
    [
        ([], "no JSON object"),
        ({"type": "objekt"}, "not a valid JSON Schema"),
        ({"type": "string"}, "describes no record"),
        ({"type": "object"}, "describes no record"),
        (schema(a={"$ref": "https://example.org/s.json"}), "refers to"),
        (schema(a={"$ref": "#/properties/b"}), "refers to"),
        (schema(a={"type": "string", "pattern": r"(?<=x)a"}), "cannot be enforced"),
        (schema(a={"type": "integer", "minimum": 5, "maximum": 1}), "cannot be enforced"),
        (schema(a={"not": {"type": "null"}}), "'not'"),
        (schema(a={"type": "integer", "multipleOf": 7}), "'multipleOf'"),
        (schema(a=GENE) | {"if": {}, "then": {}}, "'if'"),
        (schema(a={"type": "array", "items": {"type": "string"}, "uniqueItems": True}), "'uniqueItems'"),
    ],
)
def test_schemas_that_answers_cannot_be_kept_to_are_refused(given_schema, words):
    with pytest.raises(SchemaNotUsableError, match=words):
        RecordSchema.of(given_schema)


def test_properties_may_have_the_names_of_keywords():
    made = RecordSchema.of(schema(**{"not": GENE, "if": GENE, "value": {"enum": ["not", 1]}}))
    assert made.names == ("not", "if", "value")


def test_key_is_all_texts_unless_told():
    properties = {"gene": GENE, "kind": {"enum": ["a", "b"]}, "n": {"type": ["integer", "null"]}}
    assert RecordSchema.of(schema(**properties)).key == ("gene", "kind")
    assert RecordSchema.of(schema(**properties), ("n",)).key == ("n",)
    assert RecordSchema.of(schema(n={"type": "integer"})).key == ("n",)
    with pytest.raises(SchemaNotUsableError, match="key sort: no property"):
        RecordSchema.of(schema(**properties), ("sort",))


def test_a_list_of_records_counts_as_its_record():
    made = RecordSchema.of({"type": "array", "items": schema(a={"$ref": "#/$defs/g"}), "$defs": {"g": GENE}})
    assert made.names == ("a",)
    asked = made.asked(Boxes.RECORD, (1000, 1000), 3, 5)
    assert asked["$defs"] == {"g": GENE}
    assert "$defs" not in asked["items"]
    entry = {"page": 1, "bbox_2d": [0, 0, 9, 9], "record": {"a": "x"}}
    assert Draft202012Validator(asked).is_valid([entry])
    assert Draft202012Validator(made.item(Boxes.RECORD, (1000, 1000), 3)).is_valid(entry)


@pytest.mark.parametrize(
    ("boxes", "extra"),
    [(Boxes.NONE, {}), (Boxes.RECORD, {"bbox_2d": [1, 2, 3, 4]}), (Boxes.VALUE, {"boxes": {"gene": [1, 2, 3, 4]}})],
)
def test_what_is_asked(boxes, extra):
    made = RecordSchema.of(schema(gene=GENE, n={"type": "integer"}) | {"required": ["gene"]})
    asked = Draft202012Validator(made.asked(boxes, (1000, 1000), 4, 2))
    good = {"page": 4, "record": {"gene": "TP53"}} | extra
    assert asked.is_valid([])
    assert asked.is_valid([good, good])
    assert not asked.is_valid([good] * 3)
    assert not asked.is_valid([good | {"page": 5}])
    assert not asked.is_valid([good | {"record": {}}])
    assert not asked.is_valid([good | {"record": {"gene": "TP53", "more": 1}}])
    assert not asked.is_valid([good | {"record": {"gene": "A" * 201}}])
    assert not asked.is_valid([good | {"note": "obeyed"}])
    assert made.valid({"gene": "A" * 201})
    json.dumps(asked.schema)


def test_leaves_of_a_nested_record():
    record = {"a": 1, "b": {"c": "x", "d": [1, {"e": None}]}, "f": []}
    assert dict(leaves_of(record)) == {"a": 1, "b.c": "x", "b.d[0]": 1, "b.d[1].e": None}


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(100, 400), st.integers(1, 8), st.integers(0, 3)
)
def test_windows_hold_every_page_within_the_context(tokens, room, most, overlap):
    windows = plan_windows(tokens, room, most=most, overlap=overlap)
    assert {page for w in windows for page in range(w.first, w.first + w.count)} == set(range(len(tokens)))
    for window in windows:
        assert 1 <= window.count <= most
        assert sum(tokens[window.first : window.first + window.count]) <= room
    for one, other in pairwise(windows):
        shared = one.first + one.count - other.first
        assert 0 <= shared <= overlap
        assert other.first + other.count > one.first + one.count
    assert len(windows) <= len(tokens)


def test_windows_of_equal_pages_overlap_as_told():
    windows = plan_windows([10] * 9, 1000, most=4, overlap=1)
    assert [(w.first, w.count) for w in windows] == [(0, 4), (3, 4), (6, 3)]


def test_a_page_larger_than_the_context_is_refused():
    with pytest.raises(DocumentError, match="takes 500 tokens and the context leaves room for 300"):
        plan_windows([10, 500], 300, most=4, overlap=1)


def test_halves_hold_all_pages_and_share_one():
    assert PageWindow(1, 2, 5).halves(3, 1) == (PageWindow(7, 2, 3), PageWindow(8, 4, 3))
    assert PageWindow(0, 0, 2).halves(3, 1) == (PageWindow(3, 0, 1), PageWindow(4, 1, 1))


def test_windows_that_were_cut_off_give_their_place_to_halves():
    planned = [PageWindow(0, 0, 4), PageWindow(1, 3, 1)]
    cut, whole = Answer(Status.TRUNCATED), Answer(Status.OK)
    assert list(windows_of(planned, {"0": whole, "1": cut}, 1)) == planned, "one page has no halves"
    halves = [PageWindow(2, 0, 2), PageWindow(3, 1, 3)]
    assert list(windows_of(planned, {"0": cut}, 1)) == [*halves, planned[1]]
    assert list(windows_of(planned, {"0": cut, "3": cut, "2": whole}, 1)) == [
        halves[0],
        PageWindow(14, 1, 2),
        PageWindow(15, 2, 2),
        planned[1],
    ]
