"""The sheet: which values to read off a photograph, with type, unit and range; YAML or JSON Schema of the user."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workflows.science.instruments.errors import SheetError
from workflows.science.instruments.values.units import same_unit

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]{0,59}")
_TAKEN = frozenset(
    (
        "type",
        "title",
        "description",
        "minimum",
        "maximum",
        "pattern",
        "enum",
        "unit",
        "x-unit",
        "x-decimals",
        "x-region",
        "examples",
        "default",
    )
)
_ROOT = frozenset(("type", "title", "description", "properties", "required", "additionalProperties", "$schema", "$id"))


class FieldSpec(BaseModel):
    """One value to read."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    type: Literal["number", "integer", "string"] = "number"
    unit: str | None = Field(None, min_length=1, max_length=20, description="The value's unit.")
    minimum: float | None = Field(None, alias="min", allow_inf_nan=False)
    maximum: float | None = Field(None, alias="max", allow_inf_nan=False)
    decimals: int | None = Field(None, ge=0, le=9, description="Decimals that the instrument shows, always.")
    pattern: str | None = Field(
        None, max_length=500, description="Regular expression that a string matches somewhere, as in JSON Schema."
    )
    enum: tuple[str, ...] = Field((), description="The only strings that can be.")
    description: str | None = Field(None, max_length=400, description="Words for the model.")
    required: bool = Field(False, description="A photograph without it is incomplete.")
    region: tuple[float, float, float, float] | None = Field(
        None, description="Where it always is: x_min, y_min, x_max, y_max in px of the upright photograph."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        number = self.type != "string"
        if not number and (self.minimum is not None or self.maximum is not None or self.decimals is not None):
            raise ValueError("a string has no min, max or decimals")
        if number and (self.pattern is not None or self.enum):
            raise ValueError("pattern and enum are for strings")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"min {self.minimum:g} is greater than max {self.maximum:g}")
        if self.type == "integer" and self.decimals:
            raise ValueError("an integer has no decimals")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from error
        if self.region is not None and not (self.region[0] < self.region[2] and self.region[1] < self.region[3]):
            raise ValueError(f"region {list(self.region)} is not x_min, y_min, x_max, y_max")
        return self

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of the value."""
        schema: dict[str, Any] = {"type": self.type}
        for key, value in (("minimum", self.minimum), ("maximum", self.maximum), ("pattern", self.pattern)):
            if value is not None:
                schema[key] = value
        if self.enum:
            schema["enum"] = list(self.enum)
        return schema


class Sheet(BaseModel):
    """The values to read, by name.

    Examples
    --------
    >>> sheet = Sheet.of({"fields": {"temperature": {"unit": "°C", "min": -90, "max": 60}}})
    >>> sheet.json_schema()["properties"]["temperature"]["type"]
    ['number', 'null']
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str | None = Field(None, max_length=200, description="What is photographed, in the user's words.")
    fields: dict[str, FieldSpec] = Field(min_length=1, max_length=60)

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.fields:
            if not _NAME.fullmatch(name):
                raise ValueError(f"field {name!r}: begin with a letter, then letters, digits, '_', '-' and spaces")
        return self

    @classmethod
    def load(cls, path: Path) -> Sheet:
        """Read a sheet.

        Parameters
        ----------
        path : Path
            YAML (`fields:` with type, unit, min, max ... by name), or a JSON Schema of a flat object.

        Raises
        ------
        SheetError
            Not readable, contradictory, or using parts of JSON Schema that cannot be asked of a model.
        """
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SheetError(f"{path} cannot be read as YAML or JSON: {error}") from error
        try:
            return cls.of(content)
        except SheetError as error:
            raise SheetError(f"{path}: {error}") from None

    @classmethod
    def of(cls, content: object) -> Sheet:
        """A sheet of the parsed content of its file.

        Raises
        ------
        SheetError
        """
        if not isinstance(content, Mapping):
            raise SheetError(
                f"a sheet is a mapping with 'fields' (or a JSON Schema with 'properties'), not {type(content).__name__}"
            )
        document = _from_json_schema(content) if "properties" in content else dict(content)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = str(first["msg"]).removeprefix("Value error, ")
            raise SheetError(f"{where}: {message}" if where else message) from None

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of one photograph's values: every field is its value, or null where not read."""
        properties = {}
        for name, field in self.fields.items():
            schema = field.json_schema()
            schema["type"] = [schema["type"], "null"]
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
            if field.unit is not None:
                schema["unit"] = field.unit
            properties[name] = schema
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": list(self.fields),
            "additionalProperties": False,
        }


def _from_json_schema(schema: Mapping[str, Any]) -> dict[str, object]:
    """The sheet that a flat JSON Schema describes; whatever it could not keep to is refused, never dropped."""
    unknown = sorted(set(schema) - _ROOT)
    if unknown or schema.get("type", "object") != "object":
        raise SheetError(
            f"this JSON Schema uses {', '.join(unknown) or 'another type than object'}, which cannot be asked of a "
            "model; use one object with 'properties' of numbers, integers and strings"
        )
    properties, required = schema["properties"], schema.get("required", [])
    if not isinstance(properties, Mapping):
        raise SheetError("properties: a mapping of names to schemas")
    missing = sorted(set(required) - set(properties))
    if missing:
        raise SheetError(f"required: {', '.join(missing)} is not among the properties")
    fields = {str(name): _field(str(name), part, name in required) for name, part in properties.items()}
    return {"title": schema.get("title"), "fields": fields}


def _field(name: str, part: object, required: bool) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise SheetError(f"properties.{name}: a schema is a mapping")
    unknown = sorted(set(part) - _TAKEN)
    told = part.get("type") or "string"
    kinds = [told] if isinstance(told, str) else list(told)
    kinds = [kind for kind in kinds if kind != "null"]
    if unknown or len(kinds) != 1 or kinds[0] not in ("number", "integer", "string"):
        what = ", ".join(unknown) or f"type {part.get('type')!r}"
        raise SheetError(
            f"properties.{name}: {what} cannot be asked of a model here; a field is a number, an integer or a string "
            f"with {', '.join(sorted(_TAKEN - {'type', 'title', 'examples', 'default'}))}"
        )
    units = [part[key] for key in ("unit", "x-unit") if part.get(key) is not None]
    if len(units) == 2 and not same_unit(str(units[0]), str(units[1])):
        raise SheetError(f"properties.{name}: units {units[0]!r} and {units[1]!r} contradict each other")
    found = {
        "type": kinds[0],
        "unit": units[0] if units else None,
        "minimum": part.get("minimum"),
        "maximum": part.get("maximum"),
        "pattern": part.get("pattern"),
        "description": part.get("description"),
        "enum": [word for word in part.get("enum", ()) if word is not None],
        "decimals": part.get("x-decimals"),
        "region": part.get("x-region"),
        "required": required,
    }
    return {key: value for key, value in found.items() if value not in (None, [])}


def sheet_text(sheet: Sheet) -> str:
    """A sheet as YAML, what is at its default left out."""
    import yaml

    content = json.loads(sheet.model_dump_json(by_alias=True, exclude_defaults=True))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
