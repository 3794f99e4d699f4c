"""The user's sheet: YAML and JSON Schema in, what cannot be kept to is refused by name."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from workflows.science.instruments.errors import SheetError
from workflows.science.instruments.values.sheet import Sheet, sheet_text
from workflows.science.instruments.values.units import canonical, same_unit

YAML = """
title: incubator
fields:
  temperature: {unit: °C, min: 30, max: 45, decimals: 1, required: true}
  alarm: {type: string, enum: [on, off]}
"""


def test_yaml_and_json_schema_say_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text(YAML.replace("[on, off]", "['on', 'off']"), encoding="utf-8")
    schema = {
        "title": "incubator",
        "type": "object",
        "properties": {
            "temperature": {"type": "number", "unit": "°C", "minimum": 30, "maximum": 45, "x-decimals": 1},
            "alarm": {"type": ["string", "null"], "enum": ["on", "off", None]},
        },
        "required": ["temperature"],
    }
    (tmp_path / "b.json").write_text(json.dumps(schema), encoding="utf-8")
    assert Sheet.load(tmp_path / "a.yaml") == Sheet.load(tmp_path / "b.json")


def test_the_schema_of_the_values_takes_a_value_or_null():
    sheet = Sheet.of({"fields": {"t": {"min": 0, "max": 9}, "s": {"type": "string", "enum": ["a"]}}})
    validator = Draft202012Validator(sheet.json_schema())
    assert validator.is_valid({"t": 5, "s": "a"})
    assert validator.is_valid({"t": None, "s": None})
    for wrong in ({"t": 10, "s": None}, {"t": "5", "s": None}, {"t": 5}, {"t": 5, "s": "b"}):
        assert not validator.is_valid(wrong)


def test_written_and_read_again():
    sheet = Sheet.of({"fields": {"t": {"unit": "°C", "region": [0, 0, 10, 10]}}})
    import yaml

    assert Sheet.of(yaml.safe_load(sheet_text(sheet))) == sheet


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "mapping"),
        ({"fields": {}}, "fields"),
        ({"fields": {"t": {"min": 5, "max": 1}}}, "min 5 is greater than max 1"),
        ({"fields": {"t": {"type": "string", "max": 1}}}, "string has no min"),
        ({"fields": {"t": {"colour": "red"}}}, "colour"),
        ({"fields": {"2t": {}}}, "begin with a letter"),
        ({"fields": {"t": {"type": "string", "pattern": "("}}}, "no regular expression"),
        ({"fields": {"t": {"region": [10, 0, 5, 5]}}}, "x_min"),
        ({"properties": {"t": {"type": "object"}}}, "type 'object' cannot be asked"),
        ({"properties": {"t": {"type": "number", "multipleOf": 3}}}, "multipleOf cannot be asked"),
        ({"properties": {"t": {"type": ["number", "string"]}}}, "cannot be asked"),
        ({"properties": {}, "oneOf": []}, "oneOf"),
        ({"properties": {"t": {"type": "number"}}, "required": ["u"]}, "u is not among"),
        ({"properties": {"t": {"type": "number", "unit": "g", "x-unit": "mL"}}}, "contradict each other"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name(content, words):
    with pytest.raises(SheetError, match=words):
        Sheet.of(content)


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("fields: [", encoding="utf-8")
    with pytest.raises(SheetError, match=r"x\.yaml"):
        Sheet.load(path)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("°C", "℃", True),
        ("C", "°C", True),
        ("µL", "ul", True),
        ("mM", "MM", False),
        ("g", "mg", False),
        ("%", "% RH", True),
        ("ml", "mL", True),
        ("°C", "°F", False),
    ],
)
def test_units(first, second, same):
    assert same_unit(first, second) is same
    assert canonical(canonical(first)) == canonical(first)
