"""The report of a batch of photographs: one JSON file, and the same as a table."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError

from qwenvl.request import Request
from workflows.errors import RunNotFoundError
from workflows.science.instruments.values.values import Reading, ValueStatus
from workflows.store.folder import replace_whole
from workflows.store.provenance import Facts, ModelFacts

REPORT, TABLE, SHEET, PICTURES = "instruments.json", "values.csv", "sheet.yaml", "pictures"


class PhotographReport(Facts):
    """One photograph."""

    name: str = Field(description="File name.")
    path: str = Field(description="Path on the machine that read it.")
    fingerprint: str | None = Field(description="Hash of the file's content; null where it could not be opened.")
    width: int | None = Field(description="In px, upright; null where it could not be read.")
    height: int | None
    complete: bool = Field(description="Every required field was read.")
    values: dict[str, JsonValue] = Field(description="Value of every field, null where it was not read.")
    readings: dict[str, Reading]
    answers: tuple[str, ...] = Field((), description="The model's own words, one per view.")
    error: str | None = None


class InstrumentReport(Facts):
    """A batch."""

    schema_: Literal["napari-qwenvl/instruments/1"] = Field("napari-qwenvl/instruments/1", alias="schema")
    created: str = Field(description="Time, UTC, ISO 8601.")
    model: ModelFacts
    form: str = Field(description="How the model was asked: 'values', or 'characters' by the recipe of small models.")
    side: int | None = Field(description="Length of the longer side that the model was shown, in px.")
    least_score: float = Field(description="Values less sure than this are not given.")
    requests: tuple[Request, ...] = Field(description="One per view of the photographs.")
    request_hashes: tuple[str, ...]
    sheet: dict[str, JsonValue] = Field(description="The fields, as given.")
    value_schema: dict[str, JsonValue] = Field(description="JSON Schema that `values` of every photograph is valid by.")
    counts: dict[str, int] = Field(description="Fields by status, over all photographs.")
    versions: dict[str, str]
    photographs: tuple[PhotographReport, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a report.

        Parameters
        ----------
        path : Path
            The file, or its folder.

        Raises
        ------
        RunNotFoundError
            There is none, or it is no report of this version.
        """
        file = path / REPORT if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RunNotFoundError(f"{file}: no report of instruments ({error})") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunNotFoundError(
                f"{file} is no report of instruments of this version: {where}: {first['msg']}"
            ) from error

    def save(self, folder: Path) -> Path:
        """Write the report and its table into a folder."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), ensure_ascii=False, indent=1) + "\n"
        replace_whole(folder / REPORT, lambda path: _write(path, text))
        replace_whole(folder / TABLE, lambda path: _write(path, self.table()))
        return folder / REPORT

    def table(self) -> str:
        """CSV: one row per photograph and field, the value empty where there is none."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            [
                "photograph",
                "field",
                "status",
                "value",
                "unit",
                "text",
                "unit_shown",
                "score",
                "x_min",
                "y_min",
                "x_max",
                "y_max",
                "reasons",
            ]
        )
        for photograph in self.photographs:
            for name, one in photograph.readings.items():
                box = [round(v, 1) for v in one.box] if one.box else [""] * 4
                cells: list[object] = [photograph.name, name, one.status, one.value, one.unit, one.text, one.unit_shown]
                cells += [None if one.score is None else round(one.score, 4), *box, "; ".join(one.reasons)]
                writer.writerow(["" if cell is None else _plain(cell) for cell in cells])
        return stream.getvalue()


def counts_of(photographs: Iterable[PhotographReport]) -> dict[str, int]:
    """Fields by status."""
    found = Counter(str(one.status) for photograph in photographs for one in photograph.readings.values())
    return {str(status): found.get(str(status), 0) for status in ValueStatus}


def _plain(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "@") else cell


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
