"""How a model is asked for the values of a sheet, and what it answered, field by field.

Two forms. `values` asks one question for all fields and takes JSON: for each the box, the characters and the unit
shown, or null. `characters` asks for every character with its box and puts numbers together from them: what small
models can learn, and where each digit carries its own place and confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.geometry import CoordinateSpace
from qwenvl.request import Generation, Request, Task
from workflows.instruments.errors import SheetError
from workflows.instruments.sheet import FieldSpec, Sheet
from workflows.instruments.spotted import GLYPHS, Spotted, lines_of
from workflows.instruments.units import same_unit
from workflows.instruments.values import Reading, ValueStatus, judge, nothing

CHARACTERS_PROMPT = "Locate every number. Report bbox_2d and label in JSON format."
DISPLAY_UNITS = ("°C", "%", "g", "pH", "rpm")
"""Units that the factory's displays show, and a model of its samples knows."""
_NUMBERS = {"type": "integer", "minimum": 0}


class Form(StrEnum):
    """How a model is asked."""

    VALUES = "values"
    CHARACTERS = "characters"


@dataclass(frozen=True)
class View:
    """A part of every photograph that is asked about at once.

    Attributes
    ----------
    region : tuple or None
        x_min, y_min, x_max, y_max in px of the upright photograph; None for all of it.
    fields : mapping
        What is read there.
    """

    region: tuple[float, float, float, float] | None
    fields: Mapping[str, FieldSpec]


def views_of(sheet: Sheet) -> list[View]:
    """The parts of a photograph that a sheet is read from, fields of one region together."""
    found: dict[Any, dict[str, FieldSpec]] = {}
    for name, field in sheet.fields.items():
        found.setdefault(field.region, {})[name] = field
    return [View(region, fields) for region, fields in found.items()]


def request_of(
    view: View, form: Form, *, space: CoordinateSpace, title: str | None = None, max_new_tokens: int | None = None
) -> Request:  # fmt: skip
    """The question about one view.

    Raises
    ------
    SheetError
        Characters are asked of fields that are no numbers, or that nothing tells apart.
    """
    if form is Form.VALUES:
        limit = 1000 if space is CoordinateSpace.RELATIVE_1000 else None
        return Request(
            task=Task.EXTRACT, prompt=_words(view, title), output_schema=answer_schema(view, limit=limit),
            generation=Generation(max_new_tokens=max_new_tokens or 64 + 96 * len(view.fields)),
        )  # fmt: skip
    words = [name for name, field in view.fields.items() if field.type == "string"]
    if words:
        raise SheetError(
            f"form 'characters' reads numbers only; {', '.join(words)} is a string: use form 'values' with a larger "
            "model"
        )
    units = [field.unit for field in view.fields.values()]
    for number, unit in enumerate(units):
        if len(units) > 1 and (unit is None or any(same_unit(unit, other or "") for other in units[:number])):
            raise SheetError(
                f"{', '.join(view.fields)} are read from one view and not told apart by their units; give each a region"
            )
    return characters_request(max_new_tokens)


def characters_request(max_new_tokens: int | None = None) -> Request:
    """The question for every character."""
    return Request(
        task=Task.DETECT, labels=(*GLYPHS, *DISPLAY_UNITS), prompt=CHARACTERS_PROMPT, max_objects=40,
        generation=Generation(max_new_tokens=max_new_tokens or 480),
    )  # fmt: skip


def answer_schema(view: View, *, limit: int | None) -> dict[str, Any]:
    """JSON Schema of an answer in the form `values`.

    Parameters
    ----------
    limit : int, optional
        Largest coordinate that the family writes; None where that depends on the picture.
    """
    number = _NUMBERS if limit is None else {**_NUMBERS, "maximum": limit}
    properties = {}
    for name, field in view.fields.items():
        text: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 60}
        if field.enum:
            text = {"enum": list(field.enum)}
        elif field.type != "string":
            text = {"type": "string", "pattern": r"^[+-]?[0-9]{1,12}([.,][0-9]{1,9})?$"}
        box = {"type": "array", "prefixItems": [number] * 4, "minItems": 4, "items": False}
        shown = {
            "bbox_2d": box,
            "text": text,
            "unit": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
        }
        found = {
            "type": "object",
            "properties": shown,
            "required": list(shown),
            "additionalProperties": False,
        }
        properties[name] = {"anyOf": [found, {"type": "null"}]}
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


def _words(view: View, title: str | None) -> str:
    lines = []
    for name, field in view.fields.items():
        facts = [field.description or "", f"in {field.unit}" if field.unit else ""]
        told = ", ".join(fact for fact in facts if fact)
        lines.append(f"- {name}{': ' if told else ''}{told}")
    subject = f" of {title}" if title else ""
    return (
        f"Read these values from the photograph{subject}:\n"
        + "\n".join(lines)
        + "\nFor each give bbox_2d around its "
        "characters (around the dial of a gauge), text exactly as it is shown, with all digits, and unit as it is "
        "shown beside it, or null where none is. Where the photograph does not show a value, or it cannot be read with "
        "certainty, give null in its place."
    )


def readings_of(view: View, form: Form, answer: Answer) -> dict[str, Reading]:
    """What an answer says of every field of a view; boxes in px of the view's picture."""
    if not answer.status.complete:
        why = answer.error or {
            Status.TRUNCATED: "the answer ended before its end", Status.REFUSED: "the model declined to answer",
        }.get(answer.status, f"the answer is {answer.status}")  # fmt: skip
        return {name: nothing(field, ValueStatus.FAILED, why) for name, field in view.fields.items()}
    if form is Form.VALUES:
        return _from_values(view, answer)
    return _from_characters(view, lines_of(answer.objects))


def _from_values(view: View, answer: Answer) -> dict[str, Reading]:
    boxes = {item.label: item for item in answer.objects}
    found = {}
    for name, field in view.fields.items():
        told = answer.value.get(name) if isinstance(answer.value, Mapping) else None
        if told is None:
            found[name] = nothing(field, ValueStatus.EMPTY)
            continue
        place: TileObject | None = boxes.get(name)
        spotted = Spotted(
            str(told.get("text", "")), place.box if place else None, told.get("unit") or None,
            place.score if place else None,
        )  # fmt: skip
        found[name] = judge(field, spotted)
    return found


def _from_characters(view: View, lines: Sequence[Spotted]) -> dict[str, Reading]:
    if len(view.fields) == 1:
        ((name, field),) = view.fields.items()
        own = [line for line in lines if field.unit and line.unit and same_unit(line.unit, field.unit)]
        chosen = own if len(lines) > 1 else lines
        if not lines:
            return {name: nothing(field, ValueStatus.EMPTY)}
        if len(chosen) == 1:
            return {name: judge(field, chosen[0])}
        return {name: nothing(field, ValueStatus.INVALID, _several(lines))}
    found = {}
    unnamed = [line for line in lines if line.unit is None]
    for name, field in view.fields.items():
        own = [line for line in lines if line.unit and field.unit and same_unit(line.unit, field.unit)]
        if len(own) == 1:
            found[name] = judge(field, own[0])
        elif own:
            found[name] = nothing(field, ValueStatus.INVALID, _several(own))
        elif unnamed:
            found[name] = nothing(
                field, ValueStatus.INVALID, f"{_several(unnamed)}, without a unit that says which is {name}"
            )
        else:
            found[name] = nothing(field, ValueStatus.EMPTY)
    return found


def _several(lines: Sequence[Spotted]) -> str:
    return (
        f"{len(lines)} number{'s' * (len(lines) != 1)} stand there: {', '.join(line.text for line in lines)}"
    )
