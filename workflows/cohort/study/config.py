"""The study: one validated document that says what is asked of every slide of a cohort, and how it is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwenvl.request import SPLIT_TASKS, Request
from workflows.errors import StudyError
from workflows.run.quality import QualitySettings
from wsi.regions.frames import PixelFrame

SCHEMA_ID = "napari-qwenvl-study-1"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Section):
    """The model that answers. Every worker loads it once and keeps it between slides."""

    name: str = Field("embedded", min_length=1, description="'embedded', a folder, or a hub name.")
    adapter: str | None = Field(None, description="Folder of a LoRA adapter.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps. 'auto' shares a host's GPUs out.")
    dtype: str = Field("auto", description="auto, float32, bfloat16, float16.")
    quantise: str | None = Field(
        None, pattern="^(4bit|8bit)$", description="4bit or 8bit: the language model's weights in fewer bits."
    )
    server: str | None = Field(None, description="URL of an OpenAI-compatible server; `name` is then its model.")
    family: str | None = Field(None, description="Family of a served model whose name does not tell.")
    concurrency: int = Field(16, ge=1, le=1024, description="Requests under way at a server, all workers together.")
    engine: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="'module:function' that returns an Engine of your own, in place of a checkpoint or server: code, "
        "which is run only with --allow-code.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        own = (self.adapter, self.engine, self.quantise)
        if self.server is not None and any(each is not None for each in own):
            raise ValueError("server: a served model takes neither adapter, engine nor quantise")
        return self


class SlideSettings(_Section):
    """How slides are opened, where the cohort table does not say it slide by slide."""

    mask: str = Field("auto", description="'auto', 'brightfield', 'fluorescence', 'all', or a GeoJSON.")
    frame: PixelFrame | None = Field(
        None,
        description="Frame of masks whose GeoJSON does not record it: 'qupath' or 'level0'; needed where QuPath crops.",
    )
    mpp: float | None = Field(None, gt=0, description="um per level-0 px of slides that do not state it.")
    plane: str | None = Field(None, description="Plane of a stack: 't=0,z=3'.")
    rendering: str | None = Field(None, description="Channels to colours: '0:red:0-4095,1:green'.")
    series: int | None = Field(None, ge=0, description="Image series of the file.")


class ClusterSettings(_Section):
    """Where the work is done."""

    scheduler: str | None = Field(
        None, description="Address of a running dask scheduler, such as 'tcp://host:8786'. None starts one here."
    )
    workers: int | None = Field(
        None, ge=1, le=1024, description="Processes on this machine. None: one per GPU, else by cores."
    )
    dashboard: str = Field(":0", description="Address of the dashboard of a cluster started here.")
    part_tiles: int = Field(
        4096, ge=1, description="A slide with more open tiles is shared out in parts of about this size."
    )
    losses: int = Field(3, ge=0, le=100, description="Workers that a slide may lose before it counts as failed.")


class Study(_Section):
    """What `qwenvl batch --config` reads."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID},
    )

    request: Request = Field(
        description="What is asked of every tile. mpp, tile_size, overlap, max_objects and max_new_tokens that are "
        "not given are the checkpoint's recommendation."
    )
    model: ModelSettings = Field(default_factory=ModelSettings)
    slides: SlideSettings = Field(default_factory=SlideSettings)
    quality: QualitySettings = Field(default_factory=lambda: QualitySettings(mode="mark"))
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    exports: tuple[Literal["geojson", "csv"], ...] = Field(
        (), description="Files written into every run folder: objects.geojson.gz, objects.csv."
    )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a study from YAML or JSON.

        Raises
        ------
        StudyError
            The file cannot be read or does not fit the schema; every fault is named with its place.
        """
        import yaml

        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StudyError(f"{path} cannot be read as YAML: {reason}.") from error
        if not isinstance(document, dict):
            raise StudyError(
                f"{path} is no study: it needs at least a section 'request', such as "
                "request: {task: detect, labels: [nucleus]}."
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            faults = "; ".join(_in_words(fault) for fault in error.errors())
            raise StudyError(f"{path} does not fit the schema (qwenvl schema study): {faults}") from error


def effective_request(request: Request, recommended: Mapping[str, object]) -> Request:
    """A request whose fields that nobody gave are those that the checkpoint recommends."""
    given: dict[str, object] = {name: getattr(request, name) for name in request.model_fields_set}
    split = ("split", "crowded") if request.task in SPLIT_TASKS else ()
    for name in ("mpp", "tile_size", "overlap", "max_objects", *split):
        if name not in given and recommended.get(name) is not None:
            given[name] = recommended[name]
    longest = recommended.get("max_new_tokens")
    if longest is not None and "max_new_tokens" not in request.generation.model_fields_set:
        given["generation"] = request.generation.model_copy(update={"max_new_tokens": longest})
    return Request(**given)


def study_schema() -> str:
    """The published JSON Schema of studies, as the text of `docs/schema/study-1.json`."""
    return json.dumps(Study.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _in_words(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
