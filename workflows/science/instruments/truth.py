"""Known values of photographs: written by people for their own, or by the recipe that makes photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from workflows.science.instruments.errors import TruthError
from workflows.store.folder import replace_whole
from workflows.store.provenance import Facts

TRUTH = "truth.json"
Box = tuple[float, float, float, float]


class ValueTruth(Facts):
    """One value that a photograph shows."""

    field: str
    text: str = Field(description="The characters as they stand there.")
    value: float | None = Field(None, description="Null where the text is no number.")
    unit: str | None = Field(None, description="As shown; null where none is.")
    box: Box | None = Field(None, description="Around the characters, in px of the upright photograph.")
    tolerance: float | None = Field(None, description="How far a right value may be off; null is half a last digit.")
    characters: tuple[tuple[str, Box], ...] = Field((), description="Each character, and the unit, with its box.")

    @property
    def within(self) -> float:
        """How far a right value may be off."""
        if self.tolerance is not None:
            return self.tolerance
        decimals = len(self.text.partition(".")[2])
        return 0.5 * 10.0**-decimals


class PhotographTruth(Facts):
    """One photograph."""

    name: str = Field(description="Path of the file, relative to the folder of the truth.")
    kind: str = Field("", description="What is photographed.")
    width: int
    height: int
    values: tuple[ValueTruth, ...] = ()


class ReadingTruth(Facts):
    """The known values of a set of photographs."""

    schema_: Literal["napari-qwenvl/instruments-truth/1"] = Field("napari-qwenvl/instruments-truth/1", alias="schema")
    made_by: dict[str, JsonValue] = Field({}, description="Settings of what made the photographs; empty for own ones.")
    photographs: tuple[PhotographTruth, ...]

    @classmethod
    def read(cls, folder: Path) -> ReadingTruth:
        """Read the truth of a folder.

        Raises
        ------
        TruthError
            There is none, or it is damaged.
        """
        path = folder / TRUTH if folder.is_dir() else folder
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise TruthError(f"{path}: no known values ({error})") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise TruthError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def save(self, folder: Path) -> Path:
        """Write into a folder."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), ensure_ascii=False) + "\n"
        replace_whole(folder / TRUTH, lambda path: _put(path, text))
        return folder / TRUTH


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
