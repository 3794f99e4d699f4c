"""The user's schema of one record: what may be in it, what is asked of the model, and its values one by one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwenvl.constraints.json_schema import SchemaValidator, check_schema, read_schema, unheld
from qwenvl.errors import RequestError
from workflows.science.papers.pages.document import DocumentError
from workflows.science.papers.values.placing import Leaf

_LONGEST = 200
"""Signs of a text whose schema names no length: every answer ends."""


class Boxes(StrEnum):
    """What the model gives a box for."""

    NONE = "none"
    RECORD = "record"
    VALUE = "value"


class SchemaNotUsableError(DocumentError):
    """A schema that is none, or that answers cannot be kept to."""


@dataclass(frozen=True)
class RecordSchema:
    """The schema of one record.

    Attributes
    ----------
    schema : dict
        An object with properties, closed against others.
    key : tuple of str
        Properties that tell records apart.
    """

    schema: Mapping[str, Any]
    key: tuple[str, ...]

    @classmethod
    def of(cls, schema: Any, key: tuple[str, ...] = ()) -> RecordSchema:
        """Check a user's schema.

        Parameters
        ----------
        schema : dict
            JSON Schema of one record, an object with properties; or of a list of such.
        key : tuple of str
            Properties that tell records apart; by default all texts.

        Raises
        ------
        SchemaNotUsableError
            It is no JSON Schema, no object with properties, refers to other documents, or its grammar cannot be made;
            or a key is none of its properties.
        """
        try:
            check_schema(schema)
        except RequestError as error:
            raise SchemaNotUsableError(str(error)) from None
        found = copy.deepcopy(schema)
        if found.get("type") == "array" and isinstance(found.get("items"), dict):
            found = {**found["items"], **{k: found[k] for k in ("$defs", "definitions") if k in found}}
        if found.get("type") != "object" or not found.get("properties"):
            raise SchemaNotUsableError(
                'the schema describes no record: use {"type": "object", "properties": {...}}, one property per value'
            )
        for reference in _references(found):
            if not reference.startswith(("#/$defs/", "#/definitions/")):
                raise SchemaNotUsableError(
                    f"the schema refers to {reference!r}; only '#/$defs/...' within the same file can be followed"
                )
        if (keyword := next((key for key in unheld(found) if key != "lookaround"), None)) is not None:
            raise SchemaNotUsableError(
                f"the schema uses {keyword!r}, which cannot be kept while the model writes. Take it out, and check it "
                "on the records afterwards"
            )
        found.setdefault("additionalProperties", False)
        unknown = [name for name in key if name not in found["properties"]]
        if unknown:
            raise SchemaNotUsableError(
                f"key {', '.join(unknown)}: no property of the schema; it has {', '.join(found['properties'])}"
            )
        texts = tuple(name for name, part in found["properties"].items() if _is_text(part))
        made = cls(found, key or texts or tuple(found["properties"]))
        made._check_grammar()
        return made

    @classmethod
    def read(cls, path: Path, key: tuple[str, ...] = ()) -> RecordSchema:
        """Read a schema from a JSON file; see `of`."""
        try:
            return cls.of(read_schema(path), key)
        except RequestError as error:
            raise SchemaNotUsableError(str(error)) from None
        except DocumentError as error:
            raise SchemaNotUsableError(f"{path}: {error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Properties in the order of the schema."""
        return tuple(self.schema["properties"])

    def item(self, boxes: Boxes, extent: tuple[int, int], pages: int) -> dict[str, Any]:
        """Schema of one entry of the model's list: page, boxes, record.

        Parameters
        ----------
        boxes : Boxes
        extent : tuple of int
            Largest x and y that the family writes.
        pages : int
            Highest page number.
        """
        record = _ending({k: v for k, v in self.schema.items() if k not in ("$defs", "definitions", "$schema")})
        x, y = ({"type": "integer", "minimum": 0, "maximum": int(side)} for side in extent)
        box = {"type": "array", "prefixItems": [x, y, x, y], "minItems": 4, "maxItems": 4, "items": False}
        properties: dict[str, Any] = {"page": {"type": "integer", "minimum": 1, "maximum": pages}}
        if boxes is Boxes.RECORD:
            properties["bbox_2d"] = box
        properties["record"] = record
        if boxes is Boxes.VALUE:
            properties["boxes"] = {
                "type": "object",
                "properties": dict.fromkeys(self.names, box),
                "additionalProperties": False,
            }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
            **self._definitions,
        }

    def asked(self, boxes: Boxes, extent: tuple[int, int], pages: int, most: int) -> dict[str, Any]:
        """Schema of the model's whole answer: a list of at most `most` entries; see `item`."""
        item = self.item(boxes, extent, pages)
        definitions = {key: item.pop(key) for key in self._definitions}
        return {"type": "array", "items": item, "maxItems": most, **definitions}

    @property
    def _definitions(self) -> dict[str, object]:
        return {key: self.schema[key] for key in ("$defs", "definitions") if key in self.schema}

    def valid(self, record: object) -> bool:
        """Whether a record is one by the user's schema."""
        return SchemaValidator(self.schema).is_valid(record)

    def _check_grammar(self) -> None:
        import xgrammar

        schema = json.dumps(self.asked(Boxes.VALUE, (1000, 1000), 1, 1))
        try:
            xgrammar.Grammar.from_json_schema(schema, any_whitespace=False)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise SchemaNotUsableError(
                f"the schema cannot be enforced: {reason}; use types, enums, properties, required and items"
            ) from error


def leaves_of(record: Mapping[str, object], path: str = "") -> Iterator[Leaf]:
    """The single values of a record with their paths, in its order; empty lists and objects have none."""
    items: Iterator[tuple[str, Any]] = ((f"{path}.{k}" if path else k, v) for k, v in record.items())
    for name, value in items:
        if isinstance(value, Mapping):
            yield from leaves_of(value, name)
        elif isinstance(value, list):
            for number, each in enumerate(value):
                if isinstance(each, Mapping):
                    yield from leaves_of(each, f"{name}[{number}]")
                elif isinstance(each, list):
                    yield from leaves_of({str(n): e for n, e in enumerate(each)}, f"{name}[{number}]")
                else:
                    yield f"{name}[{number}]", each
        else:
            yield name, value


def _is_text(part: object) -> bool:
    if not isinstance(part, Mapping):
        return False
    types = part.get("type")
    types = [types] if isinstance(types, str) else types or []
    return "string" in types or ("enum" in part and any(isinstance(v, str) for v in part["enum"]))


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def _ending(part: object) -> Any:
    """The schema with a longest length for texts and lists without one."""
    if isinstance(part, list):
        return [_ending(each) for each in part]
    if not isinstance(part, dict):
        return part
    found: dict[str, Any] = {
        key: {name: _ending(each) for name, each in value.items()}
        if key == "properties" and isinstance(value, dict)
        else value
        if key in ("enum", "const", "default", "examples", "required")
        else _ending(value)
        for key, value in part.items()
    }
    types = found.get("type")
    types = [types] if isinstance(types, str) else types or []
    free = not {"enum", "const", "pattern", "format", "maxLength"} & set(found)
    if "string" in types and free:
        found["maxLength"] = max(_LONGEST, found.get("minLength", 0))
    if "array" in types and "maxItems" not in found:
        found["maxItems"] = max(50, found.get("minItems", 0))
    return found
