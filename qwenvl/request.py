"""The request: one immutable description of a question, built alike by widget, command line, Python and dask."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Self

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]


class Task(StrEnum):
    """What is asked of every tile."""

    DETECT = "detect"
    POINT = "point"
    COUNT = "count"
    CLASSIFY = "classify"
    SCORE = "score"
    DESCRIBE = "describe"
    ASK = "ask"
    EXTRACT = "extract"


class Generation(BaseModel):
    """How the model writes its answer. Greedy (temperature 0) unless told otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(512, ge=1, le=32768, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 decodes greedily.")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 keeps all tokens.")
    repetition_penalty: float = Field(1.0, ge=1.0, le=2.0)
    seed: int = Field(0, ge=0, description="Seed of sampling; without effect when greedy.")


class Request(BaseModel):
    """A question about every tile of a slide, and the scale at which it is asked.

    Two requests with the same `hash` ask the same thing; the hash is part of every run's provenance.

    Raises
    ------
    pydantic.ValidationError
        A field is out of range, or the fields do not fit the task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    labels: tuple[Label, ...] = Field(
        (), description="What to find (detect, point, count) or to choose from (classify)."
    )
    prompt: str | None = Field(
        None,
        min_length=1,
        max_length=20000,
        description="The question of `ask`, the yes/no question of `score`, or the user's own words for a task.",
    )
    output_schema: dict[str, Any] | None = Field(None, description="JSON Schema of the answer of `extract`.")
    system_prompt: str | None = Field(None, max_length=20000, description="None keeps the family's default.")
    mpp: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Scale of the tiles in um/px; None takes the pixels of level 0 as they are.",
    )
    tile_size: int = Field(448, ge=32, le=8192, description="Side of a tile in px at `mpp`.")
    overlap: int = Field(64, ge=0, description="Overlap of neighbouring tiles in px at `mpp`.")
    min_tissue: float = Field(
        0.0, ge=0.0, le=1.0, description="Tiles with a smaller share of tissue are left out."
    )
    max_objects: int = Field(100, ge=1, le=2000, description="Most objects kept of one tile's answer.")
    generation: Generation = Field(default_factory=Generation)

    @model_validator(mode="after")
    def _fields_fit_the_task(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels: {list(self.labels)} names a label twice")
        if self.overlap * 2 > self.tile_size:
            raise ValueError(
                f"overlap: {self.overlap} px is more than half of tile_size {self.tile_size} px; "
                f"use at most {self.tile_size // 2}"
            )
        if self.task in (Task.DETECT, Task.POINT, Task.COUNT) and not (self.labels or self.prompt):
            raise ValueError(f"labels: task {self.task} needs at least one label, for example 'nucleus'")
        if self.task is Task.CLASSIFY and len(self.labels) < 2:
            raise ValueError("labels: task classify needs at least two labels to choose from")
        if self.task in (Task.SCORE, Task.ASK) and not self.prompt:
            raise ValueError(f"prompt: task {self.task} needs a question")
        if (self.output_schema is not None) != (self.task is Task.EXTRACT):
            raise ValueError("output_schema: task extract needs a JSON Schema, and no other task takes one")
        if self.output_schema is not None:
            try:
                validator_for(self.output_schema).check_schema(self.output_schema)
            except SchemaError as error:
                raise ValueError(f"output_schema: not a valid JSON Schema: {error.message}") from error
        return self

    @property
    def hash(self) -> str:
        """'sha256:' and 32 hexadecimal digits over the canonical JSON of every field."""
        text = json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
