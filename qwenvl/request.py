"""The request: one immutable description of a question, built alike by widget, command line, Python and dask."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from qwenvl.constraints.json_schema import check_schema
from qwenvl.errors import RequestError
from qwenvl.images.marks import Mark
from qwenvl.scoring.calibration import Calibration

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


MIN_TILE = 32
"""Smallest side of a tile in px."""
SPLIT_TASKS = (Task.DETECT, Task.POINT, Task.COUNT)
"""Tasks whose crowded tiles can be split."""

_FIRST_FIELDS = frozenset(
    (
        "task",
        "labels",
        "prompt",
        "output_schema",
        "system_prompt",
        "mpp",
        "tile_size",
        "overlap",
        "min_tissue",
        "max_objects",
        "generation",
    )
)


class Generation(BaseModel):
    """How the model writes its answer. Greedy (temperature 0) unless told otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(512, ge=1, le=32768, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 decodes greedily.")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 keeps all tokens.")
    repetition_penalty: float = Field(1.0, ge=1.0, le=2.0)
    seed: int = Field(0, ge=0, description="Seed of sampling; without effect when greedy.")


class Where(BaseModel):
    """A cheap question about coarse tiles that decides where the request itself is asked.

    A yes/no question (`question`), or classes to choose from (`labels`) of which some are `wanted`. A place is
    looked at where the probability of yes, or of the wanted classes together, reaches `threshold`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str | None = Field(None, min_length=1, max_length=20000, description="A yes/no question.")
    labels: tuple[Label, ...] = Field((), description="Classes to choose from, instead of a question.")
    wanted: tuple[Label, ...] = Field((), description="Those of `labels` that are looked at.")
    mpp: float = Field(1.0, gt=0, le=100, description="Scale of the coarse tiles in um/px.")
    tile_size: int | None = Field(
        None, ge=MIN_TILE, le=8192, description="Side of a coarse tile in px; None takes that of the request."
    )
    overlap: int = Field(0, ge=0, description="Overlap of coarse tiles in px at `mpp`.")
    threshold: float = Field(0.5, ge=0.0, le=1.0, description="Least probability of a place to be looked at.")

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.question is None) == (not self.labels):
            raise ValueError("where: give a question, or labels to choose from, and not both")
        if self.labels and (len(self.labels) < 2 or len(set(self.labels)) != len(self.labels)):
            raise ValueError("where: labels needs at least two different classes to choose from")
        if bool(self.labels) != bool(self.wanted) or not set(self.wanted) <= set(self.labels):
            raise ValueError(f"where: wanted {list(self.wanted)} must name some of the labels {list(self.labels)}")
        return self


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
        None, gt=0, le=100, description="Scale of the tiles in um/px; None takes the pixels of level 0 as they are."
    )
    tile_size: int = Field(448, ge=MIN_TILE, le=8192, description="Side of a tile in px at `mpp`.")
    overlap: int = Field(64, ge=0, description="Overlap of neighbouring tiles in px at `mpp`.")
    min_tissue: float = Field(0.0, ge=0.0, le=1.0, description="Tiles with a smaller share of tissue are left out.")
    max_objects: int = Field(100, ge=1, le=2000, description="Most objects kept of one tile's answer.")
    generation: Generation = Field(default_factory=Generation)
    split: int = Field(
        0,
        ge=0,
        le=3,
        description="How often a tile that is truncated, loops or is crowded is asked again in four magnified parts "
        "(detect, point, count); 0 never.",
    )
    crowded: int = Field(
        40,
        ge=1,
        le=2000,
        description="Objects from which a tile is crowded; one with `max_objects` always is. Needs `split`.",
    )
    where: Where | None = Field(None, description="Ask coarse tiles first, and this request only where they say so.")
    token_budget: int | None = Field(
        None,
        ge=1,
        description="Most prompt tokens for the tiles of the slide: `mpp` where there is much to see, coarser "
        "elsewhere, as far as they go. Splits of crowded tiles and the coarse tiles of `where` come on top.",
    )
    calibration: Calibration | None = Field(
        None,
        description="What turns the model's probabilities into calibrated ones (score, classify); of this very "
        "question and model.",
    )
    colour: Literal["stored", "srgb"] = Field(
        "stored", description="Colours of the pixels: as the file stores them, or converted to sRGB by its ICC profile."
    )
    marks: tuple[Mark, ...] = Field(
        (),
        max_length=200,
        description="Drawn on every picture that is asked about, in px of it; for questions about one tile.",
    )

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
                check_schema(self.output_schema)
            except RequestError as error:
                raise ValueError(f"output_schema: {error}") from None
        if self.split and self.task not in SPLIT_TASKS:
            raise ValueError(f"split: task {self.task} finds nothing to count; only {', '.join(SPLIT_TASKS)} can split")
        coarse = None if self.where is None else self.where.tile_size or self.tile_size
        if self.where is not None and coarse is not None and self.where.overlap * 2 > coarse:
            raise ValueError(f"where: overlap {self.where.overlap} px is more than half of a tile of {coarse} px")
        if self.calibration is not None and self.task not in (Task.SCORE, Task.CLASSIFY):
            raise ValueError(f"calibration: task {self.task} has no probabilities; only score and classify do")
        if self.calibration is not None and self.calibration.question != self.question:
            raise ValueError(
                "calibration: it was fitted on another question; words, labels, mpp and tile_size must be the same"
            )
        return self

    @property
    def question(self) -> str:
        """Hash of what decides about the probabilities of an answer, apart from the model: words and scale."""
        named = {"task", "labels", "prompt", "system_prompt", "mpp", "tile_size", "marks"}
        if self.colour != "stored":
            named.add("colour")
        text = json.dumps(self.model_dump(mode="json", include=named), sort_keys=True, ensure_ascii=False)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    @property
    def hash(self) -> str:
        """'sha256:' and 32 hexadecimal digits over the canonical JSON of the fields.

        Fields that came after the first release count only where they are not at their default, so that a
        request of an earlier release keeps its hash and its runs.
        """
        fields = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            if name not in _FIRST_FIELDS and getattr(self, name) == field.get_default(call_default_factory=True):
                del fields[name]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
