"""Schemas of users: what is refused before a model is asked, and that answers are checked in bounded time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenvl.answer import Status
from qwenvl.constraints.json_schema import LIMIT, SchemaValidator, check_schema, read_schema, unheld
from qwenvl.constraints.schema_patterns import check_pattern, matches
from qwenvl.errors import RequestError
from qwenvl.parse.json.extracted import extracted
from qwenvl.parse.reading import TextReading
from qwenvl.request import Request


def nested(levels: int) -> dict[str, Any]:
    """A schema of objects in objects."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def many_ways(levels: int, ways: int) -> dict[str, Any]:
    """A short schema whose alternatives multiply at every level of a list."""
    parts: dict[str, Any] = {
        f"l{n}": {"anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/l{n + 1}"}}] * ways} for n in range(levels)
    }
    return {"$ref": "#/$defs/l0", "$defs": {**parts, f"l{levels}": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ([], "no JSON object"),
        (nested(5000), "more than 64 deep"),
        ({"enum": ["x" * 300_000]}, "characters; use at most"),
        ({"type": "strng"}, "not a valid JSON Schema"),
        ({"multipleOf": 0}, "not a valid JSON Schema"),
        ({"pattern": "("}, "no regular expression"),
        ({"patternProperties": {"(": {}}}, "no regular expression"),
        ({"pattern": "(" * 300 + ")" * 300}, "nested more than 50 deep"),
        ({"pattern": "a" * 1001}, "1001 characters"),
        ({"pattern": "((a{1,1000}){1,1000}){1,1000}"}, "multiply"),
        ({"pattern": "a{99999999999999999999}"}, "multiply"),
        ({"$ref": "file:///etc/passwd"}, "within the same document"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "within the same document"),
        ({"$id": "http://a/b", "$ref": "c"}, "within the same document"),
        ({"$dynamicRef": "#x"}, "within the same document"),
        ({"properties": {"a": {"$id": "http://a/b"}}}, r"\$id"),
        ({"$ref": "#/$defs/none"}, "not in it"),
        ({"$ref": "#/properties", "properties": {"a": {}}}, "no schema"),
        ({"$ref": "#"}, "in a circle"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
            "in a circle",
        ),
        ({"$schema": "http://127.0.0.1:9/schema"}, "no version of JSON Schema"),
        ({"$schema": 5}, "no version of JSON Schema"),
        ({"enum": ["\ud800"]}, "half a character"),
        ({"minimum": float("nan")}, "nan"),
        ({"maximum": 10**5000}, "308 digits"),
        ({"enum": [{1, 2}]}, "no JSON"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "only one of them"),
    ],
)
def test_refused(schema: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_schema(schema)
    if isinstance(schema, dict):
        with pytest.raises(ValueError, match="output_schema"):
            Request(task="extract", output_schema=schema)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"pattern": "^(a|a)*$"}, "a" * 60, "a" * 60 + "!"),
        ({"pattern": r"^\p{Lu}"}, "Ärzte", "ärzte"),
        ({"pattern": r"^(?!no)[a-z]+$"}, "yes", "none"),
        ({"pattern": "[a&&b]"}, "&", "c"),
        ({"pattern": r"\<b\>"}, "<b>", "b"),
        ({"patternProperties": {"^(a|a)*$": {"type": "integer"}}}, {"a" * 40 + "!": "x"}, {"aa": "x"}),
        ({"patternProperties": {"^a": {}}, "additionalProperties": False}, {"ab": 1}, {"b": 1}),
        ({"properties": {"b": {}}, "additionalProperties": {"type": "integer"}}, {"b": "", "c": 1}, {"c": ""}),
        ({"uniqueItems": True}, [{"a": n} for n in range(5000)], [1, 1.0]),
        ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}], [{"a": [1]}, {"a": [1.0]}]),
        ({"properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}}, {"next": {"n": 1}}, {"next": {"n": ""}}),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "items": [{"type": "integer"}],
                "additionalItems": False,
            },
            [1],
            [1, 2],
        ),
        ({"properties": {"$ref": {"type": "integer"}, "pattern": {"enum": ["("]}}}, {"$ref": 1}, {"pattern": "a"}),
        ({"const": {"$ref": "http://a/b"}}, {"$ref": "http://a/b"}, {}),
        ({"multipleOf": 0.5}, 1.5, 1.25),
        (many_ways(3, 3), [[[1]]], [[["x"]]]),
    ],
)
def test_right_results(schema: dict[str, Any], right: Any, wrong: Any) -> None:
    check_schema(schema)
    validator = SchemaValidator(schema)
    assert list(validator.iter_errors(right)) == []
    assert [error for error in validator.iter_errors(wrong) if error.validator != LIMIT]
    assert validator.is_valid(right)
    assert not validator.is_valid(wrong)


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (many_ways(9, 10), [[[[[[[[["x"]]]]]]]]], "50000 steps"),
        ({"pattern": r"^(?=a)(a|aa)+$"}, "a" * 70 + "!", "more than 1 s"),
        ({"items": {"$ref": "#"}}, json.loads("[" * 900 + "]" * 900), "nested too deep"),
        ({"multipleOf": 1e-5}, 10**400, "out of all measure"),
    ],
)
def test_limits_fail_one_answer_with_a_reason(schema: dict[str, Any], value: Any, words: str) -> None:
    check_schema(schema)
    errors = list(SchemaValidator(schema).iter_errors(value))
    assert [error.validator for error in errors] == [LIMIT]
    assert words in errors[0].message
    assert not SchemaValidator(schema).is_valid(value)


def test_an_answer_beyond_the_limits_is_failed() -> None:
    read = extracted(TextReading('"' + "a" * 70 + '!"'), {"pattern": r"^(?=a)(a|aa)+$"}, unfinished=False)
    assert (read.status, read.value) == (Status.FAILED, None)
    assert "cannot be applied" in str(read.error)


def test_what_the_grammar_does_not_keep_is_named() -> None:
    schema = {
        "type": "object",
        "properties": {
            "not": {"type": "string", "pattern": "^(?!x)"},
            "n": {"type": "integer", "multipleOf": 5, "not": {"const": 5}},
        },
    }
    assert unheld(schema) == ("multipleOf", "not", "lookaround")
    assert unheld(nested(3)) == ()


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(b'\xef\xbb\xbf{"type": "integer"}')
    assert read_schema(path) == {"type": "integer"}
    for text, words in (
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "deep"),
        (b'{"$ref": "#"}', "circle"),
        (b" " * 2_000_000, "at most"),
        (b'{"maximum": 1' + b"0" * 5000 + b"}", "is not JSON"),
    ):
        path.write_bytes(text)
        with pytest.raises(RequestError, match=words) as error:
            read_schema(path)
        assert str(path) in str(error.value)


def test_patterns_of_everyday_use_stay_allowed() -> None:
    for pattern, text in (
        (r"^\d{4}-\d{2}-\d{2}$", "2024-05-06"),
        (r"^pT[0-4](a|b)?$", "pT1a"),
        (r"^[^\x00-\x1f]{1,200}$", "ok"),
        (r"^[\w.+-]+@[\w-]+\.[\w.]{2,}$", "a.b@c.de"),
        (r"(\d)\1", "44"),
        (r"^.{0,2000}$", "x" * 2000),
    ):
        check_pattern(pattern)
        assert matches(pattern, text)
        assert not matches(pattern, "\n")
