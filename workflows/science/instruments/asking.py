"""How a model is asked for the values of a sheet, and what it answered, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.images.geometry import CoordinateSpace
from qwenvl.request import Generation, Request, Task
from workflows.science.instruments.values.sheet import FieldSpec, Sheet
from workflows.science.instruments.values.values import Reading, Spotted, ValueStatus, judge, nothing

_NUMBERS = {"type": "integer", "minimum": 0}


@dataclass(frozen=True)
class PhotographView:
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


def views_of(sheet: Sheet) -> list[PhotographView]:
    """The parts of a photograph that a sheet is read from, fields of one region together."""
    found: dict[Any, dict[str, FieldSpec]] = {}
    for name, field in sheet.fields.items():
        found.setdefault(field.region, {})[name] = field
    return [PhotographView(region, fields) for region, fields in found.items()]


class Form(Protocol):
    """How a model is asked for the fields of a view, and how its answer is read."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def request(
        self,
        view: PhotographView,
        *,
        space: CoordinateSpace,
        title: str | None = None,
        max_new_tokens: int | None = None,
    ) -> Request:
        """The question about one view; SheetError where its fields cannot be asked so."""
        ...

    def readings(self, view: PhotographView, answer: Answer) -> dict[str, Reading]:
        """What a complete answer says of every field of a view; boxes in px of the view's picture."""
        ...


@dataclass(frozen=True)
class ValuesForm:
    """One question for all fields, answered in JSON: for each the box, the characters and the unit shown, or null."""

    name: str = "values"

    def request(
        self,
        view: PhotographView,
        *,
        space: CoordinateSpace,
        title: str | None = None,
        max_new_tokens: int | None = None,
    ) -> Request:
        """The question about one view."""
        limit = 1000 if space is CoordinateSpace.RELATIVE_1000 else None
        return Request(
            task=Task.EXTRACT,
            prompt=_words(view, title),
            output_schema=answer_schema(view, limit=limit),
            generation=Generation(max_new_tokens=max_new_tokens or 64 + 96 * len(view.fields)),
        )

    def readings(self, view: PhotographView, answer: Answer) -> dict[str, Reading]:
        """What a complete answer says of every field of a view."""
        boxes = {item.label: item for item in answer.objects}
        found = {}
        for name, field in view.fields.items():
            told = answer.value.get(name) if isinstance(answer.value, Mapping) else None
            if told is None:
                found[name] = nothing(field, ValueStatus.EMPTY)
                continue
            place: TileObject | None = boxes.get(name)
            spotted = Spotted(
                str(told.get("text", "")),
                place.box if place else None,
                told.get("unit") or None,
                place.score if place else None,
            )
            found[name] = judge(field, spotted)
        return found


VALUES = ValuesForm()


def answer_schema(view: PhotographView, *, limit: int | None) -> dict[str, object]:
    """JSON Schema of an answer in the values form.

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
        found = {"type": "object", "properties": shown, "required": list(shown), "additionalProperties": False}
        properties[name] = {"anyOf": [found, {"type": "null"}]}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _words(view: PhotographView, title: str | None) -> str:
    lines = []
    for name, field in view.fields.items():
        facts = [field.description or "", f"in {field.unit}" if field.unit else ""]
        told = ", ".join(fact for fact in facts if fact)
        lines.append(f"- {name}{': ' if told else ''}{told}")
    subject = f" of {title}" if title else ""
    return (
        f"Read these values from the photograph{subject}:\n" + "\n".join(lines) + "\nFor each give bbox_2d around its "
        "characters (around the dial of a gauge), text exactly as it is shown, with all digits, and unit as it is "
        "shown beside it, or null where none is. Where the photograph does not show a value, or it cannot be read with "
        "certainty, give null in its place."
    )


def readings_of(view: PhotographView, form: Form, answer: Answer) -> dict[str, Reading]:
    """What an answer says of every field of a view; boxes in px of the view's picture."""
    if not answer.status.complete:
        why = answer.error or {
            Status.TRUNCATED: "the answer ended before its end",
            Status.REFUSED: "the model declined to answer",
        }.get(answer.status, f"the answer is {answer.status}")
        return {name: nothing(field, ValueStatus.FAILED, why) for name, field in view.fields.items()}
    return form.readings(view, answer)
